"""Plans at the door: all that is wrong is said at once, with its place; the same plan is the same plan."""

from __future__ import annotations

import pytest

from tests.portia_runtime.conftest import Client

ECHO = {"id": "a", "type": "action", "tool": "echo"}


def refused(client: Client, **plan):
    answer = client.call("POST", "/plans", json={"plan_id": "p", "name": "p", **plan})
    assert answer.status_code == 422, answer.text
    return answer.json()


def locs(problem):
    return {error["loc"] for error in problem["errors"]}


def test_the_same_plan_again_is_the_stored_one_and_other_content_conflicts(client: Client):
    plan = {"plan_id": "p", "name": "p", "steps": [ECHO], "created_by": "u-1"}
    first = client.call("POST", "/plans", json=plan)
    again = client.call("POST", "/plans", json={**plan, "created_by": "u-2", "created_at": "2026-01-01T00:00:00Z"})
    other = client.call("POST", "/plans", json={**plan, "name": "q"})
    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 409)
    assert again.json() == first.json() == client.get("/plans/p")
    assert other.json()["code"] == "plan_conflict"


def test_two_tenants_may_use_the_same_plan_id(client: Client, mallory: Client):
    client.plan(ECHO, plan_id="p")
    assert mallory.call("GET", "/plans/p").status_code == 404
    mallory.plan(ECHO, plan_id="p", name="another")


def test_every_error_is_found_with_its_place(client: Client):
    steps = [
        {"id": "a", "type": "action", "tool": "nope"},
        {"id": "b", "type": "action", "tool": "echo", "depends_on": ["zz"], "conditions": ["a.x =="]},
        {"id": "c", "type": "action", "tool": "wait", "parameters": {"seconds": "long"}, "retry": {"max_attempts": 0}},
        {"id": "d", "type": "dance"},
        {"id": "e", "type": "action", "tool": "echo", "conditions": ["unknown.x == 1"], "timeout": -1},
    ]
    problem = refused(client, steps=steps, rollback_steps=["gone"])
    assert locs(problem) == {
        "steps[0].tool", "steps[1].depends_on", "steps[1].conditions[0]", "steps[2].retry.max_attempts", "steps[3].type",
        "steps[4].timeout", "rollback_steps[0]",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["llm", "agent"])
def test_a_step_that_needs_a_language_model_is_refused(client: Client, kind):
    problem = refused(client, steps=[ECHO, {"id": "b", "type": kind}])
    assert (problem["code"], locs(problem)) == ("unsupported_step_type", {"steps[1].type"})
    assert "language model" in problem["message"]


def test_steps_that_wait_for_each_other_are_refused(client: Client):
    steps = [{**ECHO, "id": "x", "depends_on": ["y"]}, {**ECHO, "id": "y", "depends_on": ["x"]}]
    (error,) = refused(client, steps=steps)["errors"]
    assert "circle: x, y" in error["msg"]


def test_a_circle_through_a_condition_is_found(client: Client):
    choice = {"id": "c", "type": "condition", "depends_on": ["x"], "parameters": {"expression": "true", "then": ["x"]}}
    (error,) = refused(client, steps=[choice, {**ECHO, "id": "x"}])["errors"]
    assert "circle" in error["msg"]


@pytest.mark.parametrize(("starts", "rollback_steps"), [("b", ["c"]), ("b", ["b"]), ("b", ["b", "c"])])
def test_no_condition_starts_by_its_id_what_a_rollback_would_wait_for(client: Client, starts, rollback_steps):
    choice = {"id": "c", "type": "condition", "parameters": {"expression": "true", "else": [starts]}}
    steps = [ECHO, {**ECHO, "id": "b"}, choice]
    problem = refused(client, steps=steps, on_failure="rollback", rollback_steps=rollback_steps)
    assert locs(problem) == {"steps[2].parameters.else"}


def test_a_rollback_condition_runs_the_steps_it_holds(client: Client):
    inside = {"id": "in", "type": "action", "tool": "echo"}
    undo = {"id": "undo", "type": "condition", "parameters": {"expression": "a.success", "then": [inside]}}
    boom = {"id": "boom", "tool": "fail", "parameters": {"hard": True}}
    run = client.run(ECHO, boom, undo, on_failure="rollback", rollback_steps=["undo"])
    assert (run["status"], run["rollback"]["status"], run["rollback"]["steps"]) == ("failed", "completed", ["undo"])


def test_an_id_used_twice_is_refused(client: Client):
    assert "used 2 times" in refused(client, steps=[ECHO, ECHO])["errors"][0]["msg"]


def test_tools_outside_the_allow_list_are_refused_at_every_depth(client: Client):
    group = {"id": "g", "type": "sequence", "parameters": {"steps": [{**ECHO, "id": "in"}]}}
    problem = refused(client, steps=[ECHO, group], allowed_tools=["wait"])
    assert locs(problem) == {"steps[0].tool", "steps[1].parameters.steps[0].tool"}


@pytest.mark.parametrize(
    ("parameters", "place"),
    [
        ({"tool": "echo"}, "steps[0].parameters"),
        ({"times": 2, "over": [1], "tool": "echo"}, "steps[0].parameters"),
        ({"times": 2}, "steps[0].parameters"),
        ({"times": "many", "tool": "echo"}, "steps[0].parameters.times"),
        ({"while": "nope", "tool": "echo"}, "steps[0].parameters.while"),
        ({"while": "true", "parallel": True, "tool": "echo"}, "steps[0].parameters.parallel"),
        ({"times": 2, "tool": "nope"}, "steps[0].parameters[0].tool"),
    ],
)
def test_a_loop_that_cannot_work_is_refused(client: Client, parameters, place):
    assert locs(refused(client, steps=[{"id": "l", "type": "loop", "parameters": parameters}])) == {place}


def test_a_static_argument_is_checked_though_another_is_a_template(client: Client):
    mail = {"to": "{{who}}", "subject": "a\r\nBcc: x@x.example", "body": "b"}
    problem = refused(client, steps=[{"id": "m", "type": "action", "tool": "email_connector", "parameters": mail}])
    assert locs(problem) == {"steps[0].parameters.subject"}


def test_fields_nobody_knows_are_kept_and_ignored(client: Client):
    client.plan({**ECHO, "colour": "red"}, plan_id="p", shape="round")
    assert client.get("/plans/p")["shape"] == "round"


def test_a_plan_of_five_hundred_steps_is_accepted(client: Client):
    plan_id = client.plan(*[{**ECHO, "id": f"s{n}", "depends_on": [f"s{n - 1}"] if n else []} for n in range(500)])
    assert len(client.get(f"/plans/{plan_id}")["steps"]) == 500


def test_a_number_too_large_for_canonical_json_is_refused(client: Client):
    assert refused(client, steps=[{**ECHO, "parameters": {"n": 2**60}}])["code"] == "invalid_plan"
