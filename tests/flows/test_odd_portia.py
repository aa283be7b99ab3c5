"""A Portia that answers oddly: refuses one tenant, forgets runs, hides behind a gateway, seals something else."""

from datetime import timedelta

import pytest
from django.utils import timezone

from approvals_bridge import actions
from approvals_bridge import tasks as bridge_tasks
from approvals_bridge.models import Clarification
from executions import tasks
from executions.actions import runs
from executions.actions.runs import Submission
from executions.errors import Conflict
from executions.models import Kind, Run, RunStep, Work
from tests.factories import documents
from tests.factories.models import ClarificationFactory, RunFactory, TenantFactory, staff_of

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def odd(httpserver, settings):
    """A server that knows its health and answers else as each test tells it."""
    settings.PORTIA_BASE_URL = httpserver.url_for("").rstrip("/")
    httpserver.expect_request("/api/v1/health").respond_with_json({"capabilities": ["batch_runs"]})
    return httpserver


def remote(run, version=9, status="running", **fields):
    return {"run_id": run.portia_run_id, "plan_id": "p", "status": status, "version": version, **fields}


def answers(odd, path, body, *, status=200, **match):
    odd.expect_oneshot_request(f"/api/v1{path}", **match).respond_with_json(body, status=status)


def problem(code, status):
    return {"body": {"code": code, "message": code, "status": status}, "status": status}


def due(run, kind):
    Work.objects.filter(run=run, kind=kind).delete()
    Work.objects.schedule(run.pk, kind)


def sync(odd, run, found=(), missing=()):
    due(run, Kind.SYNC)
    answers(odd, "/runs", {"runs": list(found), "missing": list(missing)})
    tasks.sync()
    run.refresh_from_db()


def test_a_tenant_that_portia_refuses_does_not_hold_up_the_others(odd):
    good, refused = (
        RunFactory(status="running", tenant=TenantFactory(identifier=name)) for name in ("good", "refused")
    )
    for run in (refused, good):
        Work.objects.schedule(run.pk, Kind.SYNC)
    answers(odd, "/runs", **problem("forbidden", 403), headers={"X-Tenant-ID": "refused"})
    done = remote(good, status="completed")
    answers(odd, "/runs", {"runs": [done], "missing": []}, headers={"X-Tenant-ID": "good"})
    tasks.sync()
    assert Run.objects.get(pk=good.pk).status == "completed"
    assert Run.objects.get(pk=refused.pk).status == "running"


def test_a_run_is_lost_only_when_it_is_missing_twice_in_a_row(odd):
    run = RunFactory(status="running", portia_version=9)
    sync(odd, run, missing=[run.portia_run_id])
    sync(odd, run, found=[remote(run)])
    assert run.portia_missing_since is None
    sync(odd, run, missing=[run.portia_run_id])
    Run.objects.filter(pk=run.pk).update(portia_missing_since=timezone.now() - timedelta(seconds=31))
    sync(odd, run, missing=[run.portia_run_id])
    assert (run.status, run.reason) == ("failed", "run_lost")


def test_a_lost_runs_questions_are_void_and_nothing_goes_on_for_it(odd):
    asked = ClarificationFactory()
    Run.objects.filter(pk=asked.run.pk).update(portia_missing_since=timezone.now() - timedelta(seconds=31))
    sync(odd, asked.run, missing=[asked.run.portia_run_id])
    with pytest.raises(Conflict, match="failed"):
        actions.decide(
            clarification_id=asked.pk, user=staff_of(asked.tenant, username="bob"), decision="approve", source="api"
        )
    answers(odd, f"/runs/{asked.run.portia_run_id}/clarifications", **problem("run_not_found", 404))
    bridge_tasks.import_clarifications()
    asked.refresh_from_db()
    assert asked.status == "cancelled"
    assert not Work.objects.exclude(kind=Kind.SYNC).exists()


def test_a_gateways_404_says_nothing_about_a_run(odd):
    run = RunFactory(status="running")
    Run.objects.filter(pk=run.pk).update(requested="cancel")
    due(run, Kind.COMMAND)
    answers(odd, f"/runs/{run.portia_run_id}/cancel", {"message": "no Route matched with those values"}, status=404)
    tasks.deliver_commands()
    assert Run.objects.get(pk=run.pk).requested == "cancel"
    assert Work.objects.filter(run=run, kind=Kind.COMMAND).exists()


def ask(asked, **fields):
    return {
        "clarification_id": asked.portia_clarification_id, "run_id": asked.run.portia_run_id, "status": "pending",
        "category": asked.category, "title": asked.title, "options": asked.options, **fields,
    }  # fmt: skip


def test_an_answer_that_portia_refuses_is_asked_for_again(odd):
    asked = ClarificationFactory(choice=True)
    bob = staff_of(asked.tenant, username="bob")
    actions.decide(clarification_id=asked.pk, user=bob, decision="answer", value="main", source="api")
    answers(odd, f"/clarifications/{asked.portia_clarification_id}/respond", **problem("invalid_response", 422))
    bridge_tasks.deliver_answers()
    answers(odd, f"/runs/{asked.run.portia_run_id}/clarifications", {"clarifications": [ask(asked)]})
    bridge_tasks.import_clarifications()
    again = Clarification.objects.get(status="pending")
    assert (again.round, again.portia_clarification_id) == (2, asked.portia_clarification_id)
    assert "invalid_response" in Clarification.objects.get(pk=asked.pk).delivery_error


def test_what_portia_decided_first_is_shown_beside_our_decision(odd):
    asked = ClarificationFactory(choice=True)
    bob = staff_of(asked.tenant, username="bob")
    actions.decide(clarification_id=asked.pk, user=bob, decision="answer", value="main", source="api")
    answers(
        odd,
        f"/clarifications/{asked.portia_clarification_id}/respond",
        **problem("clarification_already_resolved", 409),
    )
    bridge_tasks.deliver_answers()
    answers(odd, f"/runs/{asked.run.portia_run_id}/clarifications", {"clarifications": [ask(asked, status="rejected")]})
    bridge_tasks.import_clarifications()
    asked.refresh_from_db()
    assert (asked.status, asked.portia_status) == ("approved", "rejected")
    assert asked.delivery_error


def test_a_question_whose_seal_is_not_of_its_action_is_not_shown(odd):
    run = RunFactory(status="paused")
    due(run, Kind.CLARIFICATIONS)
    false = {"clarification_id": "c", "run_id": run.portia_run_id, "status": "pending", "category": "User Verification"}
    false |= {"action": {"tool": "pay", "arguments": {"amount": 1}}, "action_digest": "f" * 64}
    answers(odd, f"/runs/{run.portia_run_id}/clarifications", {"clarifications": [false]})
    bridge_tasks.import_clarifications()
    assert not Clarification.objects.exists()
    assert Work.objects.filter(run=run, kind=Kind.CLARIFICATIONS).exists()


def test_steps_with_very_long_or_repeated_ids_do_not_stop_the_run(odd):
    run = RunFactory(status="running", portia_version=1)
    long = ".".join(["s" * 64] * 8)
    steps = [{"id": one, "status": "completed"} for one in (f"{long}.a", f"{long}.b", f"{long}.b", "x" * 3000)]
    sync(odd, run, found=[remote(run, steps=steps, current_step="y" * 3000)])
    assert RunStep.objects.filter(run=run).count() == 3


def test_one_bad_answer_does_not_cost_the_others_theirs(odd):
    good = RunFactory(status="running", portia_version=1)
    bad = RunFactory(status="running", portia_version=1, tenant=good.tenant)
    due(bad, Kind.SYNC)
    steps = [{"id": "a", "status": "completed", "output": {"x": 1}, "attempts": 10**12}]
    sync(odd, good, found=[remote(bad, steps=steps), remote(good, status="completed")])
    assert good.status == "completed"
    assert Run.objects.get(pk=bad.pk).status == "running"


def submitted(tenant):
    document = documents.plan(documents.action("a"))
    return runs.start(tenant=tenant, principal="agent", submission=Submission(executable_plan=document))


def test_a_run_cancelled_while_portia_is_away_is_never_started(settings, acme):
    settings.PORTIA_BASE_URL = "http://127.0.0.1:9"
    run = submitted(acme)
    tasks.launch()
    assert Run.objects.get(pk=run.pk).reason == "portia_unreachable"
    assert runs.cancel(run.pk, by="alice").status == "cancelled"
    assert not Work.objects.exists()


def test_a_cancel_that_arrives_while_portia_is_away_is_carried_out_before_the_next_launch(settings, acme):
    settings.PORTIA_BASE_URL = "http://127.0.0.1:9"
    run = submitted(acme)
    tasks.launch()
    Run.objects.filter(pk=run.pk).update(requested="cancel")
    due(run, Kind.LAUNCH)
    tasks.launch()
    assert Run.objects.get(pk=run.pk).status == "cancelled"


def test_a_resume_takes_a_pause_back_that_has_not_taken_hold(odd):
    run = RunFactory(status="running", portia_version=1)
    for command, version, pausing in ((runs.pause, 2, True), (runs.resume, 3, False)):
        command(run.pk, by="alice")
        answers(odd, f"/runs/{run.portia_run_id}/{command.__name__}", remote(run, version, pause_requested=pausing))
        tasks.deliver_commands()
        run.refresh_from_db()
        assert runs.allowed_commands(run) == (["resume", "cancel"] if pausing else ["pause", "cancel"])
    assert [request.path.rsplit("/", 1)[1] for request, _ in odd.log] == ["pause", "resume"]


def test_a_run_that_may_have_arrived_is_cancelled_at_portia(odd, acme):
    run = submitted(acme)
    for _ in range(3):
        answers(odd, "/runs", **problem("internal_error", 500))
    tasks.launch()
    cancelled = runs.cancel(run.pk, by="alice")
    assert (cancelled.status, cancelled.requested) == ("pending", "cancel")
