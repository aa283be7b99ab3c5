"""Rollback, time limits, and failures of every kind."""

from __future__ import annotations

import pytest

from tests.portia_runtime.conftest import Client, step


@pytest.fixture(autouse=True)
def _own_tools(settings):
    settings.PORTIA_RUNTIME_TOOLS = [f"tests.portia_runtime.slow_tool.{name}" for name in ("slow", "blind")]


def write(step_id, **fields):
    return {"id": step_id, "tool": "write_record", "parameters": {"key": step_id, "increment": 1}, **fields}


FAIL = {"id": "boom", "tool": "fail", "parameters": {"message": "boom"}}
UNDO = [write("undo_a", depends_on=["a"]), write("undo_b", depends_on=["b"]), write("undo_c", depends_on=["c"])]
ROLLBACK = {"on_failure": "rollback", "rollback_steps": ["undo_a", "undo_b", "undo_c"]}


def test_a_failure_undoes_what_was_done_in_reverse_order(client: Client):
    run = client.run(write("a"), write("b"), FAIL, write("c"), *UNDO, **ROLLBACK)
    assert (run["status"], run["error_message"]) == ("failed", "boom")
    assert run["rollback"] == {
        "status": "completed", "steps": ["undo_b", "undo_a"], "failed_steps": [], "plan_run_id": run["run_id"],
    }  # fmt: skip
    assert step(run, "undo_c")["status"] == "skipped"


def test_a_rollback_step_that_fails_does_not_keep_the_others_from_running(client: Client):
    undo_b = {"id": "undo_b", "tool": "fail", "depends_on": ["b"]}
    run = client.run(
        write("a"), write("b"), FAIL, UNDO[0], undo_b, on_failure="rollback", rollback_steps=["undo_a", "undo_b"]
    )
    assert (run["rollback"]["status"], run["rollback"]["failed_steps"]) == ("failed", ["undo_b"])
    assert step(run, "undo_a")["status"] == "completed"
    assert run["error_details"]["step_id"] == "boom"


def test_rollback_steps_are_left_alone_when_all_goes_well(client: Client):
    run = client.run(write("a"), UNDO[0], on_failure="rollback", rollback_steps=["undo_a"])
    assert (run["status"], run["progress"], run["rollback"]) == ("completed", 1.0, None)
    assert step(run, "undo_a")["status"] == "skipped"


def test_a_rejection_rolls_back_too(client: Client):
    gate = {"id": "gate", "type": "approval", "parameters": {"message": "?"}}
    run = client.run(write("a"), gate, UNDO[0], on_failure="rollback", rollback_steps=["undo_a"])
    client.answer(client.question(run), approved=False)
    run = client.until(run["run_id"], "failed")
    assert (run["rollback"]["steps"], run["error_details"]["code"]) == (["undo_a"], "clarification_rejected")


def test_a_step_over_its_time_is_timed_out_and_its_late_result_does_not_count(client: Client):
    run = client.run({"id": "s", "tool": "tests.slow", "parameters": {"seconds": 0.6}, "timeout": 0.2})
    assert (run["status"], run["error_details"]["code"]) == ("failed", "step_timeout")
    assert (step(run, "s")["status"], step(run, "s")["output"]) == ("timed_out", None)


def test_a_timeout_is_tried_again(client: Client):
    slow = {"id": "s", "tool": "tests.slow", "parameters": {"seconds": 0.4}, "timeout": 0.1}
    run = client.run({**slow, "retry": {"max_attempts": 2, "initial_delay": 0}})
    assert step(run, "s")["attempts"] == 2


def test_a_run_over_its_active_time_fails(client: Client):
    run = client.run({"id": "w", "tool": "wait", "parameters": {"seconds": 30}}, timeout=0.3)
    assert (run["status"], run["error_details"]["code"]) == ("failed", "run_timeout")


def test_waiting_for_people_is_not_active_time(client: Client):
    gate = {"id": "gate", "type": "approval", "approval": {"timeout": 0.8}}
    run = client.until(client.run(gate, timeout=0.3)["run_id"], "failed")
    assert run["error_details"]["code"] == "clarification_timeout"


def test_a_wait_survives_without_holding_a_worker(client: Client, settings):
    runs = [client.start(client.plan({"id": "w", "tool": "wait", "parameters": {"seconds": 0.5}})) for _ in range(20)]
    assert {client.until(run["run_id"])["status"] for run in runs} == {"completed"}


def test_arguments_that_turn_out_wrong_fail_the_step_without_a_call(client: Client):
    wrong = {"id": "w", "tool": "wait", "parameters": {"seconds": "{{n}}"}, "retry": {"max_attempts": 3}}
    run = client.run(wrong, variables={"n": "soon"})
    assert (run["error_details"]["code"], step(run, "w")["attempts"]) == ("invalid_arguments", 0)
    assert "seconds" in run["error_message"]


def test_a_template_that_names_nothing_fails_the_step(client: Client):
    run = client.run({"id": "e", "tool": "echo", "parameters": {"x": "{{nobody.home}}"}})
    assert (run["error_details"]["code"], run["error_message"]) == (
        "invalid_arguments", "nothing is called 'nobody.home' here",
    )  # fmt: skip


def test_an_input_that_names_nothing_is_meant_literally(client: Client):
    given = {"id": "e", "tool": "echo", "inputs": {"a": "variables.n", "b": "just text", "c": "word"}}
    assert client.run(given, variables={"n": 1})["results"]["e"] == {"a": 1, "b": "just text", "c": "word"}


def test_an_input_from_a_step_without_output_fails(client: Client):
    run = client.run(
        {"id": "a", "tool": "echo", "conditions": ["false"]}, {"id": "e", "tool": "echo", "inputs": {"x": "a.y"}}
    )
    assert run["error_details"]["code"] == "invalid_arguments"


def test_a_tool_that_gives_no_json_fails_its_step(client: Client):
    run = client.run({"id": "b", "tool": "tests.blind"})
    assert run["status"] == "failed"
    assert "cannot be stored" in run["error_message"]


def test_a_group_over_its_time_is_timed_out_as_a_whole(client: Client):
    inside = {"id": "in", "type": "action", "tool": "tests.slow", "parameters": {"seconds": 1}}
    run = client.run({"id": "g", "type": "sequence", "timeout": 0.2, "parameters": {"steps": [inside]}})
    assert (run["error_details"]["code"], step(run, "g")["status"]) == ("step_timeout", "timed_out")
    assert step(run, "g.in")["status"] == "cancelled"


def test_a_retry_is_not_late(client: Client):
    retry = {"max_attempts": 4, "backoff": {"strategy": "fixed", "initial_delay": 0.02, "jitter": False}}
    runs = [client.run({"id": "f", "tool": "fail", "parameters": {"times": 3}, "retry": retry}) for _ in range(3)]
    assert {run["status"] for run in runs} == {"completed"}
