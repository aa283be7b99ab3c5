"""POST /runs with an Idempotency-Key: one run per key, however often and however much at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from portia_runtime.models import Run
from tests.portia_runtime.conftest import Client

ECHO = {"id": "a", "tool": "echo"}


def post(client: Client, key: str, **body):
    return client.call("POST", "/runs", json=body, headers={"Idempotency-Key": key})


def test_the_same_request_again_gives_the_run_as_it_is_now(client: Client):
    plan_id = client.plan(ECHO)
    first = post(client, "k-1", plan_id=plan_id, parameters={"a": 1, "b": 2})
    client.until(first.json()["run_id"])
    again = post(client, "k-1", parameters={"b": 2, "a": 1}, plan_id=plan_id)
    assert (first.status_code, again.status_code) == (201, 200)
    assert (again.headers["Idempotency-Replayed"], again.json()["status"]) == ("true", "completed")
    assert again.json()["run_id"] == first.json()["run_id"]


def test_the_same_key_with_another_body_is_refused(client: Client):
    plan_id = client.plan(ECHO)
    post(client, "k-1", plan_id=plan_id)
    answer = post(client, "k-1", plan_id=plan_id, triggered_by="somebody")
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")


def test_many_requests_at_once_with_one_key_make_one_run(client: Client, portia_runtime):
    plan_id = client.plan(ECHO)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: post(Client(portia_runtime), "same", plan_id=plan_id), range(200)))
    assert sorted({answer.status_code for answer in answers}) == [200, 201]
    assert len({answer.json()["run_id"] for answer in answers}) == Run.objects.count() == 1


def test_another_tenant_may_use_the_same_key(client: Client, mallory: Client):
    ours = post(client, "k", plan_id=client.plan(ECHO)).json()
    theirs = post(mallory, "k", plan_id=mallory.plan(ECHO))
    assert theirs.status_code == 201
    assert theirs.json()["run_id"] != ours["run_id"]


def test_requests_without_a_key_make_a_run_each(client: Client):
    plan_id = client.plan(ECHO)
    assert client.start(plan_id)["run_id"] != client.start(plan_id)["run_id"]


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_of_the_wrong_length_is_refused(client: Client, key):
    answer = post(client, key, plan_id=client.plan(ECHO))
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_idempotency_key")


def test_a_key_used_for_an_unknown_plan_is_free_again(client: Client):
    assert post(client, "k", plan_id="later").status_code == 404
    client.plan(ECHO, plan_id="later")
    assert post(client, "k", plan_id="later").status_code == 201
