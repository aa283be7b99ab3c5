"""Steps that hold other steps: condition, loop, parallel, sequence; and exit."""

from __future__ import annotations

from tests.portia_runtime.conftest import Client, step


def echo(step_id, **fields):
    return {"id": step_id, "type": "action", "tool": "echo", **fields}


def statuses(run):
    return {one["id"]: one["status"] for one in run["steps"]}


def test_a_condition_skips_the_top_level_steps_of_the_branch_not_taken(client: Client):
    choice = {"id": "is_big", "type": "condition", "parameters": {
        "expression": "parameters.amount > 100", "then": ["ask"], "else": ["pay"],
    }}  # fmt: skip
    run = client.run(
        choice, echo("ask"), echo("pay"), echo("after", depends_on=["ask"]), body={"parameters": {"amount": 5}}
    )
    assert run["results"]["is_big"] == {"result": False}
    assert statuses(run) == {"is_big": "completed", "ask": "skipped", "pay": "completed", "after": "skipped"}


def test_a_condition_runs_the_steps_written_inside_it(client: Client):
    inside = {"expression": "1 + 1 == 2", "then": [echo("child", parameters={"x": 1})], "else": [echo("other")]}
    run = client.run({"id": "c", "type": "condition", "parameters": inside})
    assert statuses(run) == {"c": "completed", "c.child": "completed"}


def test_conditions_of_a_step_all_have_to_hold(client: Client):
    run = client.run(echo("a", parameters={"n": 1}), echo("b", conditions=["a.n == 1", "a.n > 3"]))
    assert step(run, "b")["status"] == "skipped"
    assert step(run, "b")["reason"] == "condition not met: a.n > 3"


def test_a_condition_on_what_does_not_exist_is_false_and_says_so(client: Client):
    run = client.run(echo("a", conditions=["false"]), echo("b", conditions=["a.n == 1"]))
    assert (run["status"], step(run, "b")["status"]) == ("completed", "skipped")
    assert "does not exist" in step(run, "b")["reason"]


def test_a_condition_that_is_no_boolean_fails_the_step(client: Client):
    run = client.run(echo("a", parameters={"n": 1}), echo("b", conditions=["a.n"]))
    assert (run["status"], run["error_details"]["code"]) == ("failed", "invalid_arguments")


def test_a_loop_over_a_list_gives_one_result_for_each(client: Client):
    loop = {"over": "{{names}}", "item": "name", "tool": "echo", "arguments": {"hello": "{{name}}", "n": "{{index}}"}}
    run = client.run({"id": "loop", "type": "loop", "parameters": loop}, body={"parameters": {"names": ["a", "b"]}})
    assert run["results"]["loop"] == {
        "iterations": 2, "results": [{"hello": "a", "n": 0}, {"hello": "b", "n": 1}],
    }  # fmt: skip
    assert [one["id"] for one in run["steps"]] == ["loop", "loop[0].call", "loop[1].call"]


def test_steps_of_an_iteration_see_each_other_and_the_steps_outside(client: Client):
    steps = [echo("x", parameters={"v": "{{item}}"}), echo("y", parameters={"v": "{{x.v}}", "w": "{{before.w}}"})]
    run = client.run(
        echo("before", parameters={"w": 7}), {"id": "l", "type": "loop", "parameters": {"over": [1, 2], "steps": steps}}
    )
    assert run["results"]["l"]["results"][1]["y"] == {"v": 2, "w": 7}


def test_a_while_loop_ends_when_its_condition_does(client: Client):
    count = {"id": "count", "type": "action", "tool": "calculate", "outputs": {"result": "n"}, "parameters": {
        "expression": "n + 1", "values": {"n": "{{n}}"},
    }}  # fmt: skip
    run = client.run(
        {"id": "l", "type": "loop", "parameters": {"while": "n < 4", "steps": [count]}}, variables={"n": 0}
    )
    assert (run["variables"]["n"], run["results"]["l"]["iterations"]) == (4, 4)


def test_a_loop_over_its_limit_fails(client: Client):
    endless = {"while": "true", "max_iterations": 3, "tool": "echo"}
    run = client.run({"id": "l", "type": "loop", "parameters": endless})
    assert (run["error_details"]["code"], len(run["steps"])) == ("loop_limit", 4)


def test_a_loop_over_something_else_than_a_list_fails(client: Client):
    run = client.run({"id": "l", "type": "loop", "parameters": {"over": "{{n}}", "tool": "echo"}}, variables={"n": 3})
    assert run["error_details"]["code"] == "invalid_loop"


def test_a_failing_iteration_fails_the_loop_and_names_the_step(client: Client):
    loop = {"times": 3, "steps": [{"id": "f", "type": "action", "tool": "fail", "conditions": ["index == 1"]}]}
    run = client.run({"id": "l", "type": "loop", "parameters": loop})
    assert (run["status"], run["error_details"]["step_id"]) == ("failed", "l[1].f")
    assert statuses(run) == {"l": "failed", "l[0].f": "skipped", "l[1].f": "failed"}


def test_a_thousand_iterations_are_done_in_one_go(client: Client):
    run = client.start(client.plan({"id": "l", "type": "loop", "parameters": {"times": 1000, "tool": "echo"}}))
    done = client.until(run["run_id"], seconds=60)
    assert (done["status"], done["results"]["l"]["iterations"]) == ("completed", 1000)


def test_steps_of_a_parallel_step_run_at_once(client: Client):
    steps = [{"id": f"w{n}", "type": "action", "tool": "wait", "parameters": {"seconds": 0.4}} for n in range(5)]
    run = client.run({"id": "all", "type": "parallel", "parameters": {"steps": steps}}, echo("join"))
    assert run["status"] == "completed"
    inside = run["steps"][1:6]
    assert max(one["started_at"] for one in inside) < min(one["completed_at"] for one in inside)
    assert set(run["results"]["all"]) == {"w0", "w1", "w2", "w3", "w4"}


def test_a_parallel_plan_waits_for_dependencies_only(client: Client):
    wait = {"tool": "wait", "parameters": {"seconds": 0.4}}
    run = client.run(
        {"id": "a", **wait}, {"id": "b", **wait}, echo("c", depends_on=["a", "b"]), parallel_execution=True
    )
    a, b, c = run["steps"]
    assert max(a["started_at"], b["started_at"]) < min(a["completed_at"], b["completed_at"])
    assert c["started_at"] >= max(a["completed_at"], b["completed_at"])


def test_a_sequence_stops_at_its_first_failure(client: Client):
    steps = [echo("x"), {"id": "f", "type": "action", "tool": "fail"}, echo("y")]
    run = client.run({"id": "s", "type": "sequence", "parameters": {"steps": steps}})
    assert statuses(run) == {"s": "failed", "s.x": "completed", "s.f": "failed"}


def test_a_parallel_loop_gives_its_results_in_order(client: Client):
    loop = {"times": 40, "parallel": True, "tool": "echo", "arguments": {"n": "{{index}}"}}
    run = client.run({"id": "l", "type": "loop", "parameters": loop}, max_concurrency=4)
    assert [one["n"] for one in run["results"]["l"]["results"]] == list(range(40))


def test_exit_ends_the_run_as_completed(client: Client):
    run = client.run({"id": "e", "type": "exit", "parameters": {"message": "enough"}}, echo("after"))
    assert (run["status"], run["final_output"], step(run, "after")["status"]) == (
        "completed", {"message": "enough"}, "skipped",
    )  # fmt: skip


def test_exit_with_error_inside_a_loop_fails_the_run(client: Client):
    leave = {"id": "e", "type": "exit", "conditions": ["index == 1"], "parameters": {"message": "bad", "error": True}}
    run = client.run({"id": "l", "type": "loop", "parameters": {"times": 5, "steps": [leave]}})
    assert (run["status"], run["error_message"], run["error_details"]["code"]) == ("failed", "bad", "exit")


def test_an_approval_inside_a_loop_is_asked_for_each_iteration(client: Client):
    gate = {"id": "gate", "type": "approval", "parameters": {"message": "go on with {{item}}?"}}
    run = client.run({"id": "l", "type": "loop", "parameters": {"over": ["a", "b"], "steps": [gate]}})
    asked = client.question(run)
    assert (asked["step_id"], asked["description"]) == ("l[0].gate", "go on with a?")
    client.answer(asked)
    run = client.until(run["run_id"])
    assert client.question(run)["description"] == "go on with b?"
    client.answer(client.question(run))
    assert client.until(run["run_id"])["status"] == "completed"
