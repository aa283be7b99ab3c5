"""The whole service works with real keys, tokens and passwords; then everything it wrote is searched for them."""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests
from django.conf import settings
from django.contrib.auth.hashers import make_password
from django.db import connection
from joserfc.jwk import OKPKey

from executions.actions.tenants import create_api_key, create_tenant
from executions.capabilities import issue
from executions.models import Run, Scope
from orchestrator_project.stack import running_stack
from tests.orchestrator_project.processes import on_the_test_database, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.django_db(transaction=True)]

EVERY_TEXT = """
    SELECT format('SELECT count(*) FROM %I AS t WHERE t::text LIKE ANY(%%s)', table_name)
    FROM information_schema.tables WHERE table_schema = 'public' AND table_type = 'BASE TABLE'
"""
PLAN = {
    "plan_id": "secrets", "name": "Secrets", "version": "1.0.0", "main_flow": "main",
    "flows": [{"flow_id": "main", "name": "Main", "steps": [
        {"step_id": "say", "name": "Say", "step_type": "action", "tool": "echo", "action": "say", "parameters": {"value": 1}},
    ]}],
    "security_context": {"allowed_tools": ["echo"], "required_capabilities": ["payments:refund"]},
}  # fmt: skip


@pytest.fixture
def acme(transactional_db):
    return create_tenant(identifier="acme", name="Acme")


def a_token(key, **changes):
    facts = {"issuer": "captokens", "tenant": "acme", "subject": "alice", "capabilities": ["payments:*"], "tools": None}
    return issue(key=key, lifetime=300, now=datetime.now(UTC), **{**facts, **changes})


def test_no_secret_is_in_the_output_the_files_or_the_tables(acme, tmp_path, django_user_model):
    signing_key, stranger = (OKPKey.generate_key("Ed25519", auto_kid=True) for _ in range(2))
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [signing_key.as_dict(private=False)]}))
    api_key = create_api_key(tenant=acme, principal="agent", scopes=[Scope.EXECUTE, Scope.READ, Scope.CONTROL])[1]
    django_user_model.objects.create_superuser("bob")
    django_user_model.objects.update(password=make_password("correct-horse-77", hasher="pbkdf2_sha256"))
    secrets = {
        "api key": api_key,
        "wrong api key": "orc_" + "w" * 43,
        "token": a_token(signing_key),
        "forged token": a_token(stranger),
        "token in the body": a_token(signing_key),
        "password": "correct-horse-77",
        "wrong password": "battery-staple-88",
        "portia's key": "portia-key-of-this-test-99",
        "secret key": "secret-key-of-this-test-" + "5" * 40,
        "private key": signing_key.as_dict(private=True)["d"],
    }
    lines: list[str] = []
    environment = on_the_test_database() | {
        "DATA_DIR": str(tmp_path / "data"), "LOG_LEVEL": "DEBUG", "CAPTOKENS_JWKS_FILE": str(tmp_path / "jwks.json"),
        "PORTIA_API_KEY": secrets["portia's key"], "SECRET_KEY": secrets["secret key"],
    }  # fmt: skip
    with running_stack(environment=environment, write=lambda name, line: lines.append(line)) as stack:
        run_id = use(stack.web_url, secrets)
        wait_until(lambda: Run.objects.get(pk=run_id).is_terminal, seconds=30)
        sign_in_badly_and_well(stack.web_url, secrets)
    assert Run.objects.get(pk=run_id).status == "completed", Run.objects.get(pk=run_id).error
    assert len(lines) >= 3
    assert found_in("\n".join(lines), secrets) == []
    assert found_in(written_files(tmp_path / "data"), secrets) == []
    assert found_in_tables(secrets) == []


def use(url, secrets):
    """Submit with every kind of key and token, right and wrong; give the run that was accepted."""
    right = {"Authorization": f"Bearer {secrets['api key']}", "X-Capability-Token": secrets["token"]}
    body = {"executable_plan": PLAN, "triggered_by": "alice"}

    def execute(expect, body=body, **headers):
        answer = requests.post(f"{url}/v1/execute", json=body, headers=headers, timeout=30)
        assert answer.status_code == expect, answer.text
        assert found_in(answer.text, secrets) == []
        return answer.json()

    execute(401, **{**right, "Authorization": f"Bearer {secrets['wrong api key']}"})
    execute(403, **{**right, "X-Capability-Token": secrets["forged token"]})
    execute(422, body={**body, "password": secrets["wrong password"]}, **right)
    in_query = {"capability_token": secrets["token"], "api_key": secrets["api key"]}
    requests.get(f"{url}/v1/executions", params=in_query, headers=right, timeout=30)
    requests.get(f"{url}/v1/nothing/{secrets['api key']}", headers=right, timeout=30)
    by_body = {**body, "capability_token": secrets["token in the body"], "parameters": {"n": 2}}
    execute(202, body=by_body, Authorization=right["Authorization"])
    return execute(202, **right)["run_id"]


def sign_in_badly_and_well(url, secrets):
    with requests.Session() as session:
        page = f"{url}/admin/login/"
        for password, expect in ((secrets["wrong password"], 200), (secrets["password"], 302)):
            token = re.search(r'csrfmiddlewaretoken" value="(\w+)"', session.get(page, timeout=30).text)[1]
            form = {"username": "bob", "password": password, "csrfmiddlewaretoken": token}
            answer = session.post(page, form, headers={"Referer": page}, allow_redirects=False, timeout=30)
            assert answer.status_code == expect
        secrets["session"] = session.cookies["sessionid"]


def found_in(text, secrets):
    return [name for name, secret in secrets.items() if secret in text]


def written_files(folder: Path) -> str:
    """Every file the processes wrote, and the log of the database they worked on."""
    files = [Path(path) / name for path, _, names in os.walk(folder) for name in names]
    files.append(settings.DATA_DIR / "postgres" / "server.log")
    return "\n".join(one.read_bytes().decode("latin-1") for one in files if one.is_file())


def found_in_tables(secrets):
    """Secrets that stand in any column of any table; the key of a session is what its row is found by."""
    kept = [secret for name, secret in secrets.items() if name != "session"]
    patterns = [f"%{written}%" for secret in kept for written in (secret, secret.encode().hex())]
    with connection.cursor() as cursor:
        cursor.execute(EVERY_TEXT)
        queries = [query for (query,) in cursor.fetchall()]
        assert len(queries) > 20
        return [query for query in queries if _count(cursor, query, patterns)]


def _count(cursor, query, patterns):
    cursor.execute(query, [patterns])
    return cursor.fetchone()[0]
