"""Parsing: the hash, the shape of fields, and that everything wrong is said at once."""

from __future__ import annotations

import copy
import json
import random
from hashlib import sha256
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from executions.canonical_json import NotCanonical, canonical_json
from executions.plan_document import PlanInvalid, canonical_hash, parse
from tests.factories.documents import action, flow, full_plan, json_values, large_plan, plan, step

JSON = dict[str, Any]


def errors_of(document: Any) -> list[tuple[str, str]]:
    """(pointer, code) of everything wrong with a document."""
    with pytest.raises(PlanInvalid) as refused:
        parse(document)
    return [(error.pointer, error.code) for error in refused.value.errors]


def shuffled(value: Any) -> Any:
    """The same JSON with the keys of every object in another order."""
    if isinstance(value, dict):
        items = [(key, shuffled(one)) for key, one in value.items()]
        random.shuffle(items)
        return dict(items)
    return [shuffled(one) for one in value] if isinstance(value, list) else value


# -- the canonical form and the hash


@given(json_values)
def test_canonical_bytes_are_those_of_rfc8785(value: Any) -> None:
    assert canonical_json(value) == rfc8785.dumps(value)


@given(st.floats(-(2.0**53) + 1, 2.0**53 - 1))
def test_every_float_is_written_as_rfc8785_writes_it(value: float) -> None:
    assert canonical_json(value) == rfc8785.dumps(value)


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), st.booleans()))
def test_any_keys_are_sorted_as_rfc8785_sorts_them(value: JSON) -> None:
    assert canonical_json(value) == rfc8785.dumps(value)


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), 2**53, -(2**53), 1e20, "\ud800", {1: 2}, {"a": object()}]
)
def test_what_json_cannot_hold_has_no_canonical_form(value: Any) -> None:
    with pytest.raises(NotCanonical):
        canonical_json([value])


def test_hash_is_sha256_of_the_canonical_content() -> None:
    content = plan()
    del content["plan_id"]
    assert canonical_hash(plan()) == sha256(rfc8785.dumps(content)).hexdigest() == parse(plan()).plan_hash


def test_hash_does_not_depend_on_key_order_or_number_spelling() -> None:
    document = full_plan()
    again = shuffled(json.loads(json.dumps(document).replace("500.0", "5e2").replace("300.0", "300")))
    assert canonical_hash(again) == canonical_hash(document)


def test_hash_leaves_out_what_a_compilation_changes() -> None:
    compiled = {"compiled_at": "2026-11-22T09:00:00Z", "compiled_by": "compiler-7"}
    document = plan(metadata={"labels": {"team": "a"}})
    again = plan(plan_id="other", plan_hash="0" * 64, metadata={"labels": {"team": "a"}} | compiled)
    assert canonical_hash(again) == canonical_hash(document)


@pytest.mark.parametrize("field", ["name", "main_flow", "flows", "metadata", "tenant_id", "variables", "configuration"])
def test_hash_depends_on_every_other_field(field: str) -> None:
    document = full_plan()
    assert canonical_hash(document | {field: "changed"}) != canonical_hash(document)


def test_the_right_hash_is_accepted() -> None:
    document = plan(plan_hash=canonical_hash(plan()))
    assert parse(document).plan_hash == document["plan_hash"]


def test_a_wrong_hash_is_refused_naming_both() -> None:
    with pytest.raises(PlanInvalid, match=f"{canonical_hash(plan())}, not {'0' * 64}") as refused:
        parse(plan(plan_hash="0" * 64))
    (error,) = refused.value.errors
    assert (error.pointer, error.code) == ("/plan_hash", "plan_hash_mismatch")


def test_parsing_changes_nothing_in_the_document() -> None:
    document = full_plan()
    before = copy.deepcopy(document)
    with pytest.raises(PlanInvalid):
        parse(document)
    assert document == before


# -- documents that cannot be hashed or stored


@pytest.mark.parametrize("document", [None, [], "plan", 7, True])
def test_a_plan_is_an_object(document: Any) -> None:
    assert errors_of(document) == [("", "not_an_object")]


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (float("nan"), "not_finite"),
        (float("-inf"), "not_finite"),
        (2**53, "number_too_large"),
        (1e20, "number_too_large"),
        ("a\0b", "bad_character"),
        ("\udfff", "bad_character"),
        (b"bytes", "wrong_type"),
    ],
)
def test_values_that_cannot_be_hashed_or_stored_are_named(value: Any, code: str) -> None:
    assert errors_of(plan(action("a", parameters={"b/c": [1, value]}))) == [
        ("/flows/0/steps/0/parameters/b~1c/1", code)
    ]


@pytest.mark.parametrize("field", ["plan_id", "plan_hash"])
def test_fields_outside_the_hash_are_looked_at_too(field: str) -> None:
    assert errors_of(plan(**{field: "\0"})) == [(f"/{field}", "bad_character")]


def test_bad_keys_are_named() -> None:
    assert errors_of(plan(variables={"a\0": 1})) == [("/variables/a\0", "bad_character")]
    assert errors_of(plan(variables={5: 1})) == [("/variables/5", "wrong_type")]


def test_all_flaws_are_named_at_once() -> None:
    document = plan(variables={"a": "\0", "b": 2**60}, metadata={"compiled_at": float("nan")})
    assert [code for _, code in errors_of(document)] == ["not_finite", "bad_character", "number_too_large"]


def test_a_backslash_and_u0000_in_a_text_is_harmless() -> None:
    assert parse(plan(variables={"pattern": "\\u0000"})).variables == {"pattern": "\\u0000"}


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_bottomless_nesting_is_an_error_and_no_crash(opening: str) -> None:
    closing = {"[": "]", '{"a":': "}"}[opening]
    nested = json.loads(opening * 900 + "1" + closing * 900)
    ((pointer, code),) = errors_of(plan(variables={"x": nested}))
    assert (pointer.startswith("/variables/x/"), code) == (True, "too_deep")


# -- the shape of fields


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"name": None}, ("/name", "missing_field")),
        ({"name": ""}, ("/name", "too_short")),
        ({"name": "x" * 257}, ("/name", "too_long")),
        ({"name": 5}, ("/name", "wrong_type")),
        ({"flows": []}, ("/flows", "too_short")),
        ({"flows": {}}, ("/flows", "wrong_type")),
        ({"extra": 1}, ("/extra", "unknown_field")),
        ({"variables": []}, ("/variables", "wrong_type")),
        ({"variables": {"": 1}}, ("/variables", "invalid_name")),
        ({"configuration": {"timeout": 0}}, ("/configuration/timeout", "out_of_range")),
        ({"configuration": {"timeout": True}}, ("/configuration/timeout", "wrong_type")),
        ({"resource_requirements": {"cpu": True}}, ("/resource_requirements/cpu", "wrong_type")),
        ({"resource_requirements": {"network_access": "yes"}}, ("/resource_requirements/network_access", "wrong_type")),
        ({"security_context": {"allowed_tools": "echo"}}, ("/security_context/allowed_tools", "wrong_type")),
        ({"security_context": {"allowed_tools": [1]}}, ("/security_context/allowed_tools/0", "wrong_type")),
        ({"security_context": {"secret": 1}}, ("/security_context/secret", "unknown_field")),
    ],
)
def test_wrong_plan_fields_are_named(fields: JSON, expected: tuple[str, str]) -> None:
    assert errors_of(plan(**fields)) == [expected]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_concurrency": 0}, ("/flows/0/max_concurrency", "out_of_range")),
        ({"parallel_execution": "yes"}, ("/flows/0/parallel_execution", "wrong_type")),
        ({"on_failure": "panic"}, ("/flows/0/on_failure", "invalid_value")),
        ({"owner": "me"}, ("/flows/0/owner", "unknown_field")),
    ],
)
def test_wrong_flow_fields_are_named(fields: JSON, expected: tuple[str, str]) -> None:
    assert errors_of(plan(flow_fields=fields)) == [expected]


@pytest.mark.parametrize(
    ("fields", "below", "code"),
    [
        ({"step_id": None}, "step_id", "missing_field"),
        ({"step_id": 5}, "step_id", "wrong_type"),
        ({"step_type": None}, "step_type", "missing_field"),
        ({"tool": ""}, "tool", "too_short"),
        ({"depends_on": ["a", 5]}, "depends_on/1", "wrong_type"),
        ({"inputs": {"a": 5}}, "inputs/a", "wrong_type"),
        ({"timeout": 0}, "timeout", "out_of_range"),
        ({"timeout": -1}, "timeout", "out_of_range"),
        ({"timeout": "30"}, "timeout", "wrong_type"),
        ({"timeout": 366 * 24 * 3600}, "timeout", "out_of_range"),
        ({"on_failure": "rollback"}, "on_failure", "invalid_value"),
        ({"conditions": ["true"] * 51}, "conditions", "too_long"),
        ({"retry_policy": {"max_attempts": 0}}, "retry_policy/max_attempts", "out_of_range"),
        ({"retry_policy": {"max_attempts": 101}}, "retry_policy/max_attempts", "out_of_range"),
        ({"retry_policy": {"max_attempts": True}}, "retry_policy/max_attempts", "wrong_type"),
        ({"retry_policy": {"initial_delay": -1}}, "retry_policy/initial_delay", "out_of_range"),
        ({"retry_policy": {"initial_delay": 5, "max_delay": 4}}, "retry_policy/max_delay", "out_of_range"),
        ({"retry_policy": {"exponential_base": 0.9}}, "retry_policy/exponential_base", "out_of_range"),
        ({"retry_policy": {"jitter": 1}}, "retry_policy/jitter", "wrong_type"),
        ({"retry_policy": {"backoff": {"strategy": "wild"}}}, "retry_policy/backoff/strategy", "invalid_value"),
        ({"retry_policy": {"backoff": {"max_delay": 0.5, "initial_delay": 1}}}, "retry_policy/backoff/max_delay", "out_of_range"),
        ({"approval": {"timeout": 0}}, "approval/timeout", "out_of_range"),
        ({"approval": {"required_approvers": "carol"}}, "approval/required_approvers", "wrong_type"),
        ({"script": "rm"}, "script", "unknown_field"),
    ],
)  # fmt: skip
def test_wrong_step_fields_are_named(fields: JSON, below: str, code: str) -> None:
    document = plan(action("a"), action("b") | fields)
    assert errors_of(document) == [(f"/flows/0/steps/1/{below}", code)]


@pytest.mark.parametrize(
    ("step_type", "parameters", "below", "code"),
    [
        ("loop", {"times": -1, "tool": "echo"}, "times", "out_of_range"),
        ("loop", {"times": 1.5, "tool": "echo"}, "times", "wrong_type"),
        ("loop", {"over": 5, "tool": "echo"}, "over", "wrong_type"),
        ("loop", {"times": 1, "max_iterations": 0, "tool": "echo"}, "max_iterations", "out_of_range"),
        ("loop", {"times": 1, "tool": "echo", "arguments": []}, "arguments", "wrong_type"),
        ("parallel", {"steps": [5]}, "steps/0", "wrong_type"),
        ("sequence", {"steps": ["a"]}, "steps/0", "wrong_type"),
        ("sequence", {"flow": 5}, "flow", "wrong_type"),
        ("condition", {}, "expression", "missing_field"),
        ("condition", {"expression": "true", "then": [5]}, "then/0", "wrong_type"),
        ("condition", {"expression": "true", "else": [action("c", timeout=0)]}, "else/0/timeout", "out_of_range"),
        ("user_input", {}, "message", "missing_field"),
        ("user_input", {"message": "Which?", "options": []}, "options", "too_short"),
        ("user_input", {"message": "Which?", "category": "Riddle"}, "category", "invalid_value"),
        ("approval", {"timeout": 0}, "timeout", "out_of_range"),
        ("exit", {"error": 1}, "error", "wrong_type"),
    ],
)
def test_wrong_parameters_of_control_steps_are_named(step_type: str, parameters: JSON, below: str, code: str) -> None:
    document = plan(step("a", step_type, **parameters))
    assert errors_of(document) == [(f"/flows/0/steps/0/parameters/{below}", code)]


def test_errors_of_every_kind_are_reported_together() -> None:
    document = plan(
        action("a", timeout="soon", depends_on=["ghost"]),
        action("a", conditions=["1 +"]),
        step("c", "sequence", steps=[action("d", retries=3), 7]),
        "no step",
        plan_hash="0" * 64,
        main_flow="elsewhere",
        colour="red",
    )
    assert errors_of(document) == [
        ("/colour", "unknown_field"),
        ("/flows/0/steps/0/depends_on/0", "unknown_step"),
        ("/flows/0/steps/0/timeout", "wrong_type"),
        ("/flows/0/steps/1/conditions/0", "invalid_expression"),
        ("/flows/0/steps/1/step_id", "duplicate_step_id"),
        ("/flows/0/steps/2/parameters/steps/0/retries", "unknown_field"),
        ("/flows/0/steps/2/parameters/steps/1", "wrong_type"),
        ("/flows/0/steps/3", "wrong_type"),
        ("/main_flow", "unknown_main_flow"),
        ("/plan_hash", "plan_hash_mismatch"),
    ]


def test_of_very_many_errors_the_first_and_the_number_are_told() -> None:
    found = errors_of(plan(*(action(f"s{number}", depends_on=["ghost"]) for number in range(600))))
    assert (len(found), found[0], found[-1]) == (
        501,
        ("/flows/0/steps/0/depends_on/0", "unknown_step"),
        ("", "too_many_errors"),
    )


def test_the_same_error_twice_in_a_text_is_told_once() -> None:
    document = plan(action("a", parameters={"x": "{{b.c}} {{b.c}}"}))
    assert errors_of(document) == [("/flows/0/steps/0/parameters/x", "unknown_reference")]


def test_null_counts_as_left_out() -> None:
    parsed = parse(
        plan(action("a", timeout=None, retry_policy=None, depends_on=None, description=None), variables=None)
    )
    assert parsed.main.steps[0].depends_on == []


def test_numbers_may_be_spelled_either_way() -> None:
    assert parse(plan(action("a", timeout=30))).main.steps[0].timeout == 30.0


def test_free_form_fields_take_anything() -> None:
    free = {"a": {"b": [1, None, {"c": True}]}}
    parsed = parse(plan(action("a", parameters=free, metadata=free), variables=free, metadata=free, configuration=free))
    assert parsed.metadata == parsed.variables == free


# -- what a parsed plan offers


def test_every_step_gives_nested_and_rollback_steps_with_their_pointers() -> None:
    inner = step("each", "loop", times=2, steps=[action("deep")])
    lines = flow(action("line"), flow_id="lines")
    document = plan(
        step("group", "sequence", steps=[inner]),
        step("all", "parallel", flow="lines"),
        action("undo", depends_on=["group"]),
        more_flows=(lines,),
        flow_fields={"on_failure": "rollback", "rollback_steps": ["undo"]},
    )
    assert {one.step_id: pointer for pointer, one in parse(document).every_step()} == {
        "group": "/flows/0/steps/0",
        "each": "/flows/0/steps/0/parameters/steps/0",
        "deep": "/flows/0/steps/0/parameters/steps/0/parameters/steps/0",
        "all": "/flows/0/steps/1",
        "undo": "/flows/0/steps/2",
        "line": "/flows/1/steps/0",
    }


def test_tools_are_those_of_nested_steps_and_loops_too() -> None:
    condition = step("check", "condition", expression="true", then=[action("a", "wait")], else_=[action("b", "fail")])
    loop = step("each", "loop", times=2, tool="calculate", arguments={})
    assert parse(plan(condition, loop, action("c", "echo"))).tools() == {"wait", "fail", "calculate", "echo"}


@pytest.mark.parametrize(("step_type", "needs_llm"), [("llm", True), ("agent", True), ("sequence", False)])
def test_a_plan_knows_whether_it_needs_a_language_model(step_type: str, needs_llm: bool) -> None:
    assert parse(plan(step("a", step_type, steps=[action("b")]))).needs_llm is needs_llm


def test_a_plan_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        parse(plan()).name = "another"


def test_a_plan_of_five_thousand_steps_is_accepted_and_one_more_refused() -> None:
    assert len(parse(large_plan(steps=5000)).main.steps) == 5000
    assert ("/flows/0/steps", "too_long") in errors_of(large_plan(steps=5001))
