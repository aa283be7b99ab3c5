"""A run from start to end: results, order, variables, failure, retry, and the run's record of it."""

from __future__ import annotations

from tests.portia_runtime.conftest import Client, step


def echo(step_id, **fields):
    return {"id": step_id, "tool": "echo", **fields}


def test_two_steps_hand_values_on_and_complete(client: Client):
    first = echo("first", parameters={"value": "{{n}}"}, outputs={"value": "kept"})
    second = echo("second", parameters={"from_step": "{{first.value}}", "text": "n is ${kept}"})
    run = client.run(first, second, body={"parameters": {"n": 3}})
    assert (run["status"], run["state"], run["progress"]) == ("completed", "COMPLETE", 1.0)
    assert run["results"]["second"] == run["final_output"] == {"from_step": 3, "text": "n is 3"}
    assert run["variables"] == {"kept": 3}


def test_a_run_is_pending_at_first_and_its_versions_only_grow(client: Client):
    run = client.start(client.plan(echo("a"), echo("b")))
    assert (run["status"], run["version"], run["progress"]) == ("pending", 1, 0.0)
    assert client.until(run["run_id"])["version"] > 1


def test_steps_run_in_listed_order_respecting_dependencies(client: Client):
    run = client.run(echo("c", depends_on=["a"]), echo("a"), echo("b"))
    began = sorted(run["steps"], key=lambda one: one["started_at"])
    assert [one["id"] for one in began] == ["a", "c", "b"]


def test_a_value_that_contains_a_template_is_not_expanded_again(client: Client):
    run = client.run(
        echo("a", parameters={"x": "{{given}}"}), echo("b", parameters={"y": "{{a.x}}", "z": "<{{a.x}}>"}),
        body={"parameters": {"given": "{{secret}}", "secret": "s3cret"}},
    )  # fmt: skip
    assert run["results"]["b"] == {"y": "{{secret}}", "z": "<{{secret}}>"}


def test_a_soft_failure_is_tried_again_after_its_delay(client: Client):
    retry = {"max_attempts": 3, "backoff": {"strategy": "fixed", "initial_delay": 0.05, "jitter": False}}
    run = client.run({"id": "a", "tool": "fail", "parameters": {"times": 2}, "retry": retry})
    assert (run["status"], step(run, "a")["attempts"]) == ("completed", 3)


def test_the_plans_retry_policy_holds_where_a_step_has_none(client: Client):
    policy = {"max_attempts": 2, "initial_delay": 0.01, "jitter": False}
    run = client.run({"id": "a", "tool": "fail", "parameters": {"times": 1}}, retry_policy=policy)
    assert (run["status"], step(run, "a")["attempts"]) == ("completed", 2)


def test_a_hard_failure_is_not_tried_again_and_says_why(client: Client):
    failing = {"id": "a", "tool": "fail", "parameters": {"message": "no money", "hard": True}}
    run = client.run({**failing, "retry": {"max_attempts": 5}}, echo("b"))
    assert (run["status"], run["error_message"]) == ("failed", "no money")
    assert run["error_details"] == {"code": "tool_hard_error", "step_id": "a", "attempts": 1, "failed_steps": ["a"]}
    assert step(run, "b")["status"] == "cancelled"


def test_a_tolerated_failure_lets_the_run_complete(client: Client):
    run = client.run({"id": "a", "tool": "fail", "on_failure": "continue"}, echo("b", depends_on=["a"]))
    assert run["status"] == "completed"
    assert [one["status"] for one in run["steps"]] == ["failed_ignored", "completed"]


def test_a_plan_that_continues_runs_what_does_not_depend_on_the_failed_step_and_ends_failed(client: Client):
    run = client.run({"id": "a", "tool": "fail"}, echo("b", depends_on=["a"]), echo("c"), on_failure="continue")
    assert run["status"] == "failed"
    assert [one["status"] for one in run["steps"]] == ["failed", "skipped", "completed"]
    assert run["progress"] == 1.0
