"""A run that loses its rights while Portia may already have it: stopped here and there, and never started by the stop itself.

Between the orchestrator and the real runtime is a relay that loses answers, or lets something happen during a call.
"""

from __future__ import annotations

import json
import re
import time

import pgtrigger
import pytest
import requests
from django.contrib.auth.models import Permission
from django.db import connection
from django.utils import timezone
from joserfc.jwk import OKPKey
from werkzeug import Response

from executions import tasks, tenancy
from executions.actions import captokens, plans, renewals
from executions.actions.tenants import create_api_key
from executions.capabilities import claims_of, issue, signed
from executions.models import AuditEntry, Event, Kind, Plan, Run, Work
from portia_runtime.models import Run as PlanRun
from tests.conftest import Api, work, work_until
from tests.factories import documents
from tests.factories.documents import action
from tests.factories.models import RunFactory

pytestmark = pytest.mark.django_db(transaction=True)

KEY = OKPKey.generate_key("Ed25519")
SLOW = documents.plan(action("first", tool="wait", parameters={"seconds": 60}), action("second", depends_on=["first"]))
ENDS = ["capability.denied", "execution.failed"]


@pytest.fixture(autouse=True)
def key_set(settings, tmp_path):
    settings.CAPTOKENS_JWKS_FILE, settings.CAPTOKENS_ISSUER = tmp_path / "jwks.json", ""
    public = KEY.as_dict(private=False) | {"kid": KEY.thumbprint()}
    settings.CAPTOKENS_JWKS_FILE.write_text(json.dumps({"keys": [public]}))


def facts(**changes):
    known = {"issuer": "captokens", "tenant": "acme", "subject": "carol", "capabilities": ["a:b"]}
    return known | {"now": timezone.now()} | changes


def submit(api, document=SLOW, token=None):
    body = {"executable_plan": document, "deduplicate": False}
    headers = {"x-capability-token": token or issue(key=KEY, **facts())}
    run = api.post("/v1/execute", body, expect=202, **headers)
    return Run.objects.get(pk=run["run_id"])


def revoke(acme, run):
    captokens.revoke(tenant=acme, token_id=run.capability["token_id"], by="admin", reason="The laptop is gone.")


class Relay:
    """Passes calls on to the runtime. `loses` is what is lost of a launch (POST /runs): "request" or "answer".

    `refuses`: the plans of tenants are not taken any more. `meanwhile` is called once, when the runtime has taken a launch.
    """

    def __init__(self, runtime):
        self.target, self.api_key = runtime.base_url, runtime.api_key
        self.loses = self.refuses = self.meanwhile = None
        self.launches = []

    def __call__(self, request):
        is_launch = request.method == "POST" and request.path.endswith("/runs")
        if is_launch:
            self.launches.append(request.get_json())
        if is_launch and self.loses == "request":
            return Response("lost", 500)
        if is_launch and self.refuses and request.get_json()["plan_id"] != "anumate-withdrawn":
            return Response(json.dumps({"code": "invalid_plan", "message": "no"}), 422, mimetype="application/json")
        answer = requests.request(
            request.method, f"{self.target}{request.full_path}", data=request.data, timeout=10,
            headers={name: value for name, value in request.headers if name not in ("Host", "Content-Length")},
        )  # fmt: skip
        if is_launch and answer.ok and self.meanwhile:
            self._let_it_happen()
        if is_launch and answer.ok and self.loses == "answer":
            return Response("lost", 500)
        headers = {name: answer.headers[name] for name in ("Content-Type", "ETag") if name in answer.headers}
        return Response(answer.content, answer.status_code, headers)

    def _let_it_happen(self):
        happens, self.meanwhile = self.meanwhile, None
        try:
            happens()
        finally:
            connection.close()


@pytest.fixture
def relay(portia, settings, httpserver):
    relay = Relay(portia)
    httpserver.expect_request(re.compile(".*")).respond_with_handler(relay)
    settings.PORTIA_BASE_URL = httpserver.url_for("").rstrip("/")
    return relay


def launch_again(run):
    """The next attempt, now: its row goes on counting attempts."""
    Work.objects.filter(run=run, kind=Kind.LAUNCH).update(due_at=timezone.now())
    tasks.launch()


def unanswered(api, relay, *, loses):
    """A run whose launch got no answer."""
    run = submit(api)
    relay.loses = loses
    tasks.launch()
    relay.loses = None
    run.refresh_from_db()
    assert (run.status, run.reason, run.portia_run_id) == ("pending", "portia_unreachable", None)
    return run


def work_until_remote(run, status, seconds=10):
    """Work until Portia shows this status of the run."""
    deadline = time.monotonic() + seconds
    while True:
        work()
        remote = PlanRun.objects.get(plan__plan_id__startswith=f"anumate-{run.plan.plan_hash}")
        if remote.status == status:
            return remote
        assert time.monotonic() < deadline, f"still {remote.status} at Portia"
        time.sleep(0.02)


def kinds(run):
    return [event.type.removeprefix("io.anumate.") for event in Event.objects.filter(run=run)]


def check_denied(run, word="revoked"):
    run.refresh_from_db()
    assert (run.status, run.reason, run.error["code"]) == ("failed", "capability_denied", "capability-denied")
    assert word in run.error["message"]
    assert [kind for kind in kinds(run) if kind in ENDS] == ENDS
    assert AuditEntry.objects.get(action="capability.denied").subject == f"execution/{run.pk}"


def check_at_rest(run):
    for _ in range(3):
        work()
    assert not Work.objects.filter(run=run).exists()


# -- after a launch without an answer


def test_a_run_denied_after_an_unanswered_launch_is_cancelled_at_portia(api, acme, relay):
    run = unanswered(api, relay, loses="answer")
    revoke(acme, run)
    launch_again(run)
    check_denied(run)
    remote = work_until_remote(run, "cancelled")
    run.refresh_from_db()
    assert (run.portia_run_id, run.portia_plan_id) == (remote.run_id, remote.plan.plan_id)
    assert PlanRun.objects.count() == 1
    check_at_rest(run)


def test_a_run_denied_after_a_launch_that_never_arrived_is_not_started_by_the_search_for_it(api, acme, relay):
    run = unanswered(api, relay, loses="request")
    revoke(acme, run)
    launch_again(run)
    check_denied(run)
    check_at_rest(run)
    run.refresh_from_db()
    assert run.portia_run_id is None
    assert [remote.plan.plan_id for remote in PlanRun.objects.all()] == ["anumate-withdrawn"]


def test_a_launch_that_arrives_after_the_denial_starts_nothing_any_more(api, acme, relay):
    run = unanswered(api, relay, loses="request")
    revoke(acme, run)
    launch_again(run)
    headers = {"Authorization": f"Api-Key {relay.api_key}", "X-Tenant-ID": "acme", "Idempotency-Key": str(run.pk)}
    answer = requests.post(f"{relay.target}/api/v1/runs", json=relay.launches[0], headers=headers, timeout=10)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")


@pytest.mark.parametrize("away", ["request", "address"])
def test_while_portia_is_away_the_search_goes_on(api, acme, relay, settings, away):
    run = unanswered(api, relay, loses="answer")
    revoke(acme, run)
    if away == "request":
        relay.loses = "request"
    else:
        there, settings.PORTIA_BASE_URL = settings.PORTIA_BASE_URL, "http://127.0.0.1:9"
    launch_again(run)
    check_denied(run)
    assert Work.objects.filter(run=run, kind=Kind.LAUNCH).exists()
    relay.loses = None
    if away == "address":
        settings.PORTIA_BASE_URL = there
    launch_again(run)
    work_until_remote(run, "cancelled")
    check_denied(run)
    check_at_rest(run)


def test_a_plan_that_is_not_valid_any_more_is_cancelled_at_portia_too(api, relay):
    run = unanswered(api, relay, loses="answer")
    with pgtrigger.ignore("executions.Plan:plan_is_immutable"):
        Plan.objects.update(document={"stored": "under older rules"})
    plans._parsed.clear()
    launch_again(run)
    run.refresh_from_db()
    assert (run.status, run.reason, run.error["code"]) == ("failed", "plan_refused", "invalid-plan")
    work_until_remote(run, "cancelled")
    check_at_rest(run)


def test_a_run_that_portia_refuses_after_it_was_taken_is_cancelled_there_too(api, relay):
    run = unanswered(api, relay, loses="answer")
    relay.refuses = True
    launch_again(run)
    run.refresh_from_db()
    assert (run.status, run.reason, run.error["code"]) == ("failed", "plan_refused", "invalid_plan")
    relay.refuses = False
    launch_again(run)
    work_until_remote(run, "cancelled")
    check_at_rest(run)


# -- revoked while the run goes on


def test_a_revocation_during_the_launch_stops_the_run_here_and_at_portia(api, acme, relay):
    run = submit(api)
    relay.meanwhile = lambda: revoke(acme, run)
    tasks.launch()
    check_denied(run)
    remote = work_until_remote(run, "cancelled")
    run.refresh_from_db()
    assert (run.portia_run_id, run.started_at) == (remote.run_id, None)
    check_at_rest(run)


def test_a_tool_withdrawn_during_the_launch_stops_the_run_too(api, acme, relay):
    run = submit(api)
    relay.meanwhile = lambda: type(acme).objects.update(allowed_tools=["echo"])
    tasks.launch()
    check_denied(run, "wait")
    work_until_remote(run, "cancelled")


def test_a_run_that_ended_during_its_launch_is_cancelled_at_portia(api, acme, relay):
    run = submit(api)

    def another_worker():
        Work.objects.filter(run=run).update(due_at=timezone.now())
        type(acme).objects.update(is_active=False)
        tasks.launch()

    relay.meanwhile = another_worker
    tasks.launch()
    check_denied(run, "inactive")
    work_until_remote(run, "cancelled")
    check_at_rest(run)


@pytest.mark.parametrize("token_of", ["itself", "its parent"])
def test_a_revocation_stops_a_run_that_nothing_would_look_at_again(api, acme, portia, token_of):
    run = submit(api, token=signed(claims_of(**facts(parents=["root"])), KEY))
    other = submit(api, documents.plan(action("a", tool="wait", parameters={"seconds": 50})))
    for one in (run, other):
        work_until(one.pk, status="running")
    run.refresh_from_db()
    token_id = run.capability["token_id"] if token_of == "itself" else "root"
    captokens.revoke(tenant=acme, token_id=token_id, by="admin", reason="The laptop is gone.")
    assert list(Work.objects.filter(kind=Kind.COMMAND).values_list("run", flat=True)) == [run.pk]
    tasks.deliver_commands()
    check_denied(run)
    work_until_remote(run, "cancelled")
    other.refresh_from_db()
    assert other.status == "running"
    assert kinds(other)[-1] == "execution.started"
    check_at_rest(run)


def test_a_revocation_in_the_api_reaches_live_runs_too(api, acme, portia):
    run = submit(api)
    work_until(run.pk, status="running")
    admin = Api(create_api_key(tenant=acme, principal="admin", scopes=["admin"])[1])
    admin.post(f"/v1/captokens/{run.capability['token_id']}/revoke", {"reason": "Gone."}, expect=200)
    work()
    check_denied(run)


def test_another_tenants_run_with_the_same_token_id_goes_on(api, acme, globex, portia):
    run = submit(api)
    work_until(run.pk, status="running")
    captokens.revoke(tenant=globex, token_id=run.capability["token_id"], by="mallory", reason="Mine.")
    assert not Work.objects.filter(kind=Kind.COMMAND).exists()


def test_a_cancel_that_is_on_its_way_stays_a_cancel(api, acme, portia):
    run = submit(api)
    work_until(run.pk, status="running")
    api.post(f"/v1/executions/{run.pk}/cancel", expect=202)
    revoke(acme, run)
    work_until(run.pk, status="cancelled")


# -- what is written down, and whose runs


def test_the_capability_of_a_denied_run_says_no(api, acme, portia):
    run = submit(api)
    revoke(acme, run)
    work()
    told = api.get(f"/v1/executions/{run.pk}")["capability"]
    assert (told["valid"], told["reason"]) == (False, "revoked")
    assert "was revoked" in told["error"]
    kept = {name: run.capability[name] for name in ("token_id", "subject", "capabilities", "expires_at", "mode")}
    assert {name: told[name] for name in kept} == kept


def test_the_capability_of_a_run_stopped_while_it_goes_on_says_no(api, acme, portia):
    run = submit(api)
    work_until(run.pk, status="running")
    revoke(acme, run)
    work()
    run.refresh_from_db()
    assert (run.capability["valid"], run.capability["reason"]) == (False, "revoked")


def test_the_runs_of_an_inactive_tenant_are_not_started(api, acme, portia):
    run = submit(api)
    type(acme).objects.update(is_active=False)
    work()
    check_denied(run, "inactive")
    assert run.capability["reason"] == "tenant_inactive"
    assert not PlanRun.objects.exists()


def test_a_run_that_portia_lost_is_settled_behind_the_wall_between_tenants(api, acme, portia):
    run = submit(api)
    work_until(run.pk, status="running")
    PlanRun.objects.all().delete()
    Work.objects.filter(run=run, kind=Kind.SYNC).update(due_at=timezone.now())
    roles = []

    def note_the_role(execute, sql, params, many, context):
        if sql.startswith('UPDATE "executions_run"'):
            roles.append(context["connection"].connection.execute("SELECT current_user").fetchone()[0])
        return execute(sql, params, many, context)

    with connection.execute_wrapper(note_the_role):
        tasks.sync()
    run.refresh_from_db()
    assert run.portia_missing_since is not None
    assert set(roles) == {tenancy.ROLE}


def test_a_resume_in_the_admin_that_is_refused_for_its_token_is_in_the_audit_log(acme, person, client):
    run = RunFactory(
        tenant=acme, status="paused", reason="pause_requested", error={"code": renewals.CODE, "message": "A fresh one."},
        pending_clarifications=["clar-1"],
    )  # fmt: skip
    alice = person("alice")
    alice.user_permissions.set(Permission.objects.filter(codename__in=["view_run", "change_run"]))
    client.force_login(alice)
    page = client.post(f"/admin/executions/run/{run.pk}/change/", {"command": "resume"}, follow=True).content.decode()
    assert "the plan asks for a fresh one" in page
    entry = AuditEntry.objects.get(action="capability.denied")
    assert (entry.actor, entry.tenant_id, entry.after) == ("alice", acme.pk, {"reason": renewals.CODE})
