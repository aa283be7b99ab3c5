"""A run whose capability is gone: stopped at its launch, and when it comes back from people; the jobs are run by hand."""

from __future__ import annotations

import json

import pytest
from django.utils import timezone
from joserfc.jwk import OKPKey

from approvals_bridge.models import Clarification
from executions.actions import captokens
from executions.capabilities import claims_of, issue, signed
from executions.models import AuditEntry, Event, Run, Work
from portia_runtime.models import Run as PlanRun
from tests.conftest import personal_api, work, work_until
from tests.factories import documents
from tests.factories.documents import action

pytestmark = pytest.mark.django_db(transaction=True)

KEY = OKPKey.generate_key("Ed25519")
ENDS = ["capability.denied", "execution.failed"]
ASKS = documents.plan(action("pay", approval={"title": "Pay?"}, parameters={"text": "paid"}), action("after"))


@pytest.fixture(autouse=True)
def key_set(settings, tmp_path):
    settings.CAPTOKENS_JWKS_FILE, settings.CAPTOKENS_ISSUER = tmp_path / "jwks.json", ""
    public = KEY.as_dict(private=False) | {"kid": KEY.thumbprint()}
    settings.CAPTOKENS_JWKS_FILE.write_text(json.dumps({"keys": [public]}))


def facts(**changes):
    known = {
        "issuer": "captokens",
        "tenant": "acme",
        "subject": "carol",
        "capabilities": ["a:b"],
        "now": timezone.now(),
    }
    return known | changes


def submit(api, document, token):
    body = {"executable_plan": document, "deduplicate": False}
    return api.post("/v1/execute", body, expect=202, **{"x-capability-token": token})


def asked_of(run):
    work_until(run["run_id"], reason="awaiting_clarification")
    while not Clarification.objects.filter(run_id=run["run_id"], status="pending").exists():
        work()
    return Clarification.objects.get(run_id=run["run_id"], status="pending")


def approve(bob, acme, asked):
    body = {"reason": "ok", "action_digest": asked.action_digest}
    personal_api(bob, acme).post(f"/v1/approvals/{asked.pk}/approve", body, expect=200)


def revoke(acme, token_id):
    captokens.revoke(tenant=acme, token_id=token_id, by="admin", reason="The laptop is gone.")


def kinds(run_id):
    return [event.type.removeprefix("io.anumate.") for event in Event.objects.filter(run_id=run_id)]


def check_denied(run_id, word):
    run = Run.objects.get(pk=run_id)
    assert (run.status, run.reason, run.error["code"]) == ("failed", "capability_denied", "capability-denied")
    assert word in run.error["message"]
    assert [kind for kind in kinds(run_id) if kind in ENDS] == ENDS
    (entry,) = AuditEntry.objects.filter(action="capability.denied")
    assert (entry.subject, entry.actor, word in entry.reason) == (f"execution/{run_id}", "orchestrator", True)


def test_a_token_revoked_before_the_launch_starts_nothing(api, acme, portia):
    run = submit(api, documents.plan(), issue(key=KEY, **facts()))
    revoke(acme, run["capability"]["token_id"])
    work()
    check_denied(run["run_id"], "revoked")
    assert not PlanRun.objects.exists()
    assert kinds(run["run_id"]) == ["execution.accepted", "capability.denied", "execution.failed"]


def test_a_parent_revoked_before_the_launch_starts_nothing(api, acme, portia):
    run = submit(api, documents.plan(), signed(claims_of(**facts(parents=["root", "middle"])), KEY))
    revoke(acme, "root")
    work()
    check_denied(run["run_id"], "revoked")


def test_a_tool_the_tenant_withdrew_before_the_launch_starts_nothing(api, acme, portia):
    run = submit(api, documents.plan(), issue(key=KEY, **facts()))
    acme.allowed_tools = ["wait"]
    acme.save()
    work()
    check_denied(run["run_id"], "echo")


def test_limits_are_held_against_the_plan_again_at_the_launch(api, acme, portia):
    limits = {"echo": {"properties": {"text": {"const": "hi"}}}}
    plan = documents.plan(action("greet", parameters={"text": "hi"}))
    run = submit(api, plan, issue(key=KEY, **facts(limits=limits)))
    limits["echo"]["properties"]["text"]["const"] = "something else"
    Run.objects.update(capability=run["capability"] | {"limits": limits})
    work()
    check_denied(run["run_id"], "'text'")


def test_a_token_revoked_while_people_decide_stops_the_run_here_and_at_portia(api, acme, bob, portia):
    run = submit(api, ASKS, issue(key=KEY, **facts()))
    asked = asked_of(run)
    revoke(acme, run["capability"]["token_id"])
    approve(bob, acme, asked)
    for _ in range(5):
        work()
    check_denied(run["run_id"], "revoked")
    remote = PlanRun.objects.get()
    assert remote.status == "cancelled"
    asked.refresh_from_db()
    assert (asked.status, "denied" in asked.delivery_error) == ("approved", True)
    assert not Work.objects.filter(run_id=run["run_id"]).exists()


def test_a_tool_withdrawn_while_people_decide_stops_the_run_too(api, acme, bob, portia):
    run = submit(api, ASKS, issue(key=KEY, **facts()))
    asked = asked_of(run)
    acme.allowed_tools = ["wait"]
    acme.save()
    approve(bob, acme, asked)
    for _ in range(5):
        work()
    check_denied(run["run_id"], "echo")
    assert PlanRun.objects.get().status == "cancelled"


def test_while_portia_is_away_the_stop_is_tried_again(api, acme, bob, portia, settings):
    run = submit(api, ASKS, issue(key=KEY, **facts()))
    asked = asked_of(run)
    revoke(acme, run["capability"]["token_id"])
    approve(bob, acme, asked)
    away, settings.PORTIA_BASE_URL = settings.PORTIA_BASE_URL, "http://127.0.0.1:9"
    work()
    check_denied(run["run_id"], "revoked")
    assert PlanRun.objects.get().status == "paused"
    settings.PORTIA_BASE_URL = away
    Work.objects.filter(run_id=run["run_id"]).update(due_at=timezone.now())
    work()
    assert PlanRun.objects.get().status == "cancelled"
    check_denied(run["run_id"], "revoked")


def test_a_token_that_only_expired_lets_the_run_go_on(api, acme, bob, portia):
    soon = facts(now=timezone.now(), lifetime=1)
    run = submit(api, ASKS, issue(key=KEY, **soon))
    asked = asked_of(run)
    Run.objects.update(capability=run["capability"] | {"expires_at": "2020-01-01T00:00:00+00:00"})
    approve(bob, acme, asked)
    work_until(run["run_id"], status="completed")


def test_another_tokens_revocation_does_not_matter(api, acme, bob, portia):
    run = submit(api, ASKS, issue(key=KEY, **facts()))
    asked = asked_of(run)
    revoke(acme, "another")
    approve(bob, acme, asked)
    work_until(run["run_id"], status="completed")


def paused_with(api, acme, tools=None, *, revoked=True):
    """A run that somebody paused before its second step, and whose token was revoked since, or its tenant's tools changed."""
    run = submit(
        api,
        documents.plan(action("first", tool="wait", parameters={"seconds": 1}), action("greet", depends_on=["first"])),
        issue(key=KEY, **facts()),
    )
    work_until(run["run_id"], status="running")
    api.post(f"/v1/executions/{run['run_id']}/pause", expect=202)
    work_until(run["run_id"], reason="pause_requested")
    if revoked:
        revoke(acme, run["capability"]["token_id"])
    type(acme).objects.update(allowed_tools=tools)
    return run


@pytest.mark.parametrize(("tools", "revoked", "word"), [(None, True, "revoked"), (["wait"], False, "echo")])
def test_a_run_that_lost_its_rights_while_it_was_paused_is_not_resumed(api, acme, portia, tools, revoked, word):
    run = paused_with(api, acme, tools, revoked=revoked)
    api.post(f"/v1/executions/{run['run_id']}/resume", expect=202)
    for _ in range(5):
        work()
    check_denied(run["run_id"], word)
    assert PlanRun.objects.get().status == "cancelled"
    assert not Work.objects.filter(run_id=run["run_id"]).exists()


def test_while_portia_is_away_a_run_that_may_not_be_resumed_is_stopped_later(api, acme, portia, settings):
    run = paused_with(api, acme)
    api.post(f"/v1/executions/{run['run_id']}/resume", expect=202)
    there, settings.PORTIA_BASE_URL = settings.PORTIA_BASE_URL, "http://127.0.0.1:9"
    work()
    check_denied(run["run_id"], "revoked")
    settings.PORTIA_BASE_URL = there
    Work.objects.filter(run_id=run["run_id"]).update(due_at=timezone.now())
    work()
    assert PlanRun.objects.get().status == "cancelled"


def test_the_runtime_is_told_of_the_tools_that_are_left_at_the_launch(api, acme, portia):
    document = documents.plan(action("greet")) | {"security_context": {"allowed_tools": ["echo", "http_request"]}}
    run = submit(api, document, issue(key=KEY, **facts()))
    type(acme).objects.update(allowed_tools=["echo"])
    work_until(run["run_id"], status="completed")
    assert PlanRun.objects.get().plan.document["allowed_tools"] == ["echo"]
    assert Run.objects.get(pk=run["run_id"]).allowed_tools == ["echo"]
