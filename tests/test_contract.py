"""The running service keeps what the OpenAPI document promises, and the document's examples are real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.core.management import call_command
from django.db import connection
from django.utils import timezone
from drf_spectacular.generators import SchemaGenerator
from joserfc.jwk import OKPKey
from jsonschema import Draft202012Validator, FormatChecker

from executions import captoken_keys
from executions.actions.tenants import create_api_key, create_tenant
from executions.api.examples import examples, plan
from executions.api.links import LINKS
from executions.capabilities import issue
from executions.models import Scope
from orchestrator_project.stack import running_stack
from tests.orchestrator_project.processes import on_the_test_database

SEED = 20261124
SECONDS = 180  # schemathesis takes 40, and more on a busy machine
OF_ALL_HTTP = {
    "allow", "cache-control", "content-length", "content-security-policy", "content-type", "cross-origin-opener-policy",
    "cross-origin-resource-policy", "date", "permissions-policy", "referrer-policy", "server", "x-content-type-options",
    "x-frame-options",
}  # fmt: skip
DECISIONS = ("approve", "reject", "answer")
MARIA = {"email": "maria@example.com"}
FURTHER: dict[str, Any] = {  # requests that get the other good answer
    "execute": {"plan_hash": plan("welcome")["plan_hash"], "parameters": MARIA, "async_execution": False},
    "store_plan": plan("welcome") | {"plan_hash": None, "name": "Welcome somebody else"},
}
JSON = dict[str, Any]

SETTINGS = """
seed = {seed}
headers = {{ Authorization = "Bearer ${{SERVICE_KEY}}" }}
hooks = "{hooks}"
request-timeout = 20
suppress-health-check = ["all"]  # of the machine, and of how hard it is to find data
continue-on-failure = true

[generation]
max-examples = 10
database = "none"
allow-x00 = false  # NUL is refused everywhere, which a schema can say of single texts only

[checks]
object_level_authorization.enabled = false  # needs a second tenant; tests/executions/test_submission.py has one

[phases.stateful]
max-steps = 6
generation.max-examples = 40
inference.algorithms = []  # the links of the document, no guesses

[parameters]
"header.X-Tenant-ID" = "acme"
"header.Prefer" = "wait=0"
"header.X-Capability-Token" = "${{TOKEN}}"  # any other is refused with 403, which would hide whatever else is wrong
"header.If-Match" = {{ dictionary = "versions", probability = 0.8 }}
"path.run_id" = {{ dictionary = "runs", probability = 0.8 }}
"path.clarification_id" = {{ dictionary = "approvals", probability = 0.8 }}
"path.plan_hash" = {{ dictionary = "plans", probability = 0.8 }}
"path.key" = {{ dictionary = "keys", probability = 0.8 }}
"path.token_id" = {{ dictionary = "tokens", probability = 0.8 }}
"path.key_id" = {{ dictionary = "api_keys", probability = 0.8 }}

[dictionaries]
versions = {{ values = ["*", '"7"', '"8", "9"'] }}
runs = {{ values = {runs} }}
approvals = {{ values = {approvals} }}
plans = {{ values = {plans} }}
keys = {{ values = ["first", "second", "third"] }}
api_keys = {{ values = {api_keys} }}
tokens = {{ values = ["tok-4711", "tok-4712"] }}

[[operations]]
include-operation-id = "store_plan"
phases.coverage.generation.mode = "negative"  # what fits the schema alone is hardly ever a sound plan

[[operations]]
include-operation-id = ["approve", "reject", "answer"]
headers = {{ Authorization = "Bearer ${{PERSONAL_KEY}}" }}
"""


@dataclass(frozen=True)
class Service:
    """The running service, and keys of a program and of a person of one tenant."""

    url: str
    service_key: str
    personal_key: str
    signing_key: OKPKey

    def token(self) -> str:
        """A capability token for all of examples/plans; good for five minutes."""
        return issue(
            key=self.signing_key, issuer="captokens", tenant="acme", subject="carol", capabilities=["mail:*", "payments:*"],
            now=timezone.now(),
        )  # fmt: skip

    def call(self, method: str, path: str, body: Any = None, *, key: str = "", **headers: str) -> requests.Response:
        """Send a request; with a body as JSON."""
        headers |= {"Authorization": f"Bearer {key or self.service_key}"}
        return session.request(method, f"{self.url}{path}", json=body, headers=headers, timeout=60)

    def run(self, name: str, *, idempotency_key: str = "", **wishes: Any) -> str:
        """Submit one of the plans in examples/plans; returns the run's id."""
        body = {"executable_plan": plan(name), "deduplicate": False, **wishes}
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        answer = self.call("POST", "/v1/execute", body, **headers)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["run_id"])

    def made_key(self) -> str:
        """Make an API key that nobody uses; returns its id."""
        answer = self.call("POST", "/v1/api-keys", {"principal": "nobody", "scopes": ["read"]})
        return str(answer.json()["id"])

    def ended_run(self) -> str:
        """Submit a plan and wait for its end; returns the run's id."""
        run_id = self.run("welcome", parameters=MARIA)
        ended = self.call("GET", f"/v1/executions/{run_id}?since=999999", Prefer="wait=20").json()
        assert ended["status"] == "completed", ended
        return run_id

    def approval(self, name: str) -> str:
        """Submit a plan that asks; returns the id of its question."""
        run_id, deadline = self.run(name, triggered_by="alice"), time.monotonic() + 20
        while time.monotonic() < deadline:
            if found := self.call("GET", f"/v1/approvals?run_id={run_id}").json()["results"]:
                return str(found[0]["id"])
            time.sleep(0.1)
        raise AssertionError(f"{name} asked nothing")


session = requests.Session()
session.trust_env = False


@pytest.fixture(scope="module")
def service(django_db_setup: None, django_db_blocker: Any, tmp_path_factory: Any) -> Iterator[Service]:
    lines: list[str] = []
    folder = tmp_path_factory.mktemp("captokens")
    signing_key = captoken_keys.make(private=folder / "private.jwk", jwks=folder / "jwks.json")
    files = {"CAPTOKENS_JWKS_FILE": "jwks.json", "CAPTOKENS_SIGNING_KEY_FILE": "private.jwk"}
    with django_db_blocker.unblock():
        assert connection.settings_dict["NAME"].startswith("test_"), "tests with this fixture need the mark django_db"
        try:
            keys = _keys()
            with running_stack(
                environment=on_the_test_database() | {name: str(folder / file) for name, file in files.items()},
                write=lambda name, line: lines.append(f"{name} | {line}"),
            ) as stack:
                yield Service(stack.web_url, *keys, signing_key)
        finally:
            print("\n".join(lines[-200:]))
            call_command("flush", interactive=False, verbosity=0)


def _keys() -> tuple[str, str]:
    tenant = create_tenant(identifier="acme", name="Acme")
    bob = get_user_model().objects.create_user("bob", is_staff=True)
    bob.user_permissions.add(Permission.objects.get(codename="decide_clarification"))
    tenant.members.add(bob)
    scopes = [Scope.EXECUTE, Scope.READ, Scope.CONTROL, Scope.ADMIN]
    return (
        create_api_key(tenant=tenant, principal="agent", scopes=scopes)[1],
        create_api_key(tenant=tenant, principal="bob", scopes=[Scope.READ, Scope.DECIDE], user=bob)[1],
    )


@pytest.fixture(scope="module")
def document() -> JSON:
    return json.loads(json.dumps(SchemaGenerator().get_schema(request=None, public=True)))


@pytest.mark.django_db
@pytest.mark.processes
@pytest.mark.timeout(240)
def test_schemathesis_finds_nothing(service, tmp_path):
    config = tmp_path / "schemathesis.toml"
    config.write_text(_settings(service))
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config)]
    command += ["run", f"{service.url}/v1/schema", "--no-color"]
    environment = os.environ | {
        "SERVICE_KEY": service.service_key,
        "PERSONAL_KEY": service.personal_key,
        "TOKEN": service.token(),
        "NO_PROXY": "*",
    }
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr


def _settings(service: Service) -> str:
    """The settings of schemathesis, with the names of what there is to be found."""
    approvals = [service.approval(name) for name in ("refund", "refund", "user_input", "user_input")]
    runs = [service.call("GET", f"/v1/approvals/{one}").json()["run_id"] for one in approvals]
    runs += [service.run("welcome", parameters=MARIA, idempotency_key=key) for key in ("first", "second", "third")]
    return SETTINGS.format(
        seed=SEED,
        hooks=Path(__file__).with_name("contract_hooks.py"),
        runs=json.dumps(runs),
        approvals=json.dumps(approvals),
        api_keys=json.dumps([service.made_key() for _ in range(10)]),
        plans=json.dumps([plan(name)["plan_hash"] for name in ("welcome", "refund", "user_input")]),
    )


# -- examples


def test_every_operation_has_an_example_of_what_goes_in_and_out(document):
    operations = _operations(document)
    assert set(examples()) == set(operations)
    for name, (_, _, operation) in operations.items():
        assert bool(examples()[name].requests) == ("requestBody" in operation), name
        assert set(examples()[name].answers) == {status for status in operation["responses"] if status[0] == "2"}, name


@pytest.mark.parametrize("name", sorted(examples()))
def test_examples_have_exactly_the_members_the_document_names(document, name):
    _, _, operation = _operations(document)[name]
    for body in examples()[name].requests.values():
        _check(document, operation["requestBody"], body)
    for status, answers in examples()[name].answers.items():
        for answer in answers.values():
            _check(document, operation["responses"][status], answer)


@pytest.mark.django_db
@pytest.mark.processes
@pytest.mark.parametrize("name", sorted(examples()))
def test_the_service_takes_each_request_and_answers_like_its_example(service, document, name):
    where = _whereabouts(service, name)
    for number, body in enumerate((examples()[name].requests or {"": None}).values()):
        answer = _ask(service, document, name, where | _question(service, name), body, key=f"example-{name}-{number}")
        assert str(answer.status_code) in examples()[name].answers, answer.text
        described = _operations(document)[name][2]["responses"][str(answer.status_code)]
        _check(document, described, answer.json())
        assert {header.lower() for header in answer.headers} - OF_ALL_HTTP <= {
            one.lower() for one in described["headers"]
        }


@pytest.mark.django_db
@pytest.mark.processes
@pytest.mark.parametrize("name", sorted({source for source, _ in LINKS}))
def test_every_link_leads_somewhere(service, document, name):
    followed = set()
    for number, body in enumerate([*examples()[name].requests.values(), FURTHER.get(name)]):
        key = f"{name}-{number}"
        answer = _ask(service, document, name, _whereabouts(service, name) | _question(service, name), body, key)
        if "dry_run" in answer.json():  # which makes no run, and keeps no key
            continue
        for link, way in _operations(document)[name][2]["responses"][str(answer.status_code)].get("links", {}).items():
            where = {one: _resolved(value, answer, key) for one, value in way["parameters"].items()}
            seen = {one: _resolved(value, answer, key) for one, value in way.get("requestBody", {}).items()}
            reached = _ask(service, document, way["operationId"], where, _sample(way["operationId"]) | seen or None)
            assert reached.status_code in (200, 202, 400, 409), (link, reached.text)
            followed.add((str(answer.status_code), link))
    assert followed == {(status, link) for (source, status), links in LINKS.items() if source == name for link in links}


def _ask(service: Service, document: JSON, name: str, where: dict[str, str], body: Any, key: str = "") -> Any:
    """Send an operation's request with this body, to the address these names make."""
    method, path, _ = _operations(document)[name]
    who = service.personal_key if name in DECISIONS else service.service_key
    headers = {"Idempotency-Key": key} if key and method == "POST" else {}
    if isinstance(body, dict):  # tokens are good for five minutes only
        body = body | {one: service.token() for one in ("token", "capability_token") if one in body}
    return service.call(method, path.format(**where), body, key=who, **headers)


def _sample(name: str) -> JSON:
    return next(iter(examples()[name].requests.values()), {})


def _resolved(expression: str, answer: requests.Response, key: str) -> Any:
    """The value of a runtime expression, as far as links.py has them."""
    if expression == "$request.header.Idempotency-Key":
        return key
    value = answer.json()
    for part in expression.removeprefix("$response.body#/").split("/"):
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value


def _whereabouts(service: Service, name: str) -> dict[str, str]:
    """What stands in the address of an operation: a plan, or a key that was used."""
    service.call("POST", "/v1/plans", plan("welcome"))
    if name.endswith("idempotency_key"):
        service.run("welcome", parameters=MARIA, idempotency_key=name)
    key_id = service.made_key() if name.endswith("_api_key") else ""
    run_id = service.ended_run() if name == "get_receipt" else ""
    names = {"key": name, "key_id": key_id, "token_id": "tok-4711", "run_id": run_id}
    return {"plan_hash": plan("welcome")["plan_hash"], **names}


def _question(service: Service, name: str) -> dict[str, str]:
    """For what is asked of a run or a question: ones that wait."""
    if not name.endswith(("_execution", "_executions", "_approval", "_approvals")) and name not in DECISIONS:
        return {}
    approval = service.approval("user_input" if name == "answer" else "refund")
    run_id = service.call("GET", f"/v1/approvals/{approval}").json()["run_id"]
    if name == "resume_execution":
        service.call("POST", f"/v1/executions/{run_id}/pause")
    return {"clarification_id": approval, "run_id": run_id}


def _operations(document: JSON) -> dict[str, tuple[str, str, JSON]]:
    """(method, path, operation) by operationId."""
    found = [(method.upper(), path, one) for path, item in document["paths"].items() for method, one in item.items()]
    return {one["operationId"]: (method, path, one) for method, path, one in found}


def _check(document: JSON, place: JSON, value: Any) -> None:
    """The value fits the schema of a request or response, and has no member which that does not name."""
    schema = place["content"]["application/json"]["schema"] | {"components": _closed(document["components"])}
    Draft202012Validator(schema, format_checker=FormatChecker()).validate(value)


def _closed(components: JSON) -> JSON:
    schemas = {
        name: {"additionalProperties": False, **schema} if "properties" in schema else schema
        for name, schema in components["schemas"].items()
    }
    return {"schemas": schemas}
