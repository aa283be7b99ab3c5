"""The wire: keys, tenants, problem documents, limits, batches, long polls, lists."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.portia_runtime.conftest import Client

ECHO = {"id": "a", "tool": "echo"}
GATE = {"id": "gate", "type": "approval", "parameters": {"message": "?"}}


def problem(answer: requests.Response, status: int, code: str):
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["Content-Type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == body["status_code"] == status
    assert body["message"] == body["detail"]
    assert body["request_id"] == answer.headers["X-Request-ID"]
    return body


def test_health_needs_no_key_and_tells_what_is_there(portia_runtime):
    body = requests.get(f"{portia_runtime.base_url}/api/v1/health", timeout=5).json()
    assert (body["status"], body["runtime"], body["api_version"], body["llm"]) == ("ok", "embedded", "v1", False)
    assert "callbacks" not in body["capabilities"]


@pytest.mark.parametrize("header", [None, "Api-Key wrong", "Basic abc", "Api-Key", "Bearer \u00e9"])
def test_everything_else_needs_the_key(client: Client, header):
    client.session.headers["Authorization"] = header.encode("latin-1") if header else None
    problem(client.call("GET", "/tools"), 401, "unauthorized")


def test_bearer_is_accepted_too(client: Client, portia_runtime):
    client.session.headers["Authorization"] = f"Bearer {portia_runtime.api_key}"
    assert client.call("GET", "/tools").status_code == 200


def test_the_older_name_of_the_tenant_header_counts(client: Client):
    run = client.run(ECHO)
    answer = client.call("GET", f"/runs/{run['run_id']}", headers={"x-portia-org-id": "other"})
    problem(answer, 404, "run_not_found")


def test_the_request_id_is_echoed(client: Client):
    assert client.call("GET", "/tools", headers={"X-Request-ID": "r-1"}).headers["X-Request-ID"] == "r-1"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b'{"a": NaN}', b"[" * 5000, b'{"plan_id": "a\\u0000"}', b'{"a": "\\ud800"}'],
)
def test_a_body_that_is_no_usable_json_is_refused(client: Client, body):
    for path in ("/plans", "/runs"):
        problem(client.call("POST", path, data=body), 400, "invalid_json")


@pytest.mark.parametrize(
    "body", [b"[]", b"3", b'"x"', b"null", b'{"plan_id": 3}', b'{"plan_id": "p", "parameters": []}']
)
def test_a_body_of_the_wrong_shape_is_refused(client: Client, body):
    problem(client.call("POST", "/runs", data=body), 422, "invalid_request")


def test_a_body_that_is_too_large_is_refused(client: Client, settings):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1_000
    problem(client.call("POST", "/plans", json={"plan_id": "x" * 2_000}), 413, "payload_too_large")


def test_unknown_addresses_and_methods_are_problems(client: Client):
    problem(client.call("GET", "/nothing"), 404, "not_found")
    problem(client.call("GET", "/../admin"), 404, "not_found")
    answer = client.call("DELETE", "/runs")
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET, POST"


@pytest.mark.parametrize(
    "path", ["/runs/x%00y", "/plans/a%00", "/runs?ids=a%00", "/clarifications/%00", "/runs?plan_id=%00"]
)
def test_the_nul_character_in_an_address_is_refused(client: Client, path):
    problem(client.call("GET", path), 422, "invalid_request")


def test_a_run_of_an_unknown_plan_is_refused(client: Client):
    problem(client.call("POST", "/runs", json={"plan_id": "nope"}), 404, "plan_not_found")


def test_a_new_run_says_where_it_is_and_its_version(client: Client):
    answer = client.call("POST", "/runs", json={"plan_id": client.plan(ECHO), "metadata": {"k": 1}, "end_user_id": "u"})
    assert answer.headers["Location"] == f"/api/v1/runs/{answer.json()['run_id']}"
    assert (answer.headers["ETag"], answer.json()["metadata"]) == ('"1"', {"k": 1})


def test_an_unchanged_run_is_not_sent_again(client: Client):
    run = client.run(ECHO)
    tag = f'"{run["version"]}"'
    answer = client.call("GET", f"/runs/{run['run_id']}", headers={"If-None-Match": tag})
    assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", tag)


def test_a_long_poll_answers_as_soon_as_the_run_changes(client: Client, portia_runtime):
    run = client.run(GATE)
    asked = client.question(run)
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(client.get, f"/runs/{run['run_id']}", params={"wait": 20, "since": run["version"]})
        time.sleep(0.3)
        assert not poll.done()
        began = time.monotonic()
        Client(portia_runtime).answer(asked)
        assert poll.result(5)["version"] > run["version"]
        assert time.monotonic() - began < 2


def test_a_long_poll_gives_the_unchanged_run_when_the_time_is_over(client: Client):
    run = client.run(GATE)
    began = time.monotonic()
    assert client.get(f"/runs/{run['run_id']}", params={"wait": 0.3, "since": run["version"]}) == run
    assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize(
    ("name", "value"), [("wait", "56"), ("wait", "-1"), ("wait", "nan"), ("wait", "x"), ("since", "1.5")]
)
def test_a_poll_with_senseless_numbers_is_refused(client: Client, name, value):
    run = client.run(ECHO)
    problem(client.call("GET", f"/runs/{run['run_id']}", params={name: value}), 422, "invalid_request")


def test_a_batch_gives_runs_in_the_order_asked_and_names_the_missing(client: Client, mallory: Client):
    ids = [client.run(ECHO)["run_id"] for _ in range(3)]
    foreign = mallory.run(ECHO)["run_id"]
    batch = client.get("/runs", params={"ids": ",".join([ids[2], "gone", ids[0], foreign])})
    assert [run["run_id"] for run in batch["runs"]] == [ids[2], ids[0]]
    assert (batch["missing"], batch["count"], batch["next_cursor"]) == (["gone", foreign], 2, None)
    assert batch["runs"][1] == client.get(f"/runs/{ids[0]}")


def test_a_batch_of_more_than_a_hundred_is_refused(client: Client):
    problem(client.call("GET", "/runs", params={"ids": ",".join(map(str, range(101)))}), 422, "too_many_ids")


def test_a_list_pages_through_runs_with_the_oldest_change_first(client: Client):
    ids = [client.run(ECHO)["run_id"] for _ in range(5)]
    seen, cursor = [], None
    while len(seen) < 5:
        page = client.get("/runs", params={"limit": 2, "cursor": cursor, "status": "completed"})
        seen += [run["run_id"] for run in page["runs"]]
        cursor = page["next_cursor"]
    assert (seen, cursor) == (ids, None)


def test_a_list_can_be_narrowed(client: Client):
    done, waiting = client.run(ECHO), client.run(GATE)
    listed = client.get("/runs", params={"status": "paused"})["runs"]
    assert [run["run_id"] for run in listed] == [waiting["run_id"]]
    listed = client.get("/runs", params={"plan_id": done["plan_id"], "updated_since": done["updated_at"]})["runs"]
    assert [run["run_id"] for run in listed] == [done["run_id"]]


@pytest.mark.parametrize(
    ("name", "value"), [("status", "asleep"), ("limit", "0"), ("cursor", "nonsense"), ("updated_since", "yesterday")]
)
def test_a_list_with_senseless_filters_is_refused(client: Client, name, value):
    problem(client.call("GET", "/runs", params={name: value}), 422, "invalid_request")


def test_a_request_id_that_is_no_plain_text_is_replaced(client: Client):
    answer = client.call("GET", "/tools", headers={"X-Request-ID": "x" * 500})
    assert len(answer.headers["X-Request-ID"]) == 36
