"""Whole runs over the API, with the embedded runtime behind real HTTP; the jobs are run by hand."""

import json
from pathlib import Path

import pytest
from django.core import mail

from approvals_bridge.models import Clarification
from executions.models import Event, Run, Work
from tests.conftest import Api, personal_api, work, work_until
from tests.factories import documents
from tests.factories.documents import action

pytestmark = pytest.mark.django_db(transaction=True)

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "plans"


def example(name):
    return json.loads((EXAMPLES / f"{name}.json").read_text())


def submit(api, document, **fields):
    return api.post("/v1/execute", {"executable_plan": document, "deduplicate": False, **fields}, expect=202)["run_id"]


def view(api, run_id):
    return api.get(f"/v1/executions/{run_id}")


def approval_of(run_id):
    return Clarification.objects.get(run_id=run_id, status="pending")


def wait_for_question(run_id):
    work_until(run_id, reason="awaiting_clarification")
    while not Clarification.objects.filter(run_id=run_id, status="pending").exists():
        work()
    return approval_of(run_id)


def test_the_welcome_plan_sends_its_mail(api, portia):
    run_id = submit(api, example("welcome"), parameters={"email": "ann@example.com"})
    work_until(run_id, status="completed")
    run = view(api, run_id)
    assert (run["progress"], run["reason"], run["error"]) == (1.0, "ok", None)
    assert {s["step_id"]: s["status"] for s in run["steps"]}["send_welcome"] == "completed"
    assert [m.to for m in mail.outbox] == [["ann@example.com"]]
    assert run["timings"]["duration"] > 0


def test_events_tell_the_story_in_order(api, portia):
    run_id = submit(api, documents.plan(action("a"), action("b")))
    work_until(run_id, status="completed")
    events = list(Event.objects.filter(run_id=run_id))
    assert [e.sequence for e in events] == list(range(1, len(events) + 1))
    kinds = [e.type.rsplit(".", 1)[1] for e in events]
    assert (kinds[0], kinds[-1], kinds.count("step_completed")) == ("accepted", "completed", 2)
    assert not Work.objects.filter(run_id=run_id).exists()


def test_a_refund_waits_for_a_person_and_pays_once_approved(api, portia, bob, acme):
    run_id = submit(api, example("refund"))
    asked = wait_for_question(run_id)
    assert view(api, run_id)["pending_clarifications"] == [str(asked.pk)]
    assert (asked.title, asked.guidance.split(" has ")[0]) == ("Refund order A-1042", "Maria Keller")
    assert (asked.action["tool"], asked.action["arguments"]["value"]["amount_cents"]) == ("write_record", 9500)
    personal_api(bob, acme).post(
        f"/v1/approvals/{asked.pk}/approve", {"reason": "ok", "action_digest": asked.action_digest}, expect=200
    )
    work_until(run_id, status="completed")
    asked.refresh_from_db()
    assert (asked.status, asked.delivery_error, asked.delivered_at is not None) == ("approved", "", True)
    assert view(api, run_id)["results"]["pay_back"]["writes"] == 1


def test_a_rejected_refund_fails_with_the_persons_reason(api, portia, bob, acme):
    run_id = submit(api, example("refund"))
    asked = wait_for_question(run_id)
    body = {"reason": "wrong customer", "action_digest": asked.action_digest}
    personal_api(bob, acme).post(f"/v1/approvals/{asked.pk}/reject", body, expect=200)
    run = work_until(run_id, status="failed")
    assert (run.reason, mail.outbox) == ("rejected", [])
    assert "wrong customer" in run.error["message"]


@pytest.mark.parametrize(("verb", "status", "done"), [("approve", "completed", 1), ("reject", "failed", 0)])
def test_a_plan_that_requires_approval_does_nothing_before_it(api, portia, bob, acme, verb, status, done):
    counted = action("count", "write_record", parameters={"key": "k", "increment": 1})
    run_id = submit(api, documents.plan(counted, security_context={"requires_approval": True}))
    asked = wait_for_question(run_id)
    assert asked.action["arguments"]["tools"] == ["write_record"]
    assert "count" not in view(api, run_id)["results"]
    body = {"reason": "seen", "action_digest": asked.action_digest}
    personal_api(bob, acme).post(f"/v1/approvals/{asked.pk}/{verb}", body, expect=200)
    work_until(run_id, status=status)
    assert len([s for s in view(api, run_id)["steps"] if s["step_id"] == "count" and s["attempts"]]) == done


def test_questions_for_values_are_answered_in_turn(api, portia, bob, acme):
    run_id = submit(api, example("user_input"))
    person = personal_api(bob, acme)
    for value in ("Workstation", "2027-01-04"):
        asked = wait_for_question(run_id)
        person.post(f"/v1/approvals/{asked.pk}/answer", {"value": value}, expect=200)
        while Work.objects.filter(run_id=run_id, kind="answer").exists():
            work()
    work_until(run_id, status="completed")
    assert view(api, run_id)["results"]["order_computer"]["value"] == {
        "computer": "Workstation",
        "needed_on": "2027-01-04",
    }


def test_a_failed_trip_is_rolled_back(api, portia):
    run_id = submit(api, example("rollback"))
    run = work_until(run_id, status="failed")
    assert (run.reason, run.rollback["status"]) == ("step_failed", "completed")
    assert run.rollback["steps"] == ["cancel_flight", "cancel_hotel"]
    assert "declined" in run.error["message"]
    assert Event.objects.filter(run=run, type__endswith="rolled_back").exists()


@pytest.mark.parametrize(("name", "step"), [("fan_out", "book_carrier"), ("loop", "report")])
def test_the_other_examples_complete(api, portia, name, step):
    run_id = submit(api, example(name))
    work_until(run_id, status="completed")
    assert view(api, run_id)["results"][step]


def test_a_run_waits_at_a_pause_and_goes_on_after_it(api, portia):
    run_id = submit(api, documents.plan(action("first", "wait", parameters={"seconds": 1.5}), action("second")))
    work_until(run_id, status="running")
    paused = api.post(f"/v1/executions/{run_id}/pause", expect=202)
    assert (paused["requested"], paused["allowed_commands"]) == ("pause", ["resume", "cancel"])
    work_until(run_id, reason="pause_requested")
    assert view(api, run_id)["steps"][1]["status"] == "pending"
    api.post(f"/v1/executions/{run_id}/resume", expect=202)
    work_until(run_id, status="completed")


def test_a_cancelled_run_starts_no_further_step(api, portia):
    run_id = submit(api, documents.plan(action("first", "wait", parameters={"seconds": 3}), action("second")))
    work_until(run_id, status="running")
    for _ in range(2):
        api.post(f"/v1/executions/{run_id}/cancel", expect=202)
    work_until(run_id, status="cancelled")
    assert view(api, run_id)["steps"][1]["status"] in ("cancelled", "pending")
    problem = api.post(f"/v1/executions/{run_id}/pause", expect=409)
    assert (problem["code"], problem["allowed_commands"]) == ("invalid-state", [])


def test_a_cancel_that_was_accepted_is_not_taken_back(api, acme):
    run_id = submit(api, documents.plan(action("a")))
    Run.objects.filter(pk=run_id).update(status="running", reason="executing", portia_run_id="r", requested="cancel")
    for verb in ("pause", "resume"):
        problem = api.post(f"/v1/executions/{run_id}/{verb}", expect=409)
        assert problem["allowed_commands"] == ["cancel"]
    assert Run.objects.get(pk=run_id).requested == "cancel"


def test_a_person_does_not_approve_what_his_own_key_submitted(api, portia, bob, acme):
    from executions.actions.tenants import create_api_key

    laptop = Api(create_api_key(tenant=acme, principal="bobs-laptop", scopes=["execute", "read"], user=bob)[1])
    asked = wait_for_question(submit(laptop, example("refund"), triggered_by="somebody"))
    body = {"action_digest": asked.action_digest}
    problem = personal_api(bob, acme).post(f"/v1/approvals/{asked.pk}/approve", body, expect=403)
    assert "yourself" in problem["detail"]


def test_cancelling_a_run_that_waits_for_a_person_voids_the_question(api, portia):
    run_id = submit(api, example("refund"))
    asked = wait_for_question(run_id)
    api.post(f"/v1/executions/{run_id}/cancel", expect=202)
    work_until(run_id, status="cancelled")
    while Clarification.objects.get(pk=asked.pk).status == "pending":
        work()
    assert Clarification.objects.get(pk=asked.pk).status == "cancelled"


def test_before_the_launch_commands_need_no_portia(api, acme):
    run_id = submit(api, documents.plan(action("a")))
    assert api.post(f"/v1/executions/{run_id}/pause", expect=202)["reason"] == "pause_requested"
    assert api.post(f"/v1/executions/{run_id}/resume", expect=202)["reason"] == "accepted"
    assert api.post(f"/v1/executions/{run_id}/cancel", expect=202)["status"] == "cancelled"


def test_resuming_a_run_that_waits_for_a_person_says_so(api, portia):
    run_id = submit(api, example("refund"))
    wait_for_question(run_id)
    assert "waits for a decision" in api.post(f"/v1/executions/{run_id}/resume", expect=409)["detail"]


def test_while_portia_is_away_runs_wait_and_then_catch_up(api, settings, portia):
    settings.PORTIA_BASE_URL = "http://127.0.0.1:9"
    run_id = submit(api, documents.plan(action("a")))
    run = work_until(run_id, reason="portia_unreachable")
    assert (run.status, "message" in run.error) == ("pending", True)
    settings.PORTIA_BASE_URL = portia.base_url
    run = work_until(run_id, status="completed")
    assert run.error is None


def test_a_tool_portia_does_not_have_fails_the_run_with_its_words(api, settings, portia):
    base, settings.PORTIA_BASE_URL = (
        settings.PORTIA_BASE_URL,
        "http://127.0.0.1:9",
    )  # away at submission: nobody can tell
    run_id = submit(api, documents.plan(action("a", "no_such_tool")))
    settings.PORTIA_BASE_URL = base
    run = work_until(run_id, status="failed")
    assert (run.reason, run.error["code"]) == ("plan_refused", "invalid_plan")
    assert "no_such_tool" in json.dumps(run.error)


def test_every_job_may_run_twice(api, portia, bob, acme):
    run_id = submit(api, example("refund"))
    asked = wait_for_question(run_id)
    personal_api(bob, acme).post(
        f"/v1/approvals/{asked.pk}/approve", {"action_digest": asked.action_digest}, expect=200
    )
    run = Run.objects.get(pk=run_id)
    for kind in ("launch", "sync", "clarifications", "answer", "command"):
        Work.objects.schedule(run.pk, kind)
    work_until(run_id, status="completed")
    for kind in ("launch", "sync", "clarifications", "answer", "command"):
        Work.objects.schedule(run.pk, kind)
    before = (Run.objects.get(pk=run_id).version, Event.objects.filter(run=run).count())
    work()
    assert (Run.objects.get(pk=run_id).version, Event.objects.filter(run=run).count()) == before
    assert view(api, run_id)["results"]["pay_back"]["writes"] == 1
    assert not Work.objects.filter(run=run).exists()


def test_a_synchronous_call_answers_when_the_run_has_ended(api, portia):
    import threading

    answer = {}

    def call():
        from django.db import connection

        body = {"executable_plan": documents.plan(action("a")), "async_execution": False}
        answer.update(api.post("/v1/execute", body, expect=200))
        connection.close()

    caller = threading.Thread(target=call)
    caller.start()
    while caller.is_alive():
        work()
        caller.join(0.02)
    assert answer["status"] == "completed"
