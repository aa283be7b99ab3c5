"""The Portia client against the embedded runtime: both sides of the contract, over real HTTP."""

from __future__ import annotations

import time
import uuid

import pytest

from executions.portia import errors
from executions.portia.client import PortiaClient, portia
from executions.portia.wire import PortiaClarification, PortiaPlan, PortiaPlanRun, PortiaStep
from tests.portia_runtime.runtime_fixture import portia_runtime

__all__ = ["portia_runtime"]

TERMINAL = {"completed", "failed", "cancelled"}


@pytest.fixture
def client(portia_runtime, settings) -> PortiaClient:
    settings.PORTIA_BASE_URL = portia_runtime.base_url
    return portia()


def step(name: str, **facts: object) -> PortiaStep:
    return PortiaStep(**{"id": name, "name": name, "type": "action", "tool": "echo"} | facts)


def plan_of(*steps: PortiaStep, **facts: object) -> PortiaPlan:
    tools = sorted({one.tool for one in steps if one.tool})
    return PortiaPlan(
        **{"plan_id": f"plan-{uuid.uuid4()}", "name": "Trial", "allowed_tools": tools} | facts, steps=[*steps]
    )


def start(client: PortiaClient, *steps: PortiaStep, key: str = "", **arguments: object) -> PortiaPlanRun:
    plan = plan_of(*steps)
    client.create_plan(plan, tenant="acme")
    return client.create_run(plan.plan_id, tenant="acme", idempotency_key=key or str(uuid.uuid4()), **arguments)


def until(client: PortiaClient, run: PortiaPlanRun, *statuses: str) -> PortiaPlanRun:
    end = time.monotonic() + 20
    while run.status not in statuses and time.monotonic() < end:
        run = client.get_run(run.run_id, tenant="acme", wait=5, since=run.version)
    assert run.status in statuses, run
    return run


def asked(client: PortiaClient, **facts: object) -> tuple[PortiaPlanRun, PortiaClarification]:
    """A run that waits for the answer to one question."""
    run = until(client, start(client, step("gate", tool=None, **facts)), "paused")
    [clarification] = client.get_clarifications(run.run_id, tenant="acme", status="pending")
    assert run.pending_clarifications == [clarification.clarification_id]
    return run, clarification


APPROVAL = {"type": "approval", "approval": {"title": "Refund?", "message": "Refund order A-17?", "timeout": 600}}
CHOICE = {"type": "user_input", "parameters": {"message": "Which account?", "options": ["main", "reserve"]}}


def test_the_runtime_offers_every_optional_feature_the_client_knows(client):
    health = client.health_check()
    assert health.ok
    assert {"batch_runs", "long_poll", "idempotency"} <= client.capabilities()


def test_the_runtime_lists_its_tools(client):
    tools = {tool.id: tool for tool in client.tools(tenant="acme")}
    assert {"echo", "wait", "fail"} <= tools.keys()
    assert tools["echo"].args_schema["type"] == "object"


def test_the_same_plan_twice_is_one_plan_and_other_content_a_conflict(client):
    plan = plan_of(step("only"))
    stored = client.create_plan(plan, tenant="acme")
    again = client.create_plan(plan, tenant="acme")
    assert stored == again == client.get_plan(plan.plan_id, tenant="acme")
    with pytest.raises(errors.PlanConflict):
        client.create_plan(plan_of(step("other"), plan_id=plan.plan_id), tenant="acme")


def test_a_plan_with_an_unknown_tool_is_refused_with_its_place(client):
    with pytest.raises(errors.InvalidPlan) as caught:
        client.create_plan(plan_of(step("only", tool="no_such_tool")), tenant="acme")
    assert any("tool" in error["loc"] for error in caught.value.errors)


def test_a_run_goes_from_parameters_to_results(client):
    run = start(client, step("say", parameters={"message": "{{who}}"}), parameters={"who": "alice"})
    done = until(client, run, *TERMINAL)
    assert (done.status, done.progress, [one.status for one in done.steps]) == ("completed", 1.0, ["completed"])
    assert "alice" in str(done.results["say"])
    assert done.version > run.version or run.status == "completed"
    assert done.completed_at.utcoffset().total_seconds() == 0


def test_the_same_key_finds_the_same_run_and_another_body_is_refused(client):
    plan, key = plan_of(step("only")), str(uuid.uuid4())
    client.create_plan(plan, tenant="acme")
    first = client.create_run(plan.plan_id, tenant="acme", idempotency_key=key, parameters={"n": 1})
    second = client.create_run(plan.plan_id, tenant="acme", idempotency_key=key, parameters={"n": 1})
    assert first.run_id == second.run_id
    with pytest.raises(errors.PortiaRejected) as caught:
        client.create_run(plan.plan_id, tenant="acme", idempotency_key=key, parameters={"n": 2})
    assert caught.value.code == "idempotency_key_reused"


def test_a_batch_tells_the_known_from_the_unknown(client):
    runs = [start(client, step("only")) for _ in range(3)]
    ids = [run.run_id for run in runs]
    found, missing = client.get_runs([*ids, "prun-nobody"], tenant="acme")
    assert ([run.run_id for run in found], missing) == (ids, ["prun-nobody"])


def test_the_runs_of_a_tenant_are_listed(client):
    run = until(client, start(client, step("only")), *TERMINAL)
    runs, _ = client.list_runs(tenant="acme", status="completed")
    assert run.run_id in {one.run_id for one in runs}


def test_another_tenants_objects_are_not_there(client):
    run, clarification = asked(client, **APPROVAL)
    with pytest.raises(errors.RunNotFound):
        client.get_run(run.run_id, tenant="mallory")
    with pytest.raises(errors.PlanNotFound):
        client.get_plan(run.plan_id, tenant="mallory")
    with pytest.raises(errors.ClarificationNotFound):
        client.get_clarification(clarification.clarification_id, tenant="mallory")
    assert client.get_runs([run.run_id], tenant="mallory") == ([], [run.run_id])


def test_what_nobody_knows_is_named_by_kind(client):
    with pytest.raises(errors.PlanNotFound):
        client.create_run("plan-nobody", tenant="acme", idempotency_key=str(uuid.uuid4()))
    with pytest.raises(errors.RunNotFound):
        client.cancel_run("prun-nobody", tenant="acme")
    with pytest.raises(errors.ClarificationNotFound):
        client.get_clarification("clar-nobody", tenant="acme")


def test_an_approved_question_lets_the_run_end(client):
    run, clarification = asked(client, **APPROVAL)
    assert (clarification.category, clarification.title) == ("User Verification", "Refund?")
    decision = {"tenant": "acme", "approver_id": "bob", "action_digest": clarification.action_digest}
    answered = client.respond_to_clarification(clarification.clarification_id, approved=True, **decision)
    assert answered.status == "approved"
    assert client.respond_to_clarification(clarification.clarification_id, approved=True, **decision) == answered
    with pytest.raises(errors.AlreadyResolved):
        client.respond_to_clarification(clarification.clarification_id, approved=False, **decision)
    assert until(client, run, *TERMINAL).status == "completed"


def test_a_rejection_fails_the_run_with_its_reason(client):
    run, clarification = asked(client, **APPROVAL)
    client.respond_to_clarification(
        clarification.clarification_id, tenant="acme", approved=False, approver_id="bob", reason="too much"
    )
    failed = until(client, run, *TERMINAL)
    assert (failed.status, failed.error_details["code"]) == ("failed", "clarification_rejected")


def test_a_decision_about_another_action_is_stale(client):
    _, clarification = asked(client, **APPROVAL)
    with pytest.raises(errors.StaleSubject):
        client.respond_to_clarification(
            clarification.clarification_id, tenant="acme", approved=True, approver_id="bob", action_digest="0" * 64
        )
    assert client.get_clarification(clarification.clarification_id, tenant="acme").status == "pending"


def test_an_answer_outside_the_options_is_refused_and_one_inside_taken(client):
    run, clarification = asked(client, **CHOICE)
    decision = {"tenant": "acme", "approved": True, "approver_id": "bob"}
    with pytest.raises(errors.InvalidResponse) as caught:
        client.respond_to_clarification(clarification.clarification_id, response="casino", **decision)
    assert caught.value.options == ["main", "reserve"]
    client.respond_to_clarification(clarification.clarification_id, response="reserve", **decision)
    assert until(client, run, *TERMINAL).status == "completed"


def test_open_questions_are_listed_across_runs(client):
    _, clarification = asked(client, **APPROVAL)
    assert clarification in client.list_clarifications(tenant="acme", status="pending")


def test_a_run_that_waits_for_an_answer_cannot_be_resumed(client):
    run, clarification = asked(client, **APPROVAL)
    with pytest.raises(errors.ClarificationsOutstanding) as caught:
        client.resume_run(run.run_id, tenant="acme")
    assert caught.value.clarification_ids == [clarification.clarification_id]


def test_a_run_is_paused_resumed_and_cancelled(client):
    pause = step("first", tool="wait", parameters={"seconds": 0.3})
    rest = step("second", tool="wait", parameters={"seconds": 0.3}, depends_on=["first"])
    run = start(client, pause, rest)
    client.pause_run(run.run_id, tenant="acme")
    paused = until(client, run, "paused")
    assert paused.paused_reason == "requested"
    assert client.resume_run(run.run_id, tenant="acme").status in {"running", "pending"}
    client.cancel_run(run.run_id, tenant="acme")
    cancelled = until(client, run, *TERMINAL)
    assert client.cancel_run(run.run_id, tenant="acme").status == cancelled.status == "cancelled"


def test_a_finished_run_takes_no_commands(client):
    run = until(client, start(client, step("only")), *TERMINAL)
    for command in (client.pause_run, client.resume_run, client.cancel_run):
        with pytest.raises(errors.InvalidState) as caught:
            command(run.run_id, tenant="acme")
        assert caught.value.current_status == "completed"


def test_a_wrong_key_is_refused(portia_runtime):
    stranger = PortiaClient(base_url=portia_runtime.base_url, api_key="not-the-key")
    with pytest.raises(errors.Unauthorized) as caught:
        stranger.list_runs(tenant="acme")
    assert not caught.value.retryable
