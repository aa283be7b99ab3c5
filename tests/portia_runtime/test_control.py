"""Pause, resume and cancel: at a step boundary, idempotent, and refused where they make no sense."""

from __future__ import annotations

import pytest

from tests.portia_runtime.conftest import Client, step

SLOW = {"id": "slow", "tool": "tests.slow", "parameters": {"seconds": 1.0}}
AFTER = {"id": "after", "tool": "write_record", "parameters": {"key": "after", "increment": 1}}
GATE = {"id": "gate", "type": "approval", "parameters": {"message": "go on?"}}


@pytest.fixture(autouse=True)
def _slow_tool(settings):
    settings.PORTIA_RUNTIME_TOOLS = ["tests.portia_runtime.slow_tool.slow"]


def post(client: Client, run, verb):
    answer = client.call("POST", f"/runs/{run['run_id']}/{verb}")
    return answer.status_code, answer.json()


def in_slow_step(client: Client, *steps):
    run = client.start(client.plan(SLOW, *steps))
    while step(run, "slow")["status"] != "running":
        assert run["status"] in ("pending", "running")
        run = client.get(f"/runs/{run['run_id']}", params={"wait": 2, "since": run["version"]})
    return run


def test_a_pause_holds_the_run_after_the_running_step_and_resume_goes_on(client: Client):
    run = in_slow_step(client, AFTER)
    status, body = post(client, run, "pause")
    assert (status, body["pause_requested"], body["status"]) == (202, True, "running")
    run = client.until(run["run_id"])
    assert (run["status"], run["paused_reason"], run["pause_requested"]) == ("paused", "requested", False)
    assert [one["status"] for one in run["steps"]] == ["completed", "pending"]
    assert post(client, run, "pause")[0] == 200
    assert post(client, run, "resume")[0] == 202
    assert client.until(run["run_id"], "completed")["results"]["after"]["writes"] == 1


def test_resume_withdraws_a_pause_that_has_not_come_yet(client: Client):
    run = in_slow_step(client, AFTER)
    post(client, run, "pause")
    status, body = post(client, run, "resume")
    assert (status, body["pause_requested"]) == (200, False)
    assert client.until(run["run_id"])["status"] == "completed"


def test_after_a_cancel_no_new_step_starts(client: Client):
    run = in_slow_step(client, AFTER)
    status, body = post(client, run, "cancel")
    assert (status, body["cancel_requested"]) == (202, True)
    run = client.until(run["run_id"])
    assert (run["status"], run["state"]) == ("cancelled", "FAILED")
    assert [one["status"] for one in run["steps"]] == ["completed", "cancelled"]
    assert post(client, run, "cancel")[0] == 200


def test_a_waiting_run_is_cancelled_at_once_with_its_question(client: Client):
    run = client.run(GATE, AFTER)
    asked = client.question(run)
    status, body = post(client, run, "cancel")
    assert (status, body["status"]) == (200, "cancelled")
    closed = client.get(f"/clarifications/{asked['id']}")
    assert (closed["status"], closed["resolution"]) == ("rejected", "run_cancelled")
    assert client.answer(asked).status_code == 409


def test_a_pause_while_waiting_for_people_holds_the_run_after_the_answer(client: Client):
    run = client.run(GATE, AFTER)
    status, body = post(client, run, "pause")
    assert (status, body["status"], body["pause_requested"]) == (200, "paused", True)
    client.answer(client.question(run))
    run = client.get(f"/runs/{run['run_id']}")
    assert (run["status"], run["paused_reason"]) == ("paused", "requested")
    assert post(client, run, "resume")[0] == 202
    assert client.until(run["run_id"], "completed")["status"] == "completed"


def test_a_run_that_waits_for_people_cannot_be_resumed(client: Client):
    run = client.run(GATE)
    status, body = post(client, run, "resume")
    assert (status, body["code"]) == (409, "clarifications_outstanding")
    assert body["clarification_ids"] == run["pending_clarifications"]


@pytest.mark.parametrize("verb", ["pause", "resume", "cancel"])
def test_a_completed_run_takes_no_commands_and_never_changes(client: Client, verb):
    run = client.run({"id": "a", "tool": "echo"})
    status, body = post(client, run, verb)
    assert (status, body["code"], body["current_status"]) == (409, "invalid_state", "completed")
    assert client.get(f"/runs/{run['run_id']}") == run


def test_a_run_between_two_attempts_can_be_paused_and_cancelled_at_once(client: Client):
    flaky = {"id": "f", "tool": "fail", "retry": {"max_attempts": 3, "initial_delay": 60, "jitter": False}}
    run = client.start(client.plan(flaky))
    while step(run, "f")["status"] != "waiting":
        run = client.get(f"/runs/{run['run_id']}", params={"wait": 2, "since": run["version"]})
    assert step(run, "f")["next_attempt_at"]
    assert post(client, run, "pause")[1]["status"] == "paused"
    assert post(client, run, "cancel")[1]["status"] == "cancelled"
    assert client.get(f"/runs/{run['run_id']}")["cancel_requested"]


@pytest.mark.parametrize("verb", ["pause", "resume", "cancel"])
def test_a_run_of_another_tenant_does_not_exist(client: Client, mallory: Client, verb):
    run = client.run(GATE)
    status, body = post(mallory, run, verb)
    assert (status, body["code"]) == (404, "run_not_found")
