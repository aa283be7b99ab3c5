"""Whatever is sent as a body, the answer is one of ours: no crash, no stack trace, and errors that point into the body."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from django.db import transaction
from drf_spectacular.generators import SchemaGenerator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from executions import captoken_keys
from executions.actions.tenants import create_api_key
from executions.api.examples import examples, plan
from executions.api.plan_schema import PLAN_SCHEMA
from executions.models import Scope
from executions.plan_document import PlanError, PlanInvalid, parse
from tests.factories.bodies import any_json, mutated
from tests.factories.models import ApiKeyFactory, ClarificationFactory, PlanFactory, RunFactory

JSON = dict[str, Any]
PLANS = ["fan_out", "loop", "refund", "rollback", "user_input", "welcome"]
WISHES = {
    "parameters": {"email": "maria@example.com", "lines": [{"n": 1}]}, "variables": {"shop": "Nordlicht"}, "timeout": 5.5,
    "labels": {"team": "a"}, "hooks": [], "validate_capabilities": True, "capability_token": "a.b.c", "triggered_by": "alice",
    "retry_policy": {
        "max_attempts": 3, "initial_delay": 0.5, "max_delay": 2, "exponential_base": 1.5, "jitter": False,
    },
}  # fmt: skip
OUTSIDE = {
    "correlation_id": "order-1",
    "request_id": "r-1",
    "timestamp": "now",
    "deduplicate": False,
    "async_execution": True,
}
MORE: dict[str, list[JSON]] = {
    "validate_plan": [WISHES],
    "execute": [
        {"plan_hash": plan("welcome")["plan_hash"], **WISHES, **OUTSIDE, "dry_run": True},
        {"plan_hash": plan("welcome")["plan_hash"], **OUTSIDE},
    ],
    "release_idempotency_key": [{"reason": "Sent by mistake.", "principal": "agent"}],
    "issue_captoken": [
        {
            "subject": "alice",
            "capabilities": ["a:b"],
            "tools": ["echo"],
            "lifetime": 60,
            "limits": {"echo": {"properties": {"text": {"type": "string", "maxLength": 5}}}},
        }
    ],
    "answer": [{"value": {"cost_centre": "A", "amount": 3, "urgent": True}, "reason": "So it is."}],
}
NO_HURRY = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@cache
def document() -> JSON:
    return json.loads(json.dumps(SchemaGenerator().get_schema(request=None, public=True)))


def posts() -> dict[str, tuple[str, JSON]]:
    """(path, operation) of every POST the document has, by operationId: a new one is tried without a word here."""
    found = [(path, item["post"]) for path, item in document()["paths"].items() if "post" in item]
    return {operation["operationId"]: (path, operation) for path, operation in found}


@pytest.fixture
def post(client, acme, person, away, settings, tmp_path):
    """POST a body, as bytes, to an operation; what it changes is taken back."""
    settings.CAPTOKENS_SIGNING_KEY_FILE, settings.CAPTOKENS_JWKS_FILE = tmp_path / "private.jwk", tmp_path / "jwks.json"
    captoken_keys.make(private=settings.CAPTOKENS_SIGNING_KEY_FILE, jwks=settings.CAPTOKENS_JWKS_FILE)
    bob = person("bob")
    keys = {
        Scope.EXECUTE: create_api_key(
            tenant=acme, principal="agent", scopes=[Scope.EXECUTE, Scope.CONTROL, Scope.ADMIN]
        )[1],
        Scope.DECIDE: create_api_key(tenant=acme, principal="bob", scopes=[Scope.DECIDE], user=bob)[1],
    }
    stored = PlanFactory(tenant=acme, document=plan("welcome"), plan_hash=plan("welcome")["plan_hash"])
    run = RunFactory(tenant=acme, plan=stored, status="paused")
    names = {"run_id": run.pk, "plan_hash": stored.plan_hash, "key": "first"}
    names["token_id"] = "tok-4711"
    names["key_id"] = ApiKeyFactory(tenant=acme, scopes=[Scope.CONTROL]).pk
    kinds = {"approve": "confirmation", "answer": "custom"}

    def send(name: str, raw: bytes, **headers: str) -> Any:
        path = posts()[name][0]
        asked = ClarificationFactory(run=run, **({kinds[name]: True} if name in kinds else {}))
        decides = "clarification_id" in path
        address = path.format(**names, clarification_id=asked.pk)
        secret = keys[Scope.DECIDE if decides else Scope.EXECUTE]
        headers |= {"authorization": f"Bearer {secret}"}
        return client.post(address, raw, "application/json", headers=headers)

    def post(name: str, raw: bytes, **headers: str) -> Any:
        before = transaction.savepoint()
        try:
            return send(name, raw, **headers)
        finally:
            transaction.savepoint_rollback(before)

    client.raise_request_exception = False
    return post


@pytest.mark.django_db
@pytest.mark.parametrize("name", sorted(posts()))
def test_any_body_gets_an_answer_of_ours(name, post):
    sound = [*examples()[name].requests.values(), *MORE.get(name, ())] or [{}]
    bodies = any_json | st.sampled_from(sound).flatmap(mutated)

    @settings(max_examples=60, **NO_HURRY)
    @given(body=bodies, key=st.sampled_from([None, "a-key"]))
    def try_it(body, key):
        answer = post(
            name, json.dumps(body).replace("Infinity", "1e400").encode(), **({"idempotency-key": key} if key else {})
        )
        check_answer(name, body, answer)

    try_it()


@pytest.mark.django_db
@pytest.mark.parametrize("name", sorted(posts()))
def test_what_is_no_json_is_refused(name, post):
    @settings(max_examples=15, **NO_HURRY)
    @given(raw=st.binary(min_size=1, max_size=30).filter(is_no_json))
    def try_it(raw):
        answer = post(name, raw)
        assert (answer.status_code, answer.json()["code"]) == (400, "parse-error")

    try_it()


@settings(max_examples=300, **NO_HURRY)
@given(any_json | st.sampled_from(PLANS).map(plan).flatmap(mutated))
def test_the_plan_parser_raises_nothing_but_plan_invalid(value):
    plan_hash, errors = outcome(value)
    assert all(is_in(error.pointer, value) for error in errors), errors
    if plan_hash:
        fits = Draft202012Validator(PLAN_SCHEMA | {"components": document()["components"]})
        assert list(fits.iter_errors(value)) == []


def outcome(value: Any) -> tuple[str, list[PlanError]]:
    """The hash of what is a plan, or the errors of what is none."""
    try:
        return parse(value).plan_hash, []
    except PlanInvalid as invalid:
        return "", invalid.errors


def check_answer(name: str, body: Any, answer: Any) -> None:
    """It is an answer the document has; a refusal is a problem that points into the body; only what fits is done."""
    operation = posts()[name][1]
    assert str(answer.status_code) in operation["responses"], (answer.status_code, answer.content)
    if answer.status_code >= 400:
        assert answer["Content-Type"] == "application/problem+json"
        wrong = [one["pointer"] for one in answer.json().get("errors", ()) if not is_in(one["pointer"], body)]
        assert wrong == []
    elif "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        fits = Draft202012Validator(schema | {"components": document()["components"]})
        assert list(fits.iter_errors({} if body is None else body)) == []


def is_in(pointer: str, value: Any) -> bool:
    """Whether a JSON Pointer (RFC 6901) leads to something in the value, or to a member that its parent could have."""
    if pointer and not pointer.startswith("/"):
        return False
    way = [token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:]]
    for left, token in zip(range(len(way) - 1, -1, -1), way, strict=True):
        if isinstance(value, dict) and token in value:
            value = value[token]
        elif isinstance(value, list) and token.isdigit() and int(token) < len(value):
            value = value[int(token)]
        else:
            return left == 0
    return True


def is_no_json(raw: bytes) -> bool:
    try:
        json.loads(raw)
    except ValueError:
        return True
    return False
