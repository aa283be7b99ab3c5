"""Receipts: what they say, for whom, when, and that anybody can check them with the program in the documentation."""

import base64
import json
import re
import subprocess
import sys

import pytest
from django.conf import settings as django_settings

from approvals_bridge import actions
from executions.actions import receipts
from executions.models import AuditEntry, AuditLink, Run
from tests.conftest import work_until
from tests.factories import documents
from tests.factories.models import RunFactory

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def run(acme, api, bob, portia, captoken):
    """A run that bob approved, to its end, with a token of carol's."""
    document = documents.plan(documents.step("ask", "approval", title="Go on?"), documents.action("greet"))
    body = {"executable_plan": document, "triggered_by": "alice", "capability_token": captoken()}
    run_id = api.post("/v1/execute", body, expect=202)["run_id"]
    run = work_until(run_id, reason="awaiting_clarification")
    while not run.clarifications.exists():
        work_until(run_id, reason="awaiting_clarification")
    question = run.clarifications.get()
    actions.decide(
        clarification_id=question.pk, user=bob, decision="approve", action_digest=question.action_digest, source="api"
    )
    return work_until(run_id, status="completed")


def said(receipt):
    return json.loads(base64.b64decode(receipt["payload"]))


def test_a_receipt_says_what_ran_with_which_rights_who_agreed_and_what_became_of_it(run, api):
    content = said(api.get(f"/v1/executions/{run.pk}/receipt"))
    assert content["run_id"] == str(run.pk)
    assert (content["plan_hash"], content["tenant"]) == (run.plan.plan_hash, "acme")
    assert (content["status"], content["reason"]) == ("completed", "ok")
    assert content["capability"]["subject"] == "carol"
    assert content["capability"]["capabilities"] == ["mail:send"]
    (approval,) = content["approvals"]
    assert (approval["who"], approval["decision"]) == ("bob", "approve")
    assert approval["action_digest"] == (run.clarifications.get().action_digest or None)
    link = AuditLink.objects.get(tenant_id=run.tenant_id, sequence=content["audit"]["sequence"])
    assert link.hash == content["audit"]["hash"]
    assert AuditEntry.objects.get(pk=link.entry_id).after == {"status": "completed", "reason": "ok"}


def test_a_receipt_is_checked_by_the_program_in_the_documentation(run, api, client, tmp_path):
    text = (django_settings.BASE_DIR / "docs" / "reference" / "audit.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(program.splitlines()) < 30
    files = {"check_receipt.py": program}
    files["receipt.json"] = json.dumps(api.get(f"/v1/executions/{run.pk}/receipt"))
    files["audit.jwks"] = client.get("/v1/audit/keys").content.decode()
    assert json.loads(_run(tmp_path, files).stdout)["run_id"] == str(run.pk)
    forged = json.loads(files["receipt.json"])
    forged["payload"] = base64.b64encode(json.dumps(said(forged) | {"status": "failed"}).encode()).decode()
    done = _run(tmp_path, files | {"receipt.json": json.dumps(forged)})
    assert (done.returncode, "InvalidSignature" in done.stderr) == (1, True)
    other = json.loads(files["receipt.json"]) | {"payloadType": "application/vnd.anumate.audit-export+json"}
    assert _run(tmp_path, files | {"receipt.json": json.dumps(other)}).returncode == 1


def _run(folder, files):
    for name, content in files.items():
        (folder / name).write_text(content)
    command = [sys.executable, "-W", "ignore", "check_receipt.py", "receipt.json", "audit.jwks"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_receipt_of_a_run_is_always_the_same(run, api):
    where = f"/v1/executions/{run.pk}/receipt"
    assert api.get(where) == api.get(where)


def test_a_run_that_goes_on_has_none_yet(acme, api):
    run = RunFactory(tenant=acme, status="running")
    problem = api.get(f"/v1/executions/{run.pk}/receipt", expect=409)
    assert (problem["code"], problem["current_status"]) == ("not-ended", "running")


def test_another_tenants_run_has_none(acme, mallory):
    run = RunFactory(tenant=acme, status="completed")
    mallory.get(f"/v1/executions/{run.pk}/receipt", expect=404)


def test_a_parameter_nobody_reads_is_refused(acme, api):
    run = RunFactory(tenant=acme, status="completed")
    assert "pretty" in api.get(f"/v1/executions/{run.pk}/receipt?pretty=1", expect=400)["detail"]


def test_a_run_older_than_the_log_has_a_receipt_without_a_place(acme):
    run = Run.objects.get(pk=RunFactory(tenant=acme, status="failed").pk)
    assert receipts.content_of(run)["audit"] is None


def test_the_keys_need_no_api_key_and_hold_nothing_secret(client):
    (key,) = client.get("/v1/audit/keys").json()["keys"]
    assert set(key) == {"kty", "crv", "x", "kid", "use", "alg"}


def test_a_key_that_cannot_be_used_is_said_in_the_log_and_not_to_the_caller(
    acme, api, client, settings, tmp_path, caplog
):
    settings.AUDIT_SIGNING_KEY_FILE = tmp_path / "hidden-name.pem"
    settings.AUDIT_SIGNING_KEY_FILE.write_text("no key")
    run = RunFactory(tenant=acme, status="completed")
    assert "hidden-name" not in str(api.get(f"/v1/executions/{run.pk}/receipt", expect=503))
    assert client.get("/v1/audit/keys").status_code == 503
    assert "hidden-name.pem" in caplog.text
