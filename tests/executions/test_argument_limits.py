"""The limits of a token: which schemas are limits, what of a plan keeps to them, and that what cannot be known is refused."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executions.argument_limits import BadLimits, check_limits, narrowed, violations
from executions.plan_document import parse
from tests.factories.documents import action, flow, plan, step

SMALL = {
    "type": "object",
    "properties": {"amount": {"type": "integer", "maximum": 100}, "to": {"enum": ["maria", "paul"]}},
    "required": ["amount"],
}
LIMITS = {"pay": SMALL}


def pay(step_id="pay_back", **parameters):
    return action(step_id, "pay", parameters=parameters)


def found(*steps, limits=LIMITS, tools=("pay",), **fields):
    document = parse(plan(*steps, **fields))
    return [(one.pointer, one.code) for one in violations(document, limits=limits, allowed_tools=tools)]


# -- what is a limit


@pytest.mark.parametrize(
    "schema",
    [
        True,
        False,
        SMALL,
        {"allOf": [SMALL, {"required": ["to"]}]},
        {"properties": {"a": {"type": "string", "maxLength": 5, "pattern": "^[a-z]+$"}}, "additionalProperties": False},
        {"properties": {"a": {"type": "array", "items": {"const": 1}, "maxItems": 2, "uniqueItems": True}}},
        {"anyOf": [{"properties": {"a": {"const": 1}}}, {"not": {"required": ["a"]}}], "title": "One or none"},
    ],
)
def test_a_schema_of_the_subset_is_a_limit(schema):
    check_limits({"pay": schema})


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        ({"maximun": 5}, "'maximun'"),
        ({"properties": {"a": {"format": "email"}}}, "'format'"),
        ({"$ref": "#/$defs/a", "$defs": {"a": True}}, "keyword '$"),
        ({"properties": {"amount": {"maximum": 100}}}, "type 'number'"),
        ({"properties": {"amount": {"type": ["integer", "string"], "maximum": 100}}}, "type 'number'"),
        ({"properties": {"a": {"maxLength": 5}}}, "type 'string'"),
        ({"properties": {"a": {"properties": {"b": True}}}}, "type 'object'"),
        ({"properties": {"a": {"type": "number", "maximum": "5"}}}, "Give a number"),
        ({"properties": {"a": {"type": "string", "pattern": "(?=x)"}}}, "RE2"),
        ({"properties": {"a": {"const": "\0"}}}, "NUL"),
        ({"properties": {"a": {"const": 2**60}}}, "2^53"),
        (7, "schema"),
        (None, "schema"),
    ],
)
def test_a_schema_that_would_let_pass_what_it_seems_to_limit_is_refused(schema, word):
    with pytest.raises(BadLimits, match=re.escape(word)):
        check_limits({"pay": schema})


@pytest.mark.parametrize("limits", [None, [], "x", {str(n): True for n in range(51)}])
def test_limits_are_an_object_of_so_many_tools(limits):
    with pytest.raises(BadLimits, match="object"):
        check_limits(limits)


def test_a_schema_nested_beyond_reason_is_refused():
    schema = True
    for _ in range(300):
        schema = {"not": schema}
    with pytest.raises(BadLimits):
        check_limits({"pay": schema})


# -- what keeps to it


def test_arguments_within_the_limits_pass():
    assert found(pay(amount=100, to="maria"), pay("again", amount=1, note="as agreed")) == []


def test_tools_without_a_limit_take_anything():
    assert found(action("greet", parameters={"amount": 10**6, "text": "{{name}}"})) == []


@pytest.mark.parametrize(
    ("arguments", "below"),
    [
        ({"amount": 101}, "/parameters/amount"),
        ({"amount": "5"}, "/parameters/amount"),
        ({"amount": 1, "to": "eve"}, "/parameters/to"),
        ({}, ""),
    ],
)
def test_arguments_beyond_the_limits_are_named(arguments, below):
    assert found(pay(**arguments)) == [(f"/flows/0/steps/0{below}", "argument_not_allowed")]


def test_the_sentence_names_step_argument_and_tool():
    (one,) = violations(parse(plan(pay(amount=500))), limits=LIMITS, allowed_tools=["pay"])
    assert all(word in one.detail for word in ("'pay_back'", "'amount'", "'pay'", "500", "100"))


@pytest.mark.parametrize("value", ["{{amount}}", "${parameters.amount}", "{{look_up.total}}", ["{{amount}}"]])
def test_a_limited_argument_that_only_the_run_knows_is_refused(value):
    steps = [action("look_up"), pay(amount=value)]
    assert found(*steps) == [("/flows/0/steps/1/parameters/amount", "argument_not_known")]


def test_a_limited_argument_from_inputs_is_refused_though_a_harmless_one_stands_in_the_parameters():
    steps = [action("look_up"), pay(amount=5) | {"inputs": {"amount": "look_up.total"}}]
    assert found(*steps) == [("/flows/0/steps/1/parameters/amount", "argument_not_known")]


def test_an_argument_the_limits_leave_open_may_come_from_the_run():
    steps = [action("look_up"), pay(amount=5, note="for {{look_up.name}}") | {"inputs": {"memo": "look_up.text"}}]
    assert found(*steps) == []


@pytest.mark.parametrize(
    "schema",
    [
        {"additionalProperties": False, **SMALL},
        {"additionalProperties": {"type": "number"}, **SMALL},
        {"allOf": [SMALL, {"properties": {"note": {"const": "x"}}}]},
        {"anyOf": [SMALL]},
        {"not": {"required": ["x"]}},
        {"enum": [{"amount": 5}]},
        False,
    ],
)
def test_a_schema_that_may_speak_of_an_argument_does_not_leave_it_open(schema):
    assert ("/flows/0/steps/0/parameters/note", "argument_not_known") in found(
        pay(amount=5, note="{{x}}"), limits={"pay": schema}
    )


def test_every_step_of_every_flow_is_held_against_the_limits():
    loop = step("each", "loop", over=[1], tool="pay", arguments={"amount": 101})
    group = step("all", "parallel", steps=[pay("inside", amount=102)])
    undo, called = pay("undo", amount=103), flow(pay("far", amount=104), flow_id="called")
    document = found(
        loop, group, step("call", "sequence", flow="called"), undo, more_flows=(called,),
        flow_fields={"on_failure": "rollback", "rollback_steps": ["undo"]},
    )  # fmt: skip
    assert [pointer for pointer, _ in document] == [
        "/flows/0/steps/0/parameters/arguments/amount", "/flows/0/steps/1/parameters/steps/0/parameters/amount",
        "/flows/0/steps/3/parameters/amount", "/flows/1/steps/0/parameters/amount",
    ]  # fmt: skip


def test_a_loop_that_gives_each_item_as_a_limited_argument_is_refused():
    loop = step("each", "loop", over=[1, 2], tool="pay", arguments={"amount": "{{item}}"})
    assert found(loop) == [("/flows/0/steps/0/parameters/arguments/amount", "argument_not_known")]


def test_an_agent_that_could_call_a_limited_tool_is_refused():
    agent = step("think", "agent", task="Pay them.")
    assert found(agent) == [("/flows/0/steps/0", "argument_not_known")]
    assert found(agent, tools=["echo"]) == []


# -- narrower


def test_limits_on_top_of_limits_are_both_held():
    both = narrowed(LIMITS, {"pay": {"properties": {"amount": {"type": "integer", "maximum": 500}}}, "mail": False})
    check_limits(both)
    assert found(pay(amount=101), limits=both) == [("/flows/0/steps/0/parameters/amount", "argument_not_allowed")]
    assert found(pay(amount=99), limits=both) == []
    assert narrowed(LIMITS, LIMITS) == LIMITS


amounts = st.integers(-5, 25)
schemas = st.builds(
    lambda low, high: {
        "properties": {"amount": {"type": "integer", "minimum": low, "maximum": high}},
        "required": ["amount"],
    },
    amounts,
    amounts,
)


@given(schemas, schemas, amounts)
def test_what_narrower_limits_let_pass_the_wider_ones_let_pass_too(held, wanted, amount):
    both = narrowed({"pay": held}, {"pay": wanted})
    if not found(pay(amount=amount), limits=both):
        assert not found(pay(amount=amount), limits={"pay": held})
        assert not found(pay(amount=amount), limits={"pay": wanted})
