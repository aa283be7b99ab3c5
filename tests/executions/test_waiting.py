"""Waiting instead of polling: `Prefer: wait=N`, `async_execution: false`, `?since=version`; and versions as entity tags."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Event

import pytest
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext

from executions import idempotency, tasks, waiting
from executions.actions.tenants import revoke_api_key
from executions.models import ApiKey, Run
from tests.conftest import work, work_until
from tests.executions.test_idempotency_table import in_flight, post
from tests.executions.test_submission import ECHO, submit
from tests.factories import documents

pytestmark = pytest.mark.django_db(transaction=True)


def in_thread(pool, function, *args, **kwargs):
    def call():
        try:
            began = time.monotonic()
            return function(*args, **kwargs), time.monotonic() - began
        finally:
            connection.close()

    return pool.submit(call)


def look(api, run_id, *, since=None, **headers):
    path = f"/v1/executions/{run_id}" + (f"?since={since}" if since is not None else "")
    return api.client.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})


def execute(api, **fields):
    prefer = fields.pop("prefer", "")
    headers = {"prefer": prefer} if prefer else {}
    return api.client.post("/v1/execute", {"executable_plan": ECHO, **fields}, "application/json", headers=headers)


def work_for(seconds):
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        work()
        time.sleep(0.02)


def until_paused_but_for_the_bridge():
    ends_at = time.monotonic() + 15
    while not Run.objects.filter(status="paused").exists():
        assert time.monotonic() < ends_at
        tasks.launch()
        tasks.sync()
        time.sleep(0.02)


def every_place(stack):
    while stack.enter_context(waiting.place(seconds=1)):
        pass


def test_execute_answers_with_the_ended_run_when_it_ends_in_time(api, portia):
    with ThreadPoolExecutor(1) as pool:
        waiting_call = in_thread(pool, execute, api, prefer="wait=20")
        work_for(1.5)
        response, seconds = waiting_call.result()
    assert (response.status_code, response.json()["status"]) == (200, "completed")
    assert response["Preference-Applied"] == "wait=20"
    assert response["ETag"] == f'"{response.json()["version"]}"'
    assert seconds < 10


def test_synchronous_execution_waits_by_itself(api, portia):
    with ThreadPoolExecutor(1) as pool:
        waiting_call = in_thread(pool, execute, api, async_execution=False)
        work_for(1.5)
        response, _ = waiting_call.result()
    assert (response.status_code, response.json()["status"]) == (200, "completed")
    assert "Preference-Applied" not in response


def test_execute_answers_202_with_the_state_so_far_when_the_time_is_over(api):
    response = execute(api, prefer="respond-async, wait=1")
    assert (response.status_code, response.json()["status"]) == (202, "pending")
    assert response["Location"] == f"/v1/executions/{response.json()['run_id']}"


def test_execute_stops_waiting_when_the_run_waits_for_a_person(api, portia):
    asks = documents.plan(documents.step("ask", "approval", title="Go?", message="Go?"))
    with ThreadPoolExecutor(1) as pool:
        waiting_call = in_thread(pool, execute, api, executable_plan=asks, prefer="wait=20")
        work_for(2)
        response, seconds = waiting_call.result()
    assert (response.status_code, response.json()["reason"]) == (202, "awaiting_clarification")
    assert seconds < 10


def test_execute_waits_until_the_person_has_been_asked(api, portia):
    asks = documents.plan(documents.step("ask", "approval", title="Go?", message="Go?"))
    with ThreadPoolExecutor(1) as pool:
        waiting_call = in_thread(pool, execute, api, executable_plan=asks, prefer="wait=20")
        until_paused_but_for_the_bridge()
        time.sleep(0.5)
        assert not waiting_call.done()
        work()
        response, _ = waiting_call.result()
    assert len(api.get("/v1/approvals")["results"]) == 1
    assert response.json()["pending_clarifications"]


def test_a_preference_wins_over_synchronous_execution(api):
    began = time.monotonic()
    assert execute(api, async_execution=False, prefer="wait=0").status_code == 202
    assert time.monotonic() - began < 5


def test_a_repeat_that_waits_gets_the_run_as_it_is_by_then(api, portia):
    first = execute(api).json()
    work_until(first["run_id"], status="completed")
    again = execute(api, prefer="wait=5")
    assert (again.status_code, again["Idempotency-Replayed"]) == (200, "true")
    assert again.json()["status"] == "completed"


def test_looking_with_since_returns_at_the_next_change(api, portia):
    run = submit(api)
    with ThreadPoolExecutor(1) as pool:
        waiting_call = in_thread(pool, look, api, run["run_id"], since=run["version"], prefer="wait=20")
        time.sleep(0.3)
        assert not waiting_call.done()
        work()
        response, seconds = waiting_call.result(timeout=10)
    assert response.json()["version"] > run["version"]
    assert (response["Preference-Applied"], seconds < 10) == ("wait=20", True)


def test_looking_with_an_old_version_returns_at_once(api):
    run = submit(api)
    began = time.monotonic()
    assert look(api, run["run_id"], since=run["version"] - 1, prefer="wait=20").json()["version"] == run["version"]
    assert time.monotonic() - began < 5


def test_looking_without_a_preference_returns_at_once(api):
    run = submit(api)
    began = time.monotonic()
    assert look(api, run["run_id"], since=run["version"]).status_code == 200
    assert time.monotonic() - began < 5


def test_a_wait_sleeps_instead_of_asking(api):
    run = submit(api)
    with CaptureQueriesContext(connections["default"]) as queries:
        look(api, run["run_id"], since=run["version"], prefer="wait=2")
    assert len(queries) < 15


@pytest.mark.parametrize(
    "ask", [lambda api, run: look(api, run, prefer="wait=20"), lambda api, run: execute(api, prefer="wait=20")]
)
def test_a_key_that_is_revoked_while_it_waits_gets_nothing(api, portia, ask):
    run = submit(api)
    with ThreadPoolExecutor(1) as pool:
        waiting_call = in_thread(pool, ask, api, run["run_id"])
        time.sleep(0.3)
        revoke_api_key(ApiKey.objects.get(principal="agent"), by="ops")
        work_for(1.5)
        response, seconds = waiting_call.result()
    assert (response.status_code, response.json()["code"]) == (401, "authentication-failed")
    assert seconds < 10


def test_a_key_that_is_revoked_while_it_waits_for_its_own_request_gets_no_answer(api):
    with ThreadPoolExecutor(1) as pool:
        with in_flight(api):
            repeat = in_thread(pool, post, api, prefer="wait=5")
            time.sleep(0.3)
            revoke_api_key(ApiKey.objects.get(principal="agent"), by="ops")
        response, _ = repeat.result()
    assert (response.status_code, response.json()["code"]) == (401, "authentication-failed")
    assert Run.objects.count() == 1


def test_no_wait_is_given_where_every_place_is_taken(api):
    run = submit(api)
    with ExitStack() as stack:
        every_place(stack)
        began = time.monotonic()
        seen = look(api, run["run_id"], since=run["version"], prefer="wait=20")
        sent = execute(api, prefer="wait=20", deduplicate=False)
        assert time.monotonic() - began < 5
    assert (seen.status_code, sent.status_code) == (200, 202)
    assert "Preference-Applied" not in seen
    assert "Preference-Applied" not in sent


def test_a_wait_for_a_run_that_is_deleted_meanwhile_ends(api):
    run = submit(api)
    with ThreadPoolExecutor(1) as pool:
        waiting_call = in_thread(pool, look, api, run["run_id"], prefer="wait=2")
        time.sleep(0.3)
        Run.objects.all().delete()
        response, _ = waiting_call.result()
    assert response.status_code == 404


@pytest.mark.parametrize(
    "prefer", ["wait=soon", "wait=-1", "wait", "waits=5", "return=minimal", "wait=99999999", "\u00e9"]
)
def test_a_preference_that_cannot_be_read_is_ignored(api, prefer):
    run = submit(api)
    began = time.monotonic()
    assert look(api, run["run_id"], prefer=prefer).status_code == 200
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("since", ["x", "-1", "1.5", "", "9" * 11])
def test_a_since_that_is_no_version_is_refused(api, since):
    run = submit(api)
    assert "since" in api.get(f"/v1/executions/{run['run_id']}?since={since}", expect=400)["detail"]


def test_an_unknown_parameter_is_refused(api):
    run = submit(api)
    assert "wait" in api.get(f"/v1/executions/{run['run_id']}?wait=5", expect=400)["detail"]


def test_an_unchanged_run_is_not_sent_again(api, portia):
    run = submit(api)
    etag = look(api, run["run_id"])["ETag"]
    assert etag == f'"{run["version"]}"'
    unchanged = look(api, run["run_id"], if_none_match=etag)
    assert (unchanged.status_code, unchanged.content, unchanged["ETag"]) == (304, b"", etag)
    work()
    assert look(api, run["run_id"], if_none_match=etag).status_code == 200


def test_every_change_that_shows_is_a_new_version(api, bob, portia):
    run = submit(api, documents.plan(documents.step("ask", "approval", title="Go?", message="Go?")))
    seen = {}
    ends_at = time.monotonic() + 15
    while time.monotonic() < ends_at:
        body = look(api, run["run_id"]).json()
        assert seen.setdefault(body["version"], body) == body
        if body["pending_clarifications"]:
            break
        work()
    assert len(seen) >= 2


def test_what_a_version_shows_is_of_that_version_however_fast_it_changes(api, portia):
    run = submit(api)
    work_until(run["run_id"], status="completed")
    stop = Event()

    def change():
        while not stop.is_set():
            with transaction.atomic():
                changed = Run.objects.select_for_update().get(pk=run["run_id"])
                changed.steps.update(attempts=changed.version + 1)
                changed.touch()

    with ThreadPoolExecutor(1) as pool:
        changing = in_thread(pool, change)
        seen = [look(api, run["run_id"]) for _ in range(60)]
        stop.set()
        changing.result()
    shown = {(one["ETag"], f'"{one.json()["steps"][0]["attempts"]}"') for one in seen[10:]}
    assert len(shown) > 10
    assert all(etag == attempts for etag, attempts in shown)


def test_a_command_takes_no_body_but_an_empty_one(api):
    run = submit(api)
    refused = api.post(f"/v1/executions/{run['run_id']}/pause", {"reason": "lunch"}, expect=422)
    assert [(one["pointer"], one["code"]) for one in refused["errors"]] == [("/reason", "unknown_field")]
    assert api.post(f"/v1/executions/{run['run_id']}/pause", {}, expect=202)


def test_a_command_for_a_locked_run_says_that_somebody_holds_it(api, monkeypatch):
    monkeypatch.setattr(idempotency, "LOCK_TIMEOUT", "100ms")
    run = submit(api)
    with ThreadPoolExecutor(1) as pool, transaction.atomic():
        Run.objects.select_for_update().get(pk=run["run_id"])
        problem, _ = in_thread(pool, api.post, f"/v1/executions/{run['run_id']}/pause", expect=503).result()
    assert "holds" in problem["detail"]


@pytest.mark.parametrize("tag", ['"{version}"', '"999", "{version}"', "*"])
def test_a_command_for_the_version_that_is_there_is_done(api, tag):
    run = submit(api)
    done = api.post(
        f"/v1/executions/{run['run_id']}/pause", expect=202, **{"if-match": tag.format(version=run["version"])}
    )
    assert done["version"] > run["version"]


def test_a_command_for_another_version_is_refused_and_changes_nothing(api):
    run = submit(api)
    problem = api.post(f"/v1/executions/{run['run_id']}/cancel", expect=412, **{"if-match": '"999"'})
    assert (problem["code"], problem["current_version"]) == ("version-changed", run["version"])
    assert problem["allowed_commands"] == ["pause", "cancel"]
    assert api.get(f"/v1/executions/{run['run_id']}")["status"] == "pending"


@pytest.mark.parametrize("tag", ["7", 'W/"7"', '"seven"', "", '"0"', '"7'])
def test_a_version_that_is_none_is_refused(api, tag):
    run = submit(api)
    problem = api.post(f"/v1/executions/{run['run_id']}/cancel", expect=400, **{"if-match": tag})
    assert "If-Match" in problem["detail"]


def test_a_refused_command_says_what_is_allowed_now(api):
    run = submit(api)
    api.post(f"/v1/executions/{run['run_id']}/cancel", expect=202)
    problem = api.post(f"/v1/executions/{run['run_id']}/pause", expect=409)
    assert (problem["code"], problem["allowed_commands"]) == ("invalid-state", [])
