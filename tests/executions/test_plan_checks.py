"""What is wrong across the fields of a plan: each error with its pointer, and what must not be an error."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from executions.expressions import Conditions, condition_names, parse_path
from executions.plan_document import PlanInvalid, parse
from tests.factories.documents import action, flow, plan, step

JSON = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
STEPS = "/flows/0/steps"
ROLLBACK = {"on_failure": "rollback", "rollback_steps": ["undo"]}


def errors_of(document: JSON) -> list[tuple[str, str]]:
    """(pointer, code) of everything wrong with a document."""
    with pytest.raises(PlanInvalid) as refused:
        parse(document)
    return [(error.pointer, error.code) for error in refused.value.errors]


def messages_of(document: JSON) -> str:
    with pytest.raises(PlanInvalid) as refused:
        parse(document)
    return "\n".join(error.message for error in refused.value.errors)


def parallel(*steps: JSON, **fields: Any) -> JSON:
    return plan(*steps, flow_fields={"parallel_execution": True}, **fields)


# -- flows


def test_main_flow_must_be_one_of_the_flows() -> None:
    assert errors_of(plan(main_flow="mian")) == [("/main_flow", "unknown_main_flow")]
    assert "name one of: main" in messages_of(plan(main_flow="mian"))


def test_flow_ids_are_unique() -> None:
    assert errors_of(plan(more_flows=(flow(action("a")),))) == [("/flows/1/flow_id", "duplicate_flow_id")]


def test_a_flow_that_no_step_runs_is_refused() -> None:
    assert errors_of(plan(more_flows=(flow(action("a"), flow_id="spare"),))) == [("/flows/1", "unreachable_flow")]


@pytest.mark.parametrize("step_type", ["loop", "parallel", "sequence"])
def test_a_step_that_runs_an_unknown_flow_is_refused(step_type: str) -> None:
    source = {"times": 1} if step_type == "loop" else {}
    assert errors_of(plan(step("a", step_type, flow="nope", **source))) == [
        (f"{STEPS}/0/parameters/flow", "unknown_flow")
    ]


@pytest.mark.parametrize("branch", ["then_flow", "else_flow"])
def test_a_branch_that_runs_an_unknown_flow_is_refused(branch: str) -> None:
    document = plan(step("a", "condition", expression="true", **{branch: "nope"}))
    assert errors_of(document) == [(f"{STEPS}/0/parameters/{branch}", "unknown_flow")]


def test_flows_cannot_run_themselves() -> None:
    first = flow(step("to_second", "sequence", flow="second"), flow_id="first")
    second = flow(step("to_first", "sequence", flow="first"), flow_id="second")
    document = plan(step("start", "sequence", flow="first"), more_flows=(first, second))
    assert errors_of(document) == [("/flows/1", "flow_cycle")]
    assert "first -> second -> first" in messages_of(document)


def test_the_main_flow_cannot_run_itself() -> None:
    assert errors_of(plan(step("again", "sequence", flow="main"))) == [("/flows/0", "flow_cycle")]


@pytest.mark.parametrize(
    ("name", "value"), [("parallel_execution", True), ("max_concurrency", 2), ("on_failure", "continue")]
)
def test_only_the_main_flow_has_settings_of_a_run(name: str, value: Any) -> None:
    lines = flow(action("line"), flow_id="lines", **{name: value})
    assert errors_of(plan(step("all", "sequence", flow="lines"), more_flows=(lines,))) == [
        (f"/flows/1/{name}", "subflow_option")
    ]


def test_a_flow_may_be_run_from_two_places() -> None:
    both = step("one", "sequence", flow="lines"), step("two", "parallel", flow="lines")
    assert parse(plan(*both, more_flows=(flow(action("line"), flow_id="lines"),))).tools() == {"echo"}


def test_flows_that_multiply_to_too_many_steps_are_refused() -> None:
    flows = [
        flow(*(step(f"s{n}", "sequence", flow=f"f{level + 1}") for n in range(10)), flow_id=f"f{level}")
        for level in range(4)
    ]
    last = flow(action("end"), flow_id="f4")
    assert errors_of(plan(step("start", "sequence", flow="f0"), more_flows=(*flows, last))) == [
        ("/flows", "too_many_steps")
    ]


def test_deep_nesting_is_refused() -> None:
    inner = action("deepest")
    for level in range(8):
        inner = step(f"level_{level}", "sequence", steps=[inner])
    assert errors_of(plan(inner)) == [("/flows", "nested_too_deep")]


def test_calling_flows_counts_as_nesting() -> None:
    flows = [flow(step(f"s{n}", "sequence", flow=f"f{n + 1}"), flow_id=f"f{n}") for n in range(8)]
    document = plan(step("start", "sequence", flow="f0"), more_flows=(*flows, flow(action("end"), flow_id="f8")))
    assert errors_of(document) == [("/flows", "nested_too_deep")]


# -- ids


@pytest.mark.parametrize("step_id", ["", "9a", "a b", "a.b", "ä", "a" * 65, "-a"])
def test_step_ids_have_a_form(step_id: str) -> None:
    assert errors_of(plan(action(step_id, name="A step"))) == [(f"{STEPS}/0/step_id", "invalid_id")]


@pytest.mark.parametrize("step_id", ["steps", "variables", "parameters", "item", "index", "map", "type"])
def test_names_with_a_meaning_are_reserved(step_id: str) -> None:
    assert errors_of(plan(action(step_id))) == [(f"{STEPS}/0/step_id", "reserved_id")]


def test_flow_ids_have_the_same_form() -> None:
    document = plan(step("a", "sequence", flow="b c"), more_flows=(flow(action("d"), flow_id="b c"),))
    assert errors_of(document) == [("/flows/1/flow_id", "invalid_id")]


def test_step_ids_are_unique_in_a_flow_nested_ones_included() -> None:
    document = plan(action("a"), step("b", "sequence", steps=[action("a")]))
    assert errors_of(document) == [(f"{STEPS}/1/parameters/steps/0/step_id", "duplicate_step_id")]


def test_two_flows_may_use_the_same_step_id() -> None:
    lines = flow(action("a"), flow_id="lines")
    assert parse(plan(action("a"), step("b", "sequence", flow="lines"), more_flows=(lines,)))


# -- dependencies


def test_unknown_dependencies_are_named_with_their_place() -> None:
    document = plan(action("a"), action("b", depends_on=["a", "aa"]))
    assert errors_of(document) == [(f"{STEPS}/1/depends_on/1", "unknown_step")]


def test_nested_steps_wait_only_for_those_beside_them() -> None:
    document = plan(action("a"), step("b", "sequence", steps=[action("c", depends_on=["a"])]))
    assert errors_of(document) == [(f"{STEPS}/1/parameters/steps/0/depends_on/0", "unknown_step")]
    assert "let 'b' depend on it" in messages_of(document)


def test_a_dependency_cycle_is_named() -> None:
    document = plan(action("a", depends_on=["c"]), action("b", depends_on=["a"]), action("c", depends_on=["b"]))
    assert errors_of(document) == [(f"{STEPS}/0/depends_on", "dependency_cycle")]
    assert "a -> c -> b -> a" in messages_of(document)


def test_every_cycle_is_named_nested_ones_too() -> None:
    inner = [action("x", depends_on=["y"]), action("y", depends_on=["x"])]
    document = plan(action("a", depends_on=["a"]), step("b", "sequence", steps=inner))
    assert errors_of(document) == [
        (f"{STEPS}/0/depends_on", "dependency_cycle"),
        (f"{STEPS}/1/parameters/steps/0/depends_on", "dependency_cycle"),
    ]


def test_a_condition_comes_before_the_steps_it_starts() -> None:
    document = plan(
        step("check", "condition", expression="true", then=["a"], depends_on=[]) | {"depends_on": ["a"]}, action("a")
    )
    assert errors_of(document) == [(f"{STEPS}/0/depends_on", "dependency_cycle")]


def test_a_long_chain_of_dependencies_is_no_problem() -> None:
    steps = [action("s0"), *(action(f"s{n}", depends_on=[f"s{n - 1}"]) for n in range(1, 3000))]
    assert len(parse(parallel(*steps)).main.steps) == 3000
    steps[0]["depends_on"] = ["s2999"]
    assert errors_of(parallel(*steps)) == [(f"{STEPS}/0/depends_on", "dependency_cycle")]


# -- rollback


def test_rollback_needs_rollback_steps() -> None:
    document = plan(flow_fields={"on_failure": "rollback"})
    assert errors_of(document) == [("/flows/0/rollback_steps", "missing_rollback_steps")]


def test_rollback_steps_need_on_failure_rollback() -> None:
    document = plan(action("do"), action("undo", depends_on=["do"]), flow_fields={"rollback_steps": ["undo"]})
    assert errors_of(document) == [("/flows/0/rollback_steps", "unreachable_rollback_steps")]


def test_rollback_steps_are_steps_of_the_flow_named_once() -> None:
    fields = {"on_failure": "rollback", "rollback_steps": ["undo", "nope", "undo"]}
    assert errors_of(plan(action("do"), action("undo"), flow_fields=fields)) == [
        ("/flows/0/rollback_steps/1", "unknown_step"),
        ("/flows/0/rollback_steps/2", "duplicate_rollback_step"),
    ]


def test_a_flow_cannot_be_rollback_only() -> None:
    assert errors_of(plan(action("undo"), flow_fields=ROLLBACK)) == [("/flows/0/rollback_steps", "only_rollback_steps")]


def test_no_step_waits_for_a_rollback_step() -> None:
    document = plan(action("do", depends_on=["undo"]), action("undo"), flow_fields=ROLLBACK)
    assert errors_of(document) == [(f"{STEPS}/0/depends_on/0", "depends_on_rollback_step")]


@pytest.mark.parametrize("key", ["then", "else"])
@pytest.mark.parametrize("target", ["late", "undo_more", "undo", "nope"])
def test_a_rollback_condition_starts_no_steps_by_their_ids(key, target) -> None:
    undo = step("undo", "condition", expression="true", **{key: [target]})
    fields = ROLLBACK | {"rollback_steps": ["undo", "undo_more"]}
    document = plan(action("a"), action("late"), undo, action("undo_more"), flow_fields=fields)
    assert errors_of(document) == [(f"{STEPS}/2/parameters/{key}/0", "rollback_branch_id")]


def test_a_rollback_condition_holds_the_steps_it_starts() -> None:
    undo = step("undo", "condition", expression="a.success", then=[action("back")], else_=[action("note")])
    assert parse(plan(action("a"), undo, flow_fields=ROLLBACK))


def test_a_normal_condition_starts_no_rollback_step() -> None:
    choose = step("choose", "condition", expression="true", then=["undo"])
    document = plan(choose, action("undo"), flow_fields=ROLLBACK)
    assert errors_of(document) == [(f"{STEPS}/0/parameters/then/0", "depends_on_rollback_step")]


def test_a_rollback_step_may_read_any_normal_step_but_none_may_read_it() -> None:
    undo = action("undo", depends_on=["do"], parameters={"x": "{{later.output}}"})
    assert parse(plan(undo, action("do"), action("later"), flow_fields=ROLLBACK))
    document = plan(action("undo"), action("do", parameters={"x": "{{undo.output}}"}), flow_fields=ROLLBACK)
    assert errors_of(document) == [(f"{STEPS}/1/parameters/x", "reference_not_before")]


# -- types, tools, approvals


def test_unknown_step_types_are_refused() -> None:
    assert errors_of(plan(step("a", "teleport"))) == [(f"{STEPS}/0/step_type", "unknown_step_type")]


def test_an_action_names_its_tool() -> None:
    assert errors_of(plan(step("a", "action"))) == [(f"{STEPS}/0/tool", "missing_tool")]


def test_other_steps_name_none() -> None:
    document = plan(step("a", "exit") | {"tool": "echo"})
    assert errors_of(document) == [(f"{STEPS}/0/tool", "unexpected_tool")]


@pytest.mark.parametrize("name", ["{{parameters.tool}}", "${tool}", " echo", "echo\n", "echo,wait", "mail:*", "a\x01"])
def test_a_tool_is_named_as_it_is_called(name) -> None:
    document = plan(
        action("a", name), step("b", "loop", times=1, tool=name), security_context={"allowed_tools": [name]}
    )
    assert errors_of(document) == [(f"{STEPS}/0/tool", "invalid_tool"), (f"{STEPS}/1/parameters/tool", "invalid_tool")]


def test_every_tool_of_every_flow_must_be_allowed() -> None:
    document = plan(
        action("a", "wait"),
        step("b", "loop", times=1, tool="fail"),
        step("c", "sequence", flow="lines"),
        step("d", "parallel", steps=[action("e", "wait")]),
        more_flows=(flow(action("line", "http_request"), flow_id="lines"),),
        security_context={"allowed_tools": ["echo"]},
    )
    assert errors_of(document) == [
        (f"{STEPS}/0/tool", "tool_not_allowed"),
        (f"{STEPS}/1/parameters/tool", "tool_not_allowed"),
        (f"{STEPS}/3/parameters/steps/0/tool", "tool_not_allowed"),
        ("/flows/1/steps/0/tool", "tool_not_allowed"),
    ]


def test_an_empty_list_of_tools_restricts_nothing() -> None:
    assert parse(plan(action("a", "anything"), security_context={"allowed_tools": []}))


def test_only_actions_and_approvals_are_approved() -> None:
    document = plan(step("a", "exit") | {"approval": {"title": "Leave?"}})
    assert errors_of(document) == [(f"{STEPS}/0/approval", "unexpected_approval")]


@pytest.mark.parametrize("outputs", [{"total": ""}, {"total": "$total"}])
def test_an_output_names_a_variable_or_a_path(outputs: JSON) -> None:
    assert errors_of(plan(action("a", outputs=outputs))) == [(f"{STEPS}/0/outputs/total", "invalid_output")]


# -- loops, groups, conditions


@pytest.mark.parametrize(
    ("step_type", "parameters", "below", "code"),
    [
        ("loop", {"times": 1}, "", "missing_parameter"),
        ("loop", {"tool": "echo"}, "", "missing_parameter"),
        ("loop", {"times": 1, "over": [1], "tool": "echo"}, "/times", "conflicting_parameters"),
        ("loop", {"times": 1, "tool": "echo", "steps": [action("b")]}, "/tool", "conflicting_parameters"),
        ("loop", {"while": "true", "parallel": True, "tool": "echo"}, "/parallel", "conflicting_parameters"),
        ("loop", {"over": "not a path", "tool": "echo"}, "/over", "invalid_parameter"),
        ("loop", {"times": "three", "tool": "echo"}, "/times", "invalid_parameter"),
        ("loop", {"times": 1, "item": "a-b", "tool": "echo"}, "/item", "invalid_item_name"),
        ("loop", {"times": 1, "item": "steps", "tool": "echo"}, "/item", "invalid_item_name"),
        ("parallel", {}, "", "missing_parameter"),
        ("sequence", {}, "", "missing_parameter"),
        ("condition", {"expression": "true", "then": ["nope"]}, "/then/0", "unknown_step"),
    ],
)
def test_what_control_steps_need_is_checked(step_type: str, parameters: JSON, below: str, code: str) -> None:
    assert errors_of(plan(step("a", step_type, **parameters))) == [(f"{STEPS}/0/parameters{below}", code)]


def test_a_branch_is_steps_or_a_flow() -> None:
    condition = step("a", "condition", expression="true", then=[action("b")], then_flow="lines")
    document = plan(condition, more_flows=(flow(action("c"), flow_id="lines"),))
    assert errors_of(document) == [(f"{STEPS}/0/parameters/then_flow", "conflicting_parameters")]


def test_a_nested_condition_holds_its_steps_itself() -> None:
    nested = step("b", "condition", expression="true", then=["c"])
    document = plan(step("a", "sequence", steps=[nested, action("c")]))
    assert errors_of(document) == [(f"{STEPS}/0/parameters/steps/0/parameters/then/0", "nested_branch_id")]


# -- conditions


@pytest.mark.parametrize(
    ("expression", "code"),
    [
        ("a.success ==", "invalid_expression"),
        ("", "invalid_expression"),
        ("a.x > 'b' + 1", "invalid_expression"),
        ("__import__('os')", "unknown_reference"),
        ("lambda: 1", "invalid_expression"),
        ("b.success", "unknown_reference"),
        ("item > 1", "unknown_reference"),
        ("steps.b.success", "unknown_step"),
        ('steps["b-c"].success', "unknown_step"),
        ("1 + 1", "not_boolean"),
        ("'true'", "not_boolean"),
        ("later.success", "reference_not_before"),
        ("here.success", "reference_not_before"),
        ("'x' == 'y' " * 182, "expression_too_long"),
        ("(" * 500 + "a" + ")" * 500, "invalid_expression"),
    ],
)
def test_wrong_conditions_are_named(expression: str, code: str) -> None:
    document = plan(action("a"), action("here", conditions=["true", expression]), action("later"))
    assert errors_of(document) == [(f"{STEPS}/1/conditions/1", code)]


@pytest.mark.parametrize(
    "expression",
    [
        "a.success == true && (a.total >= 10.5 || !(a.kind in ['x', 'y']))",
        'steps["a-b"].success',
        "has(a.total) && size(a.items) > 0",
        "a.items.all(here, here > 1)",
        "variables.limit > 3 && parameters.order.paid",
        "a.text == 'later.success' // later",
        "a.flag",
        'steps["loop"].success',
    ],
)
def test_right_conditions_are_accepted(expression: str) -> None:
    steps = action("a"), action("a-b"), action("loop"), action("here", conditions=[expression]), action("later")
    assert parse(plan(*steps)).main.steps[3].conditions == [expression]


def test_the_message_of_an_unknown_name_says_what_to_write() -> None:
    assert "use the id of a step, variables.limit or parameters.limit" in messages_of(
        plan(action("a", conditions=["limit > 1"]))
    )


def test_stand_ins_for_names_do_not_leak_into_conditions() -> None:
    document = plan(action("a"), action("b", conditions=["known_name_0.x == 1"]))
    assert errors_of(document) == [(f"{STEPS}/1/conditions/0", "unknown_reference")]


def test_condition_steps_and_while_loops_are_checked_too() -> None:
    document = plan(step("a", "condition", expression="nope"), step("b", "loop", while_="index + 1", tool="echo"))
    assert errors_of(document) == [
        (f"{STEPS}/0/parameters/expression", "unknown_reference"),
        (f"{STEPS}/1/parameters/while", "not_boolean"),
    ]


def test_a_while_loop_looks_at_variables_and_not_into_its_body() -> None:
    body = [action("poll", outputs={"done": "done"})]
    assert parse(
        plan(step("wait", "loop", while_="variables.done != true && index < 5", steps=body), variables={"done": False})
    )
    document = plan(step("wait", "loop", while_="poll.done != true", steps=body))
    assert errors_of(document) == [(f"{STEPS}/0/parameters/while", "reference_not_before")]


# -- templates and inputs


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{{steps.nope.x}}", "unknown_step"),
        ("${steps.nope}", "unknown_step"),
        ("{{nope.output}}", "unknown_reference"),
        ("Order {{order.id}}", "unknown_reference"),
        ("{{later.x}}", "reference_not_before"),
        ("{{here.x}}", "reference_not_before"),
        ("{{item.x}}", "not_in_loop"),
        ("{{index}}", "not_in_loop"),
        ("{{a | upper}}", "invalid_template"),
        ("{{}}", "invalid_template"),
    ],
)
def test_wrong_templates_are_named(text: str, code: str) -> None:
    document = plan(action("a"), action("here", parameters={"deep/er": [{"x": text}]}), action("later"))
    assert errors_of(document) == [(f"{STEPS}/1/parameters/deep~1er/0/x", code)]


@pytest.mark.parametrize(
    "text",
    [
        "{{order_id}} and ${ customer }",
        "{{a.output.items[0].name}} {{steps['a'].x}} {{a}}",
        "{{variables.order.id}} {{parameters.order.id}} {{shop.name}} {{total.net}}",
        "${HOME:-/root} costs 5 $ {not a template}",
    ],
)
def test_right_templates_are_accepted(text: str) -> None:
    steps = action("a", outputs={"sum": "total"}), action("here", parameters={"x": text})
    assert parse(plan(*steps, variables={"shop": {"name": "Nordlicht"}}))


def test_texts_in_a_tool_s_own_language_are_left_alone() -> None:
    letter = action("a", "template_render", parameters={"template": "{{ name|upper }} {{ no.step }}", "values": {}})
    loop = step("b", "loop", times=1, tool="template_render", arguments={"template": "{{ x|y }}"})
    assert parse(plan(letter, loop))
    wrong = action("a", "template_render", parameters={"template": "", "values": {"x": "{{no.step}}"}})
    assert errors_of(plan(wrong)) == [(f"{STEPS}/0/parameters/values/x", "unknown_reference")]


def test_what_an_approver_reads_is_checked_too() -> None:
    asked = action("a", approval={"title": "{{no.title}}", "message": "{{no.message}}"})
    assert [pointer for pointer, _ in errors_of(plan(asked))] == [
        f"{STEPS}/0/approval/message",
        f"{STEPS}/0/approval/title",
    ]


@pytest.mark.parametrize(
    "value", ["maria@example.com", "v1.2", "order.id", "plain", "earlier.x", "variables.x", "{{order_id}}"]
)
def test_an_input_that_names_nothing_is_a_text(value: str) -> None:
    assert parse(plan(action("earlier"), action("a", inputs={"x": value})))


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("later.x", "reference_not_before"),
        ("steps.nope.x", "unknown_step"),
        ("nope.output.x", "unknown_step"),
        ("{{nope.x}}", "unknown_reference"),
    ],
)
def test_an_input_that_means_a_step_must_find_it(value: str, code: str) -> None:
    document = plan(action("a", inputs={"x": value}), action("later"))
    assert errors_of(document) == [(f"{STEPS}/0/inputs/x", code)]


def test_in_a_parallel_flow_only_what_a_step_waits_for_has_run() -> None:
    chain = action("a"), action("b", depends_on=["a"])
    assert parse(parallel(*chain, action("c", depends_on=["b"], conditions=["a.success"])))
    document = parallel(*chain, action("c", conditions=["a.success"], parameters={"x": "{{b.x}}"}))
    assert errors_of(document) == [
        (f"{STEPS}/2/conditions/0", "reference_not_before"),
        (f"{STEPS}/2/parameters/x", "reference_not_before"),
    ]


def test_in_a_sequential_flow_dependencies_move_a_step_back() -> None:
    steps = action("a", depends_on=["b"], parameters={"x": "{{b.x}}"}), action("b")
    assert parse(plan(*steps)).main.steps[0].step_id == "a"


def test_nested_steps_see_what_ran_before_around_and_beside_them() -> None:
    body = [action("c", parameters={"x": "{{a.x}}"}), action("d", conditions=["c.success && a.success"])]
    assert parse(plan(action("a"), step("b", "sequence", steps=body)))
    beside = [action("c"), action("d", parameters={"x": "{{c.x}}"})]
    document = plan(step("b", "parallel", steps=beside))
    assert errors_of(document) == [(f"{STEPS}/0/parameters/steps/1/parameters/x", "reference_not_before")]


def test_a_nested_step_is_read_through_the_step_around_it() -> None:
    group = step("b", "sequence", steps=[action("c")])
    assert parse(plan(group, action("d", parameters={"x": "{{b.c.total}}"})))
    assert errors_of(plan(group, action("d", parameters={"x": "{{c.total}}"}))) == [
        (f"{STEPS}/1/parameters/x", "reference_not_before")
    ]


def test_a_called_flow_sees_only_its_own_steps() -> None:
    lines = flow(action("line", parameters={"x": "{{a.x}}"}), flow_id="lines")
    document = plan(action("a"), step("b", "sequence", flow="lines"), more_flows=(lines,))
    assert errors_of(document) == [("/flows/1/steps/0/parameters/x", "unknown_reference")]


def test_loop_names_hold_inside_the_loop_only() -> None:
    body = [action("b", conditions=["line.price > 1 && index < 9"], parameters={"x": "{{line.name}} {{index}}"})]
    assert parse(plan(step("a", "loop", over="{{lines}}", item="line", steps=body)))
    tool = step("a", "loop", over=["{{line.x}}"], item="line", tool="echo", arguments={"x": "{{line.x}} {{index}}"})
    assert errors_of(plan(tool)) == [(f"{STEPS}/0/parameters/over/0", "unknown_reference")]


def test_a_flow_sees_the_loop_names_all_its_callers_have() -> None:
    lines = flow(action("b", parameters={"x": "{{line.name}}"}), flow_id="lines")
    loop = step("a", "loop", over="lines", item="line", flow="lines")
    assert parse(plan(loop, more_flows=(lines,)))
    document = plan(loop, step("c", "sequence", flow="lines"), more_flows=(lines,))
    assert errors_of(document) == [("/flows/1/steps/0/parameters/x", "unknown_reference")]


# -- paths


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("a", ("a",)),
        (" a.b-c[0].ü ", ("a", "b-c", "0", "ü")),
        ("""steps["a-b"]['c d']""", ("steps", "a-b", "c d")),
    ],
)
def test_paths_are_taken_apart(text: str, segments: tuple[str, ...]) -> None:
    path = parse_path(text)
    assert path is not None
    assert path.segments == segments


@pytest.mark.parametrize("text", ["", "a b", "a..b", "a.", ".a", "a[x]", "0a", "a|b", "a@b.c"])
def test_other_texts_are_no_paths(text: str) -> None:
    assert parse_path(text) is None


# -- the reference


@pytest.mark.parametrize(
    ("condition", "names", "steps"),
    [
        ("a.ok == true && variables.limit > 3", {"a", "variables", "true"}, set()),
        ('steps["a"].ok && steps.b.ok', set(), {"a", "b"}),
        ('steps["a-b"].ok && a_b.ok', {"a_b"}, {"a-b"}),
        ("a.items.all(b, b > a.least)", {"a"}, set()),
        ("a.b.a == \"a b\" && b[0] == 'a'", {"a", "b"}, set()),
        ("size(a) > 1", {"a"}, set()),
    ],
)
def test_a_condition_speaks_of_the_same_names_whatever_they_are(
    condition: str, names: set[str], steps: set[str]
) -> None:
    problem, found, found_steps = Conditions(["a", "b", "a_b", "size"]).examine(condition)
    assert (problem, set(found), set(found_steps)) == (None, names, steps)
    assert condition_names(condition) == (names, steps)


# -- schemas

BAD_SCHEMA = {"type": "strin", "properties": {"a/b": {"$ref": "http://127.0.0.1/x"}}}
BAD_PLACES = ["/type", "/properties/a~1b/$ref"]


def question(**parameters: Any) -> JSON:
    return step("ask", "user_input", message="Which?", **parameters)


@pytest.mark.parametrize(
    ("asking", "place"),
    [
        (question(schema=BAD_SCHEMA), "/parameters/schema"),
        (question(category="Custom", data={"schema": BAD_SCHEMA}), "/parameters/data/schema"),
        (action("check", "data_validator", parameters={"data": 1, "schema": BAD_SCHEMA}), "/parameters/schema"),
        (
            step("each", "loop", times=2, tool="data_validator", arguments={"data": 1, "schema": BAD_SCHEMA}),
            "/parameters/arguments/schema",
        ),
    ],
)
def test_every_flaw_of_a_schema_is_found_where_it_is(asking: JSON, place: str) -> None:
    found = errors_of(plan(asking))
    assert sorted(found) == sorted((f"{STEPS}/0{place}{flaw}", "invalid_schema") for flaw in BAD_PLACES)


@pytest.mark.parametrize("pattern", ["(", "(?=x)x", r"(a)\1"])
def test_a_pattern_that_could_backtrack_is_refused(pattern: str) -> None:
    assert errors_of(plan(question(schema={"pattern": pattern}))) == [
        (f"{STEPS}/0/parameters/schema/pattern", "invalid_schema")
    ]


def test_a_schema_with_templates_is_looked_at_when_it_is_used() -> None:
    assert parse(plan(question(schema={"enum": "{{variables.names}}"}), variables={"names": []}))
    assert parse(plan(action("check", "data_validator", parameters={"schema": "{{variables.s}}"}), variables={"s": 1}))
    assert errors_of(plan(question(schema="text"))) == [(f"{STEPS}/0/parameters/schema", "wrong_type")]


def test_the_schemas_of_other_tools_are_their_own_business() -> None:
    assert parse(plan(action("check", parameters={"schema": {"type": 5}})))


def test_many_costly_patterns_are_given_up() -> None:
    costly = [question(schema={"pattern": f"{'x' * n}" + r"\pL" * 300}) | {"step_id": f"ask_{n}"} for n in range(40)]
    began = time.thread_time()
    assert "too long" in messages_of(plan(*costly))
    assert time.thread_time() - began < 6


def test_the_reference_explains_every_error_code() -> None:
    sources = [
        *(ROOT / "executions").glob("plan_*.py"),
        *(ROOT / "executions" / name for name in ("expressions.py", "canonical_json.py")),
    ]
    text = "".join(path.read_text() for path in sources)
    in_errors = r"PlanError\(\s*[^,()]+(?:\([^)]*\))?[^,()]*,\s*\"([a-z_]+)\""
    in_tuples = r"(?:return|:|yield path,) \(?\"([a-z]+(?:_[a-z]+)+)\", f?\"[A-Z]"
    codes = set(re.findall(in_errors, text)) | set(re.findall(in_tuples, text))
    explained = set(re.findall(r"`([a-z_]+)`", (ROOT / "docs" / "reference" / "executable-plan.md").read_text()))
    assert len(codes) > 35
    assert codes <= explained
