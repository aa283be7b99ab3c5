"""What can only be seen by looking at a whole ExecutablePlan: flows, dependencies, tools, and what each step needs.

Every check is a generator of PlanErrors over one level or step; what a text refers to is looked at in plan_references.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from executions.expressions import IDENTIFIER, RESERVED_IDS, STEP_ID
from executions.plan_levels import Calls, Level, calls_of, cycles, in_call_order, levels
from executions.plan_model import BODIES, MAX_STEP_DEPTH, MAX_STEPS, STEP_TYPES, ExecutablePlan, Flow, Step
from executions.plan_parts import PlanError, escaped
from executions.plan_references import check_references
from executions.plan_schemas import check_schemas
from executions.plan_size import TOO_MANY_STEPS

TOOL_ID = re.compile(
    r"[^\s{}$,*\x00-\x1f\x7f]+"
)  # what is checked is what is called: nothing in it is read again later


def check(plan: ExecutablePlan, *, most: int = 1000) -> list[PlanError]:
    """Every error across fields; of very many the first ones found, for more would only cost time."""
    return list(islice(_errors(plan), most))


def _errors(plan: ExecutablePlan) -> Iterator[PlanError]:
    calls = calls_of(plan)
    found = levels(plan, calls)
    yield from _flows(plan, {flow_id for called in calls.values() for flow_id in called})
    yield from _flow_cycles(plan, calls)
    yield from _size(plan, calls, found)
    yield from _ids(plan)
    for index, flow in enumerate(plan.flows):
        yield from _rollback(flow, f"/flows/{index}")
    for level in found:
        yield from _dependencies(level)
        yield from _named_branches(plan, level)
        yield from _dependency_cycles(level)
        for pointer, step in level.steps:
            yield from _type(step, pointer)
            yield from _body(plan, step, pointer)
            yield from _tool(plan, step, pointer)
            yield from _approval(step, pointer)
    yield from check_references(plan, found)
    yield from check_schemas(found)


def _flows(plan: ExecutablePlan, called: set[str]) -> Iterator[PlanError]:
    seen: set[str] = set()
    known = any(flow.flow_id == plan.main_flow for flow in plan.flows)
    for index, flow in enumerate(plan.flows):
        pointer = f"/flows/{index}"
        if not STEP_ID.fullmatch(flow.flow_id):
            yield PlanError(f"{pointer}/flow_id", "invalid_id", _id_rule("flow_id"))
        if flow.flow_id in seen:
            yield PlanError(
                f"{pointer}/flow_id",
                "duplicate_flow_id",
                f"Another flow is called '{flow.flow_id}'; rename one of them.",
            )
        seen.add(flow.flow_id)
        if flow.flow_id != plan.main_flow:
            yield from _subflow(flow, pointer)
            if known and flow.flow_id not in called:
                yield PlanError(
                    pointer, "unreachable_flow", f"No step runs the flow '{flow.flow_id}'; name it in one or remove it."
                )
    if not known:
        yield PlanError(
            "/main_flow", "unknown_main_flow", f"There is no flow '{plan.main_flow}'; name one of: {_list(seen)}."
        )


def _subflow(flow: Flow, pointer: str) -> Iterator[PlanError]:
    """A flow run by a step has no life of its own: the step says how it runs, the main flow what happens on failure."""
    settings = {
        "parallel_execution": (flow.parallel_execution, "let a step of type parallel run this flow"),
        "max_concurrency": (flow.max_concurrency is not None, "set it on the main flow"),
        "on_failure": (flow.on_failure != "stop", "set it on the main flow, or on single steps"),
        "rollback_steps": (bool(flow.rollback_steps), "put them into the main flow"),
    }
    for name, (is_set, fix) in settings.items():
        if is_set:
            yield PlanError(f"{pointer}/{name}", "subflow_option", f"Only the main flow has {name}: {fix}.")


def _flow_cycles(plan: ExecutablePlan, calls: Calls) -> Iterator[PlanError]:
    index = {flow.flow_id: number for number, flow in enumerate(plan.flows)}
    known = {caller: [one for one in called if one in calls] for caller, called in calls.items()}
    for cycle in cycles(known):
        way = " -> ".join([*cycle, cycle[0]])
        yield PlanError(
            f"/flows/{index[cycle[0]]}", "flow_cycle", f"Flows cannot run themselves: {way}. Remove one call."
        )


def _size(plan: ExecutablePlan, calls: Calls, found: list[Level]) -> Iterator[PlanError]:
    """Flows run from several places count each time: so large is what the runtime gets."""
    counts: dict[str, int] = {}
    depths: dict[str, int] = {}
    for flow_id in reversed(in_call_order(calls)):
        own = [level for level in found if level.flow.flow_id == flow_id]
        called = [
            (level.depth, target) for level in own for _, step in level.steps for _, _, target in step.called_flows()
        ]
        counts[flow_id] = sum(len(level.steps) for level in own) + sum(counts.get(target, 0) for _, target in called)
        depths[flow_id] = max(
            [level.depth for level in own] + [depth + depths.get(target, 0) for depth, target in called]
        )
    if counts.get(plan.main_flow, 0) > MAX_STEPS:
        yield PlanError("/flows", "too_many_steps", TOO_MANY_STEPS)
    if depths.get(plan.main_flow, 0) > MAX_STEP_DEPTH:
        yield PlanError("/flows", "nested_too_deep", f"Steps are nested more than {MAX_STEP_DEPTH} deep; flatten them.")


def _ids(plan: ExecutablePlan) -> Iterator[PlanError]:
    seen: dict[tuple[str, str], str] = {}
    for pointer, step in plan.every_step():
        place = f"{pointer}/step_id"
        key = (pointer.split("/")[2], step.step_id)
        if not STEP_ID.fullmatch(step.step_id):
            yield PlanError(place, "invalid_id", _id_rule("step_id"))
        elif step.step_id in RESERVED_IDS:
            yield PlanError(
                place, "reserved_id", f"'{step.step_id}' has a meaning in conditions; choose another step_id."
            )
        if key in seen:
            message = f"The step at {seen[key]} is called '{step.step_id}' too; rename one of them."
            yield PlanError(place, "duplicate_step_id", message)
        seen.setdefault(key, pointer)


def _rollback(flow: Flow, pointer: str) -> Iterator[PlanError]:
    own = {step.step_id for step in flow.steps}
    seen: set[str] = set()
    for index, one in enumerate(flow.rollback_steps):
        if one not in own:
            yield PlanError(f"{pointer}/rollback_steps/{index}", "unknown_step", f"The flow has no step '{one}'.")
        elif one in seen:
            yield PlanError(
                f"{pointer}/rollback_steps/{index}", "duplicate_rollback_step", f"'{one}' is named twice; remove one."
            )
        seen.add(one)
    if flow.on_failure == "rollback" and not flow.rollback_steps:
        yield PlanError(
            f"{pointer}/rollback_steps",
            "missing_rollback_steps",
            "on_failure is rollback: name the steps that undo the work in rollback_steps.",
        )
    if flow.rollback_steps and flow.on_failure != "rollback":
        yield PlanError(
            f"{pointer}/rollback_steps",
            "unreachable_rollback_steps",
            "These steps can never run: set on_failure to rollback, or remove rollback_steps.",
        )
    if flow.rollback_steps and own <= set(flow.rollback_steps):
        yield PlanError(f"{pointer}/rollback_steps", "only_rollback_steps", "Leave the flow at least one normal step.")


def _dependencies(level: Level) -> Iterator[PlanError]:
    allowed = level.by_id.keys() - level.rollback
    for pointer, step in level.steps:
        if step.step_type not in BODIES and allowed.issuperset(step.depends_on):
            continue
        named = [(f"/depends_on/{index}", one) for index, one in enumerate(step.depends_on)]
        started = [] if step.step_id in level.rollback else step.branch_ids()  # see _named_branches
        for below, one in [*named, *started]:
            if one not in level.by_id:
                yield PlanError(pointer + below, "unknown_step", _not_beside(level, one))
            elif one in level.rollback:
                yield PlanError(
                    pointer + below, "depends_on_rollback_step", f"'{one}' runs only in a rollback; name a normal step."
                )


def _named_branches(plan: ExecutablePlan, level: Level) -> Iterator[PlanError]:
    """Only the main flow's normal conditions start steps by their ids: a rollback has an order of its own."""
    is_main = level.outer is None and level.flow.flow_id == plan.main_flow
    for pointer, step in level.steps:
        if step.step_id in level.rollback:
            code, who = "rollback_branch_id", "A condition that runs in a rollback cannot start steps by their ids"
        elif not is_main:
            code, who = "nested_branch_id", "Only a condition beside the main flow's steps starts steps by their ids"
        else:
            continue
        for below, _ in step.branch_ids():
            yield PlanError(pointer + below, code, f"{who}; write the step itself here.")


def _not_beside(level: Level, step_id: str) -> str:
    return (
        f"There is no step '{step_id}' beside this one; name one of: {_list(level.by_id)}."
        if level.outer is None
        else f"There is no step '{step_id}' beside this one in '{level.outer_id}'; to wait for an outer step, let "
        f"'{level.outer_id}' depend on it."
    )


def _dependency_cycles(level: Level) -> Iterator[PlanError]:
    pointers = {step.step_id: pointer for pointer, step in reversed(level.steps)}
    for cycle in cycles(level.needs):
        way = " -> ".join([*cycle, cycle[0]])
        yield PlanError(
            f"{pointers[cycle[0]]}/depends_on",
            "dependency_cycle",
            f"These steps wait for each other: {way}. Remove one of the dependencies.",
        )


def _type(step: Step, pointer: str) -> Iterator[PlanError]:
    if step.step_type not in STEP_TYPES:
        yield PlanError(
            f"{pointer}/step_type",
            "unknown_step_type",
            f"'{step.step_type}' is no step type; use one of: {_list(STEP_TYPES)}.",
        )
    for name, target in step.outputs.items():
        if not target or (target.startswith("$") and not target.startswith("$.")):
            message = "Name the variable that takes this output, or a path such as $.total."
            yield PlanError(f"{pointer}/outputs/{escaped(name)}", "invalid_output", message)


def _body(plan: ExecutablePlan, step: Step, pointer: str) -> Iterator[PlanError]:
    """A group, loop or condition has something to run, said in one way only."""
    if step.step_type not in BODIES:
        return
    flows = {flow.flow_id for flow in plan.flows}
    place = f"{pointer}/parameters"
    for key, _, flow_id in step.called_flows():
        if flow_id not in flows:
            yield PlanError(
                f"{place}/{key}", "unknown_flow", f"There is no flow '{flow_id}'; name one of: {_list(flows)}."
            )
    if step.step_type == "condition":
        for body, flow_key in BODIES["condition"].items():
            yield from _at_most_one(step, pointer, (body, flow_key))
    elif step.step_type == "loop":
        yield from _exactly_one(step, pointer, ("steps", "flow", "tool"))
        yield from _exactly_one(step, pointer, ("over", "times", "while"))
        if step.parameters.get("parallel") and "while" in step.parameters:
            message = "A while loop decides after each round; remove parallel."
            yield PlanError(f"{place}/parallel", "conflicting_parameters", message)
        yield from _item(step, place)
    elif step.step_type in BODIES:
        yield from _exactly_one(step, pointer, ("steps", "flow"))


def _item(step: Step, place: str) -> Iterator[PlanError]:
    item = step.parameters.get("item", "item")
    if not IDENTIFIER.fullmatch(item) or item in RESERVED_IDS - {"item"}:
        yield PlanError(
            f"{place}/item", "invalid_item_name", "Name the item with letters, digits and _, and no reserved word."
        )


def _exactly_one(step: Step, pointer: str, keys: Iterable[str]) -> Iterator[PlanError]:
    yield from _at_most_one(step, pointer, keys)
    if not _given(step, keys):
        yield PlanError(
            f"{pointer}/parameters", "missing_parameter", f"A {step.step_type} needs one of: {', '.join(keys)}."
        )


def _at_most_one(step: Step, pointer: str, keys: Iterable[str]) -> Iterator[PlanError]:
    given = _given(step, keys)
    if len(given) > 1:
        message = f"{' and '.join(given)} exclude each other; keep one."
        yield PlanError(f"{pointer}/parameters/{given[1]}", "conflicting_parameters", message)


def _given(step: Step, keys: Iterable[str]) -> list[str]:
    return [key for key in keys if step.parameters.get(key) is not None]


def _tool(plan: ExecutablePlan, step: Step, pointer: str) -> Iterator[PlanError]:
    if step.step_type == "action" and not step.tool:
        yield PlanError(f"{pointer}/tool", "missing_tool", "An action calls a tool: name it in tool.")
    if step.tool and step.step_type in STEP_TYPES and step.step_type not in ("action", "llm", "agent"):
        message = f"A {step.step_type} calls no tool; make it an action, or remove tool."
        yield PlanError(f"{pointer}/tool", "unexpected_tool", message)
    allowed = plan.security_context.allowed_tools
    called = step.called_tool
    place = f"{pointer}/parameters/tool" if step.step_type == "loop" else f"{pointer}/tool"
    if called and not TOOL_ID.fullmatch(called):
        message = "Write the tool's id as it is: no blanks, commas, braces, * or $. Templates are not filled in here."
        yield PlanError(place, "invalid_tool", message)
    elif allowed and called and called not in allowed:
        message = f"'{called}' is not in security_context.allowed_tools; add it there, or use one of: {_list(allowed)}."
        yield PlanError(place, "tool_not_allowed", message)


def _approval(step: Step, pointer: str) -> Iterator[PlanError]:
    if step.approval and step.step_type not in ("action", "approval"):
        message = f"A {step.step_type} is not approved; put an approval step before it, or approve the actions in it."
        yield PlanError(f"{pointer}/approval", "unexpected_approval", message)


def _id_rule(field: str) -> str:
    return f"Start {field} with a letter or _, then letters, digits, _ or -, 64 at most."


def _list(names: Iterable[Any]) -> str:
    found = sorted(filter(None, names))
    return ", ".join(found[:10]) + (f" and {len(found) - 10} more" if len(found) > 10 else "")
