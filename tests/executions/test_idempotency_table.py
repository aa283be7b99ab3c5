"""Every row of the table in docs/reference/idempotency.md, as it is seen over the API.

A row that is no longer what happens fails here; `WRITE_DOCS=1` writes what was seen into the document.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone
from joserfc.jwk import OKPKey

from executions.actions.tenants import create_api_key
from executions.capabilities import issue
from executions.models import IdempotencyRecord, Plan, Run, Work
from tests.conftest import EVERYTHING, Api
from tests.factories import documents

pytestmark = pytest.mark.django_db(transaction=True)

DOCUMENT = Path(__file__).parents[2] / "docs/reference/idempotency.md"
HEAD = "| case | answer | runs |\n|---|---|---|\n"
ORDER = documents.plan(documents.action("greet", parameters={"text": "hello"}))
BODY = {"executable_plan": ORDER, "parameters": {"order": 17}}
KEY = {"idempotency-key": '"order-17"'}


@pytest.fixture
def fresh_token(settings, tmp_path):
    """Issue a token of acme's that differs from every other; the service knows the key."""
    key = OKPKey.generate_key("Ed25519")
    settings.CAPTOKENS_JWKS_FILE = tmp_path / "jwks.json"
    settings.CAPTOKENS_JWKS_FILE.write_text(json.dumps({"keys": [key.as_dict(private=False)]}))

    def make() -> str:
        who = {"issuer": "test", "tenant": "acme", "subject": "agent"}
        return issue(key=key, capabilities=["orders:*"], now=timezone.now(), **who)

    return make


def post(api: Api, path: str = "/v1/execute", body: Any = BODY, **headers: str) -> Any:
    sent = KEY | {name.replace("_", "-"): value for name, value in headers.items()}
    present = {name: value for name, value in sent.items() if value}
    return api.client.post(path, body, "application/json", headers=present)


def without_key(api: Api, **fields: Any) -> Any:
    return api.client.post("/v1/execute", BODY | fields, "application/json")


def holds(case: str, response: Any) -> None:
    """Compare a row with what was just seen."""
    code = response.json().get("code", "") if response.status_code >= 400 else ""
    words = [str(response.status_code), f"`{code}`" if code else "", *map(_shown_header(response), SHOWN_HEADERS)]
    row = f"| {case} | {', '.join(filter(None, words))} | {Run.objects.count()} |"
    text = DOCUMENT.read_text()
    if os.environ.get("WRITE_DOCS"):
        others = [line for line in _rows(text) if not line.startswith(f"| {case} |")]
        text = text.replace("\n".join([HEAD.strip(), *_rows(text)]), "\n".join([HEAD.strip(), *others, row]))
        DOCUMENT.write_text(text)
    assert row in _rows(text), f"saw: {row}"


SHOWN_HEADERS = ("Idempotency-Replayed", "Retry-After")


def _shown_header(response: Any) -> Any:
    return lambda name: f"`{name}: {response[name]}`" if name in response else ""


def _rows(text: str) -> list[str]:
    return re.findall(r"^\|.*\|$", text.partition(HEAD)[2].partition("\n\n")[0], re.MULTILINE)


@contextmanager
def in_flight(api: Api, **fields: Any) -> Iterator[Future[Any]]:
    """A request that is held between its claim and its commit, by a lock on what it writes, during the block."""
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("LOCK TABLE executions_run IN SHARE MODE")
            held.set()
            let_go.wait(10)
        connection.close()

    def send() -> Any:
        try:
            return post(api, **fields)
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as pool:
        holder = pool.submit(hold)
        held.wait(10)
        request = pool.submit(send)
        _wait_until_blocked()
        try:
            yield request
        finally:
            let_go.set()
            holder.result()
            request.result()


def _wait_until_blocked() -> None:
    deadline = time.monotonic() + 10
    with connection.cursor() as cursor:
        while time.monotonic() < deadline:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'executions_run'::regclass")
            if cursor.fetchone()[0]:
                return
            time.sleep(0.01)
    raise AssertionError("the request did not get as far as its run")


def test_a_first_call(api):
    response = post(api)
    holds("first call with a key", response)
    assert response["Idempotency-Key"] == '"order-17"'
    assert response["Idempotency-Key-Expires"].endswith("Z")


def test_a_replay_is_the_first_answer_byte_for_byte(api):
    first, again = post(api), post(api)
    holds("the same again", again)
    assert (again.content, again["Location"], again["ETag"]) == (first.content, first["Location"], first["ETag"])
    assert again["Idempotency-Key-Expires"] == first["Idempotency-Key-Expires"]


def test_spelling_does_not_matter(api):
    post(api)
    turned = dict(reversed(BODY.items())) | {"executable_plan": dict(reversed(ORDER.items()))}
    holds("the same, members in another order, key without quotes", post(api, body=turned, idempotency_key="order-17"))


def test_a_fresh_token_does_not_matter(api, fresh_token):
    post(api, body=BODY | {"capability_token": fresh_token()})
    holds("the same with a fresh `capability_token`", post(api, body=BODY | {"capability_token": fresh_token()}))


def test_a_repeat_in_production_is_answered_whatever_has_become_of_its_token(api, fresh_token, settings):
    settings.IS_PRODUCTION = True
    listed = documents.plan(
        documents.action("greet", parameters={"text": "hello"}), security_context={"allowed_tools": ["echo"]}
    )
    body = BODY | {"executable_plan": listed}
    holds("first call in production without a `capability_token`", post(api, body=body))
    post(api, body=body | {"capability_token": fresh_token()})
    holds("a repeat in production without one", post(api, body=body))
    assert post(api, body=body | {"capability_token": "expired"}).json()["run_id"] == str(Run.objects.get().pk)
    assert post(api, body=body, idempotency_key="order-18").status_code == 403


def test_another_body(api):
    post(api)
    holds("another body under the key", post(api, body=BODY | {"parameters": {"order": 18}}))


def test_another_route(api):
    run = post(api).json()
    holds("another route under the key", post(api, f"/v1/executions/{run['run_id']}/cancel", body=None))


def test_another_principal(api, acme):
    post(api)
    colleague = Api(create_api_key(tenant=acme, principal="colleague", scopes=EVERYTHING)[1])
    holds("the same from another principal of the tenant", post(colleague))


def test_another_key_of_the_same_principal(api, acme):
    post(api)
    rotated = Api(create_api_key(tenant=acme, principal="agent", scopes=EVERYTHING)[1])
    holds("the same from the same principal with another API key", post(rotated))


def test_another_tenant(api, mallory):
    post(api)
    holds("the same from another tenant", post(mallory))


def test_in_flight(api):
    with in_flight(api):
        repeat = post(api)
    holds("the same while the first is in flight", repeat)


def test_in_flight_with_patience(api):
    with ThreadPoolExecutor(1) as pool, in_flight(api) as first:
        repeat = pool.submit(_and_close, post, api, prefer="wait=3")
        time.sleep(0.2)
        assert not repeat.done()
    holds("… with `Prefer: wait=3`, which the first needs not", repeat.result())
    assert repeat.result()["Location"] == first.result()["Location"]


def test_in_flight_with_too_little_patience(api):
    with in_flight(api):
        repeat = post(api, prefer="wait=1")
    holds("… with `Prefer: wait=1`, which is not enough", repeat)


def test_another_body_in_flight(api):
    with in_flight(api):
        with ThreadPoolExecutor(4) as pool:
            others = [pool.submit(_and_close, post, api, body=BODY | {"parameters": {"order": 18}}) for _ in range(8)]
        other = others[0].result()
    assert {one.result().status_code for one in others} == {422}
    holds("another body while the first is in flight", other)


def test_a_refusal_leaves_the_key_free(api):
    refused = post(api, body={"executable_plan": ORDER | {"main_flow": "nowhere"}})
    assert refused.status_code == 422
    holds("first call with the key of a refused one", post(api))


def test_a_crash_between_any_two_statements(api, acme):
    statements = 0
    while crashes(api, statement=statements):
        made = (Run.objects.count(), Work.objects.count(), IdempotencyRecord.objects.count())
        if made == (1, 1, 1):  # behind the commit there is one more statement, about the connection
            IdempotencyRecord.objects.all().delete()
            Run.objects.all().delete()
            break
        assert made == (0, 0, 0)
        assert (Plan.objects.count(), statements) < (1, 100)
        statements += 1
    assert statements > 10
    holds("first call after one that crashed before any of its statements", post(api))


def test_a_crash_after_the_commit(api):
    post(api)  # and its answer is lost
    holds("repeat after a crash behind the commit", post(api))


def test_an_expired_key(api):
    post(api)
    IdempotencyRecord.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    holds("the same after the key has expired", post(api))


def test_a_released_key(api):
    post(api)
    released = api.post("/v1/idempotency-keys/order-17/release", {"reason": "order was typed wrongly"}, expect=200)
    assert (released["state"], released["releases"][0]["released_by"]) == ("released", "agent")
    holds("another body after the key was released", post(api, body=BODY | {"parameters": {"order": 18}}))


def test_a_dry_run_needs_no_key(api):
    holds("dry run with a key", post(api, body=BODY | {"dry_run": True}))
    holds("first call with the key of a dry run", post(api))


def test_no_key(api):
    holds("first call without a key", without_key(api))
    holds("the same without a key", without_key(api, correlation_id="another", request_id="r2", timestamp="now"))
    holds("another body without a key", without_key(api, parameters={"order": 18}))
    holds('the same with `"deduplicate": false`', without_key(api, deduplicate=False))


def test_no_key_in_flight(api):
    with in_flight(api, idempotency_key=""):
        repeat = without_key(api)
    holds("the same without a key while the first is in flight", repeat)
    assert "without a key" in repeat.json()["detail"]


def test_no_key_and_time(api):
    without_key(api)
    IdempotencyRecord.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    holds("the same without a key after `DEDUPLICATION_TTL`", without_key(api))


def test_a_bad_key(api):
    holds("a key of 256 characters, or with characters beyond ASCII", post(api, idempotency_key="k" * 256))
    assert post(api, idempotency_key='"ä"').status_code == 400


class Crash(BaseException):
    """The end of the process, as far as the code under it can tell."""


class CrashBefore:
    """Counts the statements of a connection and crashes before the nth."""

    def __init__(self, *, statement: int) -> None:
        self.left = statement

    def __call__(self, execute: Any, sql: Any, params: Any, many: Any, context: Any) -> Any:
        if not self.left:
            raise Crash
        self.left -= 1
        return execute(sql, params, many, context)


def crashes(api: Api, *, statement: int) -> bool:
    """Whether a request has so many statements, and the process ends before this one."""
    try:
        with connection.execute_wrapper(CrashBefore(statement=statement)):
            post(api)
    except Crash:
        connection.close()  # as the end of the process does
        return True
    return False


def _and_close(function: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    finally:
        connection.close()
