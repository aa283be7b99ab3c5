"""A run that outlives its capability token while people decide, and whose plan asks for a fresh one then."""

from __future__ import annotations

import pytest
from django.utils import timezone

from approvals_bridge import tasks as bridge_tasks
from approvals_bridge.models import Clarification
from executions.actions import renewals, runs
from executions.capabilities import issue
from executions.errors import CapabilityRefused
from executions.models import AuditEntry, Run, RunReason, Work
from portia_runtime.models import Run as PlanRun
from tests.conftest import personal_api, work, work_until
from tests.factories import documents
from tests.factories.documents import action, step
from tests.factories.models import PlanFactory, RunFactory
from tests.flows.test_revoked_runs import KEY, approve, asked_of, facts, key_set, kinds, revoke, submit

__all__ = ["key_set"]
pytestmark = pytest.mark.django_db(transaction=True)

CONTEXT = {"fresh_capability_after_wait": True, "required_capabilities": ["a:b"], "allowed_tools": ["echo", "wait"]}
PAY = action("pay", approval={"title": "Pay?"}, parameters={"text": "paid"})
ASKS = documents.plan(PAY, action("after"), security_context=CONTEXT)
LONG_AGO = "2020-01-01T00:00:00+00:00"


def token(**changes):
    return issue(key=KEY, **facts(**changes))


def expire(run_id):
    run = Run.objects.get(pk=run_id)
    Run.objects.filter(pk=run_id).update(capability=run.capability | {"expires_at": LONG_AGO})


def outlived(api, document=ASKS, **claims):
    """A run that waits for an answer, and whose token has ended meanwhile."""
    run = submit(api, document, token(**claims))
    asked = asked_of(run)
    expire(run["run_id"])
    return run["run_id"], asked


def held(api, acme, bob, **claims):
    run_id, asked = outlived(api, **claims)
    approve(bob, acme, asked)
    work()
    return run_id


def resume(api, run_id, text=None, *, expect, **body):
    headers = {"x-capability-token": text} if text else {}
    return api.post(f"/v1/executions/{run_id}/resume", body or None, expect=expect, **headers)


def due_now(run_id):
    Work.objects.filter(run_id=run_id).update(due_at=timezone.now())


def check_held(run_id):
    run = Run.objects.get(pk=run_id)
    assert (run.status, run.reason, run.error["code"]) == ("paused", "pause_requested", "fresh_capability_needed")
    assert PlanRun.objects.get().status == "paused"
    assert Clarification.objects.get(run_id=run_id).delivered_at is None


def test_the_answer_is_kept_back_and_the_run_says_what_it_waits_for(api, acme, bob, portia):
    run_id = held(api, acme, bob)
    check_held(run_id)
    shown = api.get(f"/v1/executions/{run_id}")
    assert "X-Capability-Token" in shown["error"]["message"]
    assert shown["allowed_commands"] == ["resume", "cancel"]
    entry = AuditEntry.objects.get(action="capability.expired")
    assert (entry.subject, entry.after["expires_at"]) == (f"execution/{run_id}", LONG_AGO)


def test_looking_again_changes_nothing(api, acme, bob, portia):
    run_id = held(api, acme, bob)
    before = Run.objects.get(pk=run_id).version
    for _ in range(3):
        due_now(run_id)
        work()
    check_held(run_id)
    assert Run.objects.get(pk=run_id).version == before
    assert kinds(run_id).count("capability.expired") == 1


def test_a_fresh_token_lets_the_run_go_on(api, acme, bob, portia):
    run_id = held(api, acme, bob)
    resumed = resume(api, run_id, token(subject="dave"), expect=202)
    assert (resumed["status"], resumed["reason"], resumed["error"]) == ("paused", "awaiting_clarification", None)
    assert (resumed["capability"]["subject"], resumed["capability"]["former_subjects"]) == ("dave", ["carol"])
    work_until(run_id, status="completed")
    assert "capability.renewed" in kinds(run_id)
    entry = AuditEntry.objects.get(action="capability.renewed")
    assert (entry.actor, entry.before["subject"], entry.after["subject"]) == ("agent", "carol", "dave")


def test_a_fresh_token_may_come_in_the_body(api, acme, bob, portia):
    run_id = held(api, acme, bob)
    resume(api, run_id, expect=202, capability_token=token())
    work_until(run_id, status="completed")


def test_without_a_token_it_is_refused_and_says_what_is_needed(api, acme, bob, portia):
    run_id = held(api, acme, bob)
    problem = resume(api, run_id, expect=403)
    assert (problem["code"], problem["reason"]) == ("capability-denied", "fresh_capability_needed")
    assert "X-Capability-Token" in problem["detail"]
    check_held(run_id)


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"tenant": "globex"}, "wrong_tenant"),
        ({"capabilities": ["c:d"]}, "missing_capability"),
        ({"now": timezone.now() - timezone.timedelta(hours=1)}, "expired"),
        ({"tools": ["wait"]}, None),
        ({"limits": {"echo": {"required": ["text"], "properties": {"text": {"const": "x"}}}}}, "argument_limits"),
        ({"subject": "bob"}, "four_eyes"),
    ],
)
def test_a_token_that_would_not_let_the_plan_in_changes_nothing(api, acme, bob, portia, claims, reason):
    run_id = held(api, acme, bob)
    before = Run.objects.get(pk=run_id)
    problem = resume(api, run_id, token(**claims), expect=403)
    assert problem.get("reason") == reason
    check_held(run_id)
    after = Run.objects.get(pk=run_id)
    assert (after.version, after.capability, after.requested) == (before.version, before.capability, "")
    assert AuditEntry.objects.filter(action="capability.denied").count() == 1


def test_what_is_no_token_is_refused_for_every_run(api, acme, portia):
    run = submit(api, ASKS, token())
    assert resume(api, run["run_id"], "no.token.", expect=403)["reason"] == "malformed"


def test_another_tenant_resumes_nothing(api, acme, bob, mallory, portia):
    run_id = held(api, acme, bob)
    resume(mallory, run_id, token(tenant="globex"), expect=404)
    check_held(run_id)


def test_a_narrower_token_that_covers_the_steps_narrows_what_is_recorded(api, acme, bob, portia):
    run_id = held(api, acme, bob)
    assert resume(api, run_id, token(tools=["echo"]), expect=202)["allowed_tools"] == ["echo"]
    work_until(run_id, status="completed")


def test_where_an_agent_chooses_the_token_covers_all_tools_of_the_launch(api, acme):
    document = documents.plan(PAY, step("think", "agent"), security_context=CONTEXT, version="1", description="")
    run = RunFactory(
        tenant=acme, plan=PlanFactory(tenant=acme, document=document), status="paused", reason="pause_requested",
        error={"code": renewals.CODE}, allowed_tools=["echo", "wait"],
    )  # fmt: skip
    assert resume(api, run.pk, token(tools=["echo"]), expect=403)["missing_tools"] == ["wait"]
    resume(api, run.pk, token(tools=["echo", "wait"]), expect=202)


def test_a_former_subject_approves_no_later_question_either(api, acme, bob, person, portia):
    document = documents.plan(PAY, action("more", approval={"title": "More?"}), security_context=CONTEXT)
    run_id, asked = outlived(api, document)
    approve(bob, acme, asked)
    work()
    resume(api, run_id, token(subject="dave"), expect=202)
    later = asked_of({"run_id": run_id})
    body = {"action_digest": later.action_digest}
    for name in ("carol", "dave"):
        answer = personal_api(person(name), acme).post(f"/v1/approvals/{later.pk}/approve", body, expect=403)
        assert "You asked for this" in answer["detail"]


def test_a_retry_under_the_same_key_gets_the_first_answer(api, acme, bob, portia):
    run_id = held(api, acme, bob)
    again = {"idempotency-key": "once", "x-capability-token": token()}
    first, second = (api.post(f"/v1/executions/{run_id}/resume", expect=202, **again) for _ in range(2))
    assert first == second
    assert kinds(run_id).count("capability.renewed") == 1


def test_a_fresh_token_that_ends_before_the_answer_is_delivered_is_not_enough(api, acme, bob, portia):
    run_id = held(api, acme, bob)
    resume(api, run_id, token(), expect=202)
    expire(run_id)
    work()
    check_held(run_id)
    assert kinds(run_id).count("capability.expired") == 2


def test_a_held_run_can_be_cancelled(api, acme, bob, portia):
    run_id = held(api, acme, bob)
    api.post(f"/v1/executions/{run_id}/cancel", expect=202)
    work_until(run_id, status="cancelled")
    due_now(run_id)
    work()
    asked = Clarification.objects.get(run_id=run_id)
    assert (asked.delivered_at is not None, asked.delivery_error != "") == (True, True)
    assert not Work.objects.filter(run_id=run_id).exists()


def test_a_pause_of_a_held_run_changes_nothing(api, acme, bob, portia):
    run_id = held(api, acme, bob)
    api.post(f"/v1/executions/{run_id}/pause", expect=202)
    check_held(run_id)
    resume(api, run_id, token(), expect=202)
    work_until(run_id, status="completed")


def test_a_pause_that_a_person_asked_for_stays_until_it_is_resumed_itself(api, acme, bob, portia):
    run_id, asked = outlived(api)
    api.post(f"/v1/executions/{run_id}/pause", expect=202)
    work()
    approve(bob, acme, asked)
    work()
    check_held(run_id)
    assert resume(api, run_id, token(), expect=202)["reason"] == "awaiting_clarification"
    work_until(run_id, reason="pause_requested")
    resume(api, run_id, expect=202)
    work_until(run_id, status="completed")


def test_a_revocation_ends_a_held_run(api, acme, bob, portia):
    run_id = held(api, acme, bob)
    revoke(acme, Run.objects.get(pk=run_id).capability["token_id"])
    assert resume(api, run_id, token(), expect=403)["reason"] == "revoked"
    due_now(run_id)
    for _ in range(3):
        work()
    run = Run.objects.get(pk=run_id)
    assert (run.status, run.reason, PlanRun.objects.get().status) == ("failed", "capability_denied", "cancelled")


def test_a_rejection_is_kept_back_as_well(api, acme, bob, portia):
    run_id, asked = outlived(api)
    body = {"reason": "no", "action_digest": asked.action_digest}
    personal_api(bob, acme).post(f"/v1/approvals/{asked.pk}/reject", body, expect=200)
    work()
    check_held(run_id)
    resume(api, run_id, token(), expect=202)
    work_until(run_id, status="failed")


def test_while_one_branch_waits_for_a_token_the_others_are_followed(api, acme, bob, portia):
    slow = step("slow", "sequence", steps=[action("nap", "wait", parameters={"seconds": 0.4}), action("said")])
    both = step("both", "parallel", steps=[PAY, slow])
    run_id, asked = outlived(api, documents.plan(both, security_context=CONTEXT))
    approve(bob, acme, asked)
    work()
    assert Run.objects.get(pk=run_id).error["code"] == "fresh_capability_needed"
    while PlanRun.objects.get().status != "paused":
        work()
    due_now(run_id)
    work()
    check_held(run_id)
    resume(api, run_id, token(), expect=202)
    work_until(run_id, status="completed")


def test_a_decision_in_time_needs_no_other_token(api, acme, bob, portia):
    run = submit(api, ASKS, token())
    approve(bob, acme, asked_of(run))
    work_until(run["run_id"], status="completed")
    assert "capability.expired" not in kinds(run["run_id"])


def test_without_a_token_from_the_start_the_plan_asks_for_nothing(api, acme, bob, portia):
    run = api.post("/v1/execute", {"executable_plan": ASKS, "deduplicate": False}, expect=202)
    approve(bob, acme, asked_of(run))
    work_until(run["run_id"], status="completed")


def test_an_answer_given_at_portia_itself_ends_the_hold(api, acme, bob, portia):
    run_id = held(api, acme, bob)
    Run.objects.filter(pk=run_id).update(pending_clarifications=[])
    due_now(run_id)
    bridge_tasks.deliver_answers()
    assert Clarification.objects.get(run_id=run_id).delivered_at is not None


def test_in_the_admin_a_held_run_is_not_resumed(api, acme, bob, portia):
    run_id = held(api, acme, bob)
    with pytest.raises(CapabilityRefused, match="X-Capability-Token"):
        runs.resume(run_id, by="bob")
    assert Run.objects.get(pk=run_id).reason == RunReason.PAUSE_REQUESTED


def test_a_dry_run_says_that_a_fresh_token_will_be_needed(api, portia):
    body = {"executable_plan": ASKS, "dry_run": True}
    seen = api.post("/v1/execute", body, expect=200, **{"x-capability-token": token()})
    assert any("fresh_capability_after_wait" in one for one in seen["warnings"])
    for other, headers in ((ASKS, {}), (documents.plan(security_context=CONTEXT), {"x-capability-token": token()})):
        seen = api.post("/v1/execute", {"executable_plan": other, "dry_run": True}, expect=200, **headers)
        assert not any("fresh_capability_after_wait" in one for one in seen["warnings"])


# -- a pause is a wait for people, too


PAUSED = {"status": "paused", "reason": "pause_requested"}
WAITS = documents.plan(action("echo"), action("wait", parameters={"seconds": 0}), security_context=CONTEXT)


def paused(api, document=WAITS):
    """A run that somebody paused before its launch, and whose token has ended meanwhile."""
    run = submit(api, document, token())["run_id"]
    api.post(f"/v1/executions/{run}/pause", expect=202)
    assert Run.objects.get(pk=run).reason == "pause_requested"
    expire(run)
    return run


def test_a_paused_run_that_outlived_its_token_is_resumed_with_a_fresh_one_only(api, acme, portia):
    run_id = paused(api)
    problem = resume(api, run_id, expect=403)
    assert (problem["reason"], "while the run was paused" in problem["detail"]) == ("fresh_capability_needed", True)
    assert AuditEntry.objects.filter(action="capability.denied").count() == 1
    assert {name: getattr(Run.objects.get(pk=run_id), name) for name in PAUSED} == PAUSED
    assert resume(api, run_id, token(capabilities=["other:one"]), expect=403)["reason"] == "missing_capability"
    resume(api, run_id, token(subject="dora"), expect=202)
    run = work_until(run_id, status="completed")
    assert (run.capability["subject"], run.capability["former_subjects"]) == ("dora", ["carol"])
    assert AuditEntry.objects.filter(action="capability.renewed").count() == 1


def test_a_paused_run_whose_token_still_holds_or_whose_plan_does_not_ask_needs_none(api, acme, portia):
    run_id = submit(api, WAITS, token())["run_id"]
    api.post(f"/v1/executions/{run_id}/pause", expect=202)
    resume(api, run_id, expect=202)
    assert work_until(run_id, status="completed").capability["subject"] == "carol"
    quiet = documents.plan(action("echo"), security_context=CONTEXT | {"fresh_capability_after_wait": False})
    run_id = paused(api, quiet)
    resume(api, run_id, expect=202)
    work_until(run_id, status="completed")
