"""Translation: nothing of a plan is lost, equal content has an equal id, arguments win."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from executions.plan_document import parse
from executions.plan_model import ExecutablePlan, Flow, Step
from executions.plan_parts import (
    Approval,
    Backoff,
    Configuration,
    ResourceRequirements,
    RetryPolicy,
    SecurityContext,
)
from executions.portia.translate import execution_order, translate
from tests.factories.documents import action, flow, full_plan, plan, plan_documents, step

JSON = dict[str, Any]
KeyPath = tuple[str | int, ...]

GOLDEN = Path(__file__).parent / "refund.portia.json"
REFUND = Path(__file__).resolve().parents[2] / "examples" / "plans" / "refund.json"
MODELS = [
    Approval,
    Backoff,
    Configuration,
    ExecutablePlan,
    Flow,
    ResourceRequirements,
    RetryPolicy,
    SecurityContext,
    Step,
]
NOT_SENT = {("plan_id",), ("plan_hash",)}


def content(document: JSON) -> JSON:
    """The translation without the plan's hash, which changes with everything; only the document's shape is checked."""
    body = translate(ExecutablePlan.model_validate(document | {"plan_hash": "0" * 64})).to_json()
    del body["metadata"]["plan_hash"]
    return body


def keys(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """The path of every key at any depth."""
    if isinstance(value, dict):
        yield from ((*path, key) for key in value)
    for key, one in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from keys(one, (*path, key))


def without(document: JSON, path: KeyPath) -> JSON:
    changed = parent = copy.deepcopy(document)
    for key in path[:-1]:
        parent = parent[key]
    del parent[path[-1]]
    return changed


def is_lost(document: JSON, path: KeyPath) -> bool:
    """Whether the translation does not change when this key is taken away; without some keys there is no plan."""
    try:
        return content(without(document, path)) == content(document)
    except ValidationError:
        return False


def is_default(document: JSON, path: KeyPath) -> bool:
    """Whether a field says only what holds without it."""
    value: Any = document
    for key in path:
        value = value[key]
    model = RetryPolicy if "retry_policy" in path[:-1] else Step
    field = model.model_fields.get(str(path[-1]))
    return value in ({}, []) or (field is not None and value == field.default)


def models_in(value: Any) -> Iterator[BaseModel]:
    if isinstance(value, BaseModel):
        yield value
        value = list(vars(value).values())
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from models_in(one)


def refund() -> JSON:
    return json.loads(REFUND.read_text())


def test_the_full_plan_gives_every_field_of_every_model() -> None:
    given_fields = {
        (type(one), name)
        for one in models_in(ExecutablePlan.model_validate(full_plan()))
        for name in one.model_fields_set
    }
    assert {(model, name) for model in MODELS for name in model.model_fields} <= given_fields


def test_no_field_of_the_full_plan_is_lost() -> None:
    document = full_plan()
    parse(without(document, ("plan_hash",)))
    assert [path for path in keys(document) if path not in NOT_SENT and is_lost(document, path)] == []


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(document=plan_documents(), data=st.data())
def test_no_field_of_any_plan_is_lost(document: JSON, data: st.DataObject) -> None:
    parse(document)
    path = data.draw(st.sampled_from([path for path in keys(document) if path not in NOT_SENT]))
    assert is_default(document, path) or not is_lost(document, path)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(document=plan_documents())
def test_every_step_is_carried_with_its_type(document: JSON) -> None:
    parsed = parse(document)
    sent = [(one["id"], one["type"]) for one in _wire_steps(translate(parsed).to_json())]
    assert sorted(sent) == sorted((one.step_id, one.step_type) for _, one in parsed.every_step())


def _wire_steps(value: Any) -> Iterator[JSON]:
    if isinstance(value, dict) and {"id", "type", "parameters"} <= value.keys():
        yield value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _wire_steps(one)


def test_the_refund_plan_translates_as_written_down() -> None:
    assert translate(parse(refund())).to_json() == json.loads(GOLDEN.read_text())


def test_plan_id_names_the_whole_hash() -> None:
    parsed = parse(plan())
    assert translate(parsed).plan_id == f"anumate-{parsed.plan_hash}"


def test_what_the_hash_leaves_out_does_not_change_the_portia_plan() -> None:
    again = plan(plan_id="another", metadata={"compiled_at": "2026-11-22T09:00:00Z"})
    assert translate(parse(plan(metadata={}))) == translate(parse(again))


def test_arguments_win_and_get_an_id_of_their_own() -> None:
    parsed = parse(plan(configuration={"timeout": 60}))
    sent = translate(parsed, allowed_tools=["echo"], timeout=5, retry_policy={"max_attempts": 1})
    assert (sent.allowed_tools, sent.timeout, sent.retry_policy["max_attempts"]) == (["echo"], 5, 1)
    assert sent.plan_id.startswith(f"anumate-{parsed.plan_hash}-")
    assert len(sent.plan_id) == len("anumate-") + 64 + 1 + 16


def test_arguments_that_change_nothing_keep_the_id() -> None:
    parsed = parse(plan(configuration={"timeout": 60}, security_context={"allowed_tools": ["wait", "echo"]}))
    assert translate(parsed, allowed_tools=["echo", "wait"], timeout=60.0) == translate(parsed)


def test_the_same_arguments_give_the_same_id_and_others_another() -> None:
    parsed = parse(plan())
    ids = [translate(parsed, timeout=seconds).plan_id for seconds in (30, 30.0, 31)]
    assert ids[0] == ids[1] != ids[2]


def test_configured_timeout_wins_over_the_required_resources() -> None:
    resources = {"timeout": 900}
    assert translate(parse(plan(resource_requirements=resources))).timeout == 900
    assert translate(parse(plan(resource_requirements=resources, configuration={"timeout": 60}))).timeout == 60


def test_nested_retry_policy_is_sent_in_both_spellings() -> None:
    policy = {"max_attempts": 4, "backoff": {"strategy": "fixed", "initial_delay": 2, "max_delay": 8}}
    (sent,) = translate(parse(plan(action("a", retry_policy=policy)))).steps
    assert sent.retry["backoff"] == policy["backoff"]
    assert (sent.retry["initial_delay"], sent.retry["exponential_base"], sent.retry["jitter"]) == (2, 1, True)


def test_first_delay_above_the_default_maximum_raises_the_maximum() -> None:
    (sent,) = translate(parse(plan(action("a", retry_policy={"initial_delay": 90})))).steps
    assert sent.retry["max_delay"] == 90


def test_a_called_flow_becomes_nested_steps() -> None:
    lines = flow(action("book"), action("tell", depends_on=["book"]), flow_id="lines")
    (sent,) = translate(parse(plan(step("all", "loop", times=2, flow="lines"), more_flows=(lines,)))).steps
    assert [(one["id"], one["depends_on"]) for one in sent.parameters["steps"]] == [("book", []), ("tell", ["book"])]
    assert sent.parameters["flow"] == "lines"


def test_both_branches_of_a_condition_are_translated() -> None:
    condition = step("check", "condition", expression="true", then=["go"], else_=[action("stop")])
    sent = translate(parse(plan(condition, action("go")))).steps[0]
    assert sent.parameters["then"] == ["go"]
    assert sent.parameters["else"][0]["tool"] == "echo"


def test_condition_branches_may_be_flows() -> None:
    flows = (flow(action("a"), flow_id="yes"), flow(action("b"), flow_id="no"))
    condition = step("check", "condition", expression="true", then_flow="yes", else_flow="no")
    sent = translate(parse(plan(condition, more_flows=flows))).steps[0]
    assert (sent.parameters["then"][0]["id"], sent.parameters["else"][0]["id"]) == ("a", "b")


def test_an_approval_step_asks_with_its_parameters_and_approval_wins() -> None:
    asked = step("ask", "approval", title="Pay?", timeout=60) | {"approval": {"title": "Pay now?"}}
    (sent,) = translate(parse(plan(asked))).steps
    assert sent.approval == {"title": "Pay now?", "timeout": 60}


def test_main_flow_settings_become_the_plan_s() -> None:
    fields = {"parallel_execution": True, "max_concurrency": 3, "on_failure": "rollback", "rollback_steps": ["undo"]}
    sent = translate(parse(plan(action("do"), action("undo", depends_on=["do"]), flow_fields=fields)))
    assert {name: getattr(sent, name) for name in fields} == fields


def test_a_retry_policy_that_is_none_is_refused() -> None:
    with pytest.raises(ValidationError):
        translate(parse(plan()), retry_policy={"max_attempts": 0})


def test_execution_order_follows_dependencies_and_leaves_rollback_out() -> None:
    fields = {"on_failure": "rollback", "rollback_steps": ["undo"]}
    steps = action("last", depends_on=["first"]), action("undo", depends_on=["last"]), action("first"), action("end")
    assert execution_order(parse(plan(*steps, flow_fields=fields))) == ["first", "last", "end"]


def test_a_plan_that_requires_approval_starts_with_it_and_every_step_waits_for_it():
    steps = [action("first"), action("second", depends_on=["first"]), action("undo")]
    flow_fields = {"on_failure": "rollback", "rollback_steps": ["undo"], "parallel_execution": True}
    asked = {"requires_approval": True, "approval_rules": ["four-eyes"]}
    gate, *others = translate(parse(plan(*steps, flow_fields=flow_fields, security_context=asked))).steps
    assert (gate.id, gate.type, gate.depends_on) == ("plan_approval", "approval", [])
    assert gate.approval["approval_rules"] == ["four-eyes"]
    assert gate.parameters == {"plan": "A plan", "tools": ["echo"], "steps": ["First", "Second", "Undo"]}
    assert {step.id: step.depends_on for step in others} == {
        "first": ["plan_approval"], "second": ["first"], "undo": ["plan_approval"],
    }  # fmt: skip


def test_the_approval_of_a_plan_never_takes_the_name_of_a_step():
    document = plan(action("plan_approval"), security_context={"requires_approval": True})
    assert [step.id for step in translate(parse(document)).steps] == ["plan_approval_", "plan_approval"]
