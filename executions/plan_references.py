"""Do the conditions, templates and inputs of a plan speak of things that exist when they are looked at?

A condition is compiled with the names of its flow. A reference to a step is an error when there is no such step, or when it
cannot have ended yet. A single name in a template may be a parameter of the run and is let through; one with a dot must start
with a step, a variable, a loop name, or `steps`, `variables`, `parameters`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from executions.expressions import (
    LOOP_NAMES,
    ROOTS,
    Conditions,
    Path,
    Problem,
    parse_path,
    templates,
)
from executions.plan_levels import Level, loop_names
from executions.plan_model import BODIES, ExecutablePlan, Step
from executions.plan_parts import PlanError, escaped

EXPRESSIONS = {"condition": "expression", "loop": "while"}
LOOP_SOURCES = ("over", "times")
# Arguments that a tool reads in a language of its own, and in which the runtime therefore expands nothing.
OWN_LANGUAGE = {"template_render": frozenset({"template"}), "calculate": frozenset({"expression"})}


@dataclass(kw_only=True, eq=False, slots=True)
class _Place:
    """A step where it stands: `flow_steps` are all steps of its flow, `variables` all names the plan gives to values."""

    level: Level
    step: Step
    pointer: str
    flow_steps: set[str]
    variables: frozenset[str]

    def step_problem(self, step_id: str) -> Problem | None:
        """What is wrong with reading that step here."""
        if step_id not in self.flow_steps:
            return "unknown_step", f"This flow has no step '{step_id}'; correct the name."
        if self.level.ran_before(self.step.step_id, step_id):
            return None
        if self.level.parallel and step_id in self.level.by_id and step_id not in self.level.rollback:
            fix = "add it to depends_on, directly or through other steps"
        elif step_id in self.level.by_id:
            fix = "move it before this step"
        else:
            fix = "it is nested in another step; read that step's output, or a variable"
        return "reference_not_before", f"'{step_id}' cannot have run when this is read: {fix}."

    def path_problem(self, path: Path, names: frozenset[str]) -> Problem | None:
        """What is wrong with a path in a template; `names` are the loop names that hold here."""
        root = path.root
        if path.step_id or (root in self.flow_steps and root not in names):
            return self.step_problem(path.step_id or root)
        if root in ROOTS or root in names or root in self.variables:
            return None
        if root in LOOP_NAMES:
            return "not_in_loop", f"'{root}' exists only inside a loop; write variables.{root} or parameters.{root}."
        if len(path.segments) == 1:
            return None
        rest = path.text[len(root) :]
        text = f"Nothing is called '{root}' here: correct the step's name, or write parameters.{root}{rest}."
        return "unknown_reference", text


def check_references(plan: ExecutablePlan, found: list[Level]) -> Iterator[PlanError]:
    """Every error in the conditions, templates and inputs of a plan; `found` are its levels."""
    variables = frozenset(plan.variables).union(*(_written(step) for level in found for _, step in level.steps))
    flow_steps: dict[str, set[str]] = {}
    for level in found:
        flow_steps.setdefault(level.flow.flow_id, set()).update(level.by_id)
    for level in found:
        steps = flow_steps[level.flow.flow_id]
        conditions, rounds = Conditions(steps | level.names), Conditions(steps | level.names | {"index"})
        for pointer, step in level.steps:
            place = _Place(level=level, step=step, pointer=pointer, flow_steps=steps, variables=variables)
            yield from _conditions(place, conditions)
            if step.step_type in EXPRESSIONS:
                yield from _expression(place, rounds if step.step_type == "loop" else conditions)
            yield from _texts(place)
            yield from _inputs(place)


def _written(step: Step) -> Iterator[str]:
    """The variables that a step's outputs fill: `field: variable`, or `variable: $.path`."""
    for name, target in step.outputs.items():
        yield name if target.startswith("$") else target


def _conditions(place: _Place, compiler: Conditions) -> Iterator[PlanError]:
    for index, text in enumerate(place.step.conditions):
        for problem in _condition_problems(place, compiler, text):
            yield PlanError(f"{place.pointer}/conditions/{index}", *problem)


def _expression(place: _Place, compiler: Conditions) -> Iterator[PlanError]:
    """The expression of a condition step; the `while` of a loop, which cannot look into its body but at variables."""
    key = EXPRESSIONS[place.step.step_type]
    if key in place.step.parameters:
        for problem in _condition_problems(place, compiler, place.step.parameters[key]):
            yield PlanError(f"{place.pointer}/parameters/{key}", *problem)


def _condition_problems(place: _Place, compiler: Conditions, text: str) -> Iterator[Problem]:
    problem, names, steps = compiler.examine(text)
    if problem:
        yield problem
        return
    meant = place.flow_steps.intersection(names) - place.level.names
    for step_id in sorted(meant.union(steps)):
        if problem := place.step_problem(step_id):
            yield problem


def _texts(place: _Place) -> Iterator[PlanError]:
    """Templates in parameters and in what an approver reads; in a loop, all but its source sees the loop's names."""
    step, names = place.step, place.level.names
    yield from _templates(place, _expanded(step), "/parameters", names | loop_names(step))
    if step.step_type == "loop":
        for key in LOOP_SOURCES:
            yield from _loop_source(place, key, step.parameters.get(key))
    if step.approval:
        asked = {"title": step.approval.title, "message": step.approval.message}
        yield from _templates(place, asked, "/approval", names)


def _expanded(step: Step) -> dict[str, Any]:
    """The parameters in which the runtime expands templates, without a loop's source."""
    if step.step_type == "action":
        return _without(step.parameters, OWN_LANGUAGE.get(step.tool or ""))
    if step.step_type == "loop":
        arguments = _without(step.parameters.get("arguments", {}), OWN_LANGUAGE.get(step.called_tool or ""))
        return _without(step.parameters, {"steps", "while", *LOOP_SOURCES}) | {"arguments": arguments}
    return _without(step.parameters, {*BODIES.get(step.step_type, {}), EXPRESSIONS.get(step.step_type, "")})


def _without(values: dict[str, Any], keys: Collection[str] | None) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys} if keys else values


def _loop_source(place: _Place, key: str, value: Any) -> Iterator[PlanError]:
    """`over` may be a path without braces; `times` is a number or a template."""
    where = f"/parameters/{key}"
    path = parse_path(value) if isinstance(value, str) and key == "over" else None
    if path:
        if problem := place.path_problem(path, place.level.names):
            yield PlanError(place.pointer + where, *problem)
    elif isinstance(value, str) and not any(path for _, path in templates(value)):
        kind = "a list" if key == "over" else "a number"
        text = f"Give {kind}, or a template of one such as {{{{variables.{key}}}}}."
        yield PlanError(place.pointer + where, "invalid_parameter", text)
    else:
        yield from _templates(place, value, where, place.level.names)


def _templates(place: _Place, value: Any, below: str, names: frozenset[str]) -> Iterator[PlanError]:
    found = (path for text in _braced(value) for _, path in templates(text))
    if all(path and not place.path_problem(path, names) for path in found):
        return
    for where, text in _placed(value, below):
        for written, path in templates(text):
            problem = place.path_problem(path, names) if path else _no_path(written)
            if problem:
                yield PlanError(place.pointer + where, *problem)


def _braced(value: Any) -> list[str]:
    """The texts at any depth that may hold a template."""
    texts, waiting = [], [value]
    for one in waiting:  # which grows on the way
        if isinstance(one, str):
            if "{" in one:
                texts.append(one)
        elif isinstance(one, dict):
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
    return texts


def _placed(value: Any, pointer: str) -> Iterator[tuple[str, str]]:
    """Every text at any depth, with its pointer."""
    if isinstance(value, str):
        yield pointer, value
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _placed(one, f"{pointer}/{escaped(key)}")
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from _placed(one, f"{pointer}/{index}")


def _no_path(written: str) -> Problem:
    return "invalid_template", f"'{written[:100]}' holds no path; write a path such as {{{{step.field}}}}."


def _inputs(place: _Place) -> Iterator[PlanError]:
    """An input is a variable, a path or, where it names nothing, a text: only what surely means a step can be wrong."""
    for argument, value in place.step.inputs.items():
        below = f"/inputs/{escaped(argument)}"
        if "{" in value:
            yield from _templates(place, value, below, place.level.names)
        path = parse_path(value)
        if path and (step_id := _meant_step(place, path)) and (problem := place.step_problem(step_id)):
            yield PlanError(place.pointer + below, *problem)


def _meant_step(place: _Place, path: Path) -> str | None:
    root = path.root
    if path.step_id or root in ROOTS or root in place.level.names:
        return path.step_id
    if root in place.flow_steps:
        return root
    says_output = len(path.segments) > 1 and path.segments[1] == "output"
    return root if says_output and root not in place.variables else None
