"""Do the arguments that a plan gives its tools fit what the runtime says of them? Only what no run can mend is an error.

An argument that comes from `inputs`, or that holds a template anywhere, may become anything: it counts as given, and its value
as unknown. A schema that cannot be used, or takes too long to apply, checks nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from jsonschema import ValidationError

from executions.argument_schemas import ArgumentSchema
from executions.plan_model import ExecutablePlan, Step
from executions.plan_parts import escaped
from executions.plan_references import OWN_LANGUAGE
from safe_json_schema import UnusableSchema, time_limit

SECONDS = 0.5  # of CPU, for all steps of a plan
MOST_ERRORS = 500
LONGEST = 300  # characters that are quoted of a schema
# A little more than a runtime expands, so that nothing it might expand is taken for a value.
_TEMPLATE = re.compile(r"""\{\{.+?\}\}|\$\{\s*[^\s.\[\]{}$"']+(?:\s*\}|[.\[])""", re.DOTALL)

Schemas = Mapping[str, ArgumentSchema | None]


@dataclass(frozen=True, kw_only=True)
class Misfit:
    """An argument that cannot be: `pointer` leads to it in the plan, `detail` says what is expected of it."""

    pointer: str
    detail: str


@dataclass(kw_only=True)
class Fitting:
    """What came of the check: `misfits`, and the `unchecked` tools, of which the plan uses one that could not be checked."""

    misfits: list[Misfit] = field(default_factory=list)
    unchecked: set[str] = field(default_factory=set)


@dataclass(frozen=True, kw_only=True)
class Call:
    """A step's call of a tool: the arguments given in the plan, with the pointer to them and to the step."""

    step_id: str
    tool: str
    pointer: str
    below: str
    arguments: Mapping[str, Any]
    inputs: Collection[str]

    def place(self, name: str) -> str:
        """The pointer to an argument."""
        where = "/inputs" if name in self.inputs and name not in self.arguments else self.below
        return f"{self.pointer}{where}/{escaped(name)}"

    @property
    def unknown(self) -> list[str]:
        """The arguments that are given, but whose value is known only when the step runs."""
        own = OWN_LANGUAGE.get(self.tool, ())
        return [*self.inputs, *(n for n, one in self.arguments.items() if n not in own and _has_template(one))]


def check_arguments(document: ExecutablePlan, schemas: Schemas) -> Fitting:
    """Look at every step whose tool has a schema; the first 500 misfits will do."""
    found = Fitting()
    with time_limit(SECONDS):
        for call in calls(document, schemas):
            schema = schemas[call.tool]
            try:
                if schema is None:
                    raise UnusableSchema
                errors = schema.misfits(call.arguments, unknown=call.unknown)
            except UnusableSchema:
                found.unchecked.add(call.tool)
                continue
            found.misfits += dict.fromkeys(one for error in errors for one in _misfits(call, error))
            if len(found.misfits) >= MOST_ERRORS:
                break
    return found


def calls(document: ExecutablePlan, tools: Collection[str]) -> Iterator[Call]:
    """Every call of one of these tools."""
    for pointer, step in document.every_step():
        tool = step.called_tool
        if tool and tool in tools and step.step_type in ("action", "loop"):
            yield _call(tool, step, pointer)


def _call(tool: str, step: Step, pointer: str) -> Call:
    arguments, below, inputs = step.parameters, "/parameters", list(step.inputs)
    if step.step_type == "loop":
        arguments, below, inputs = step.parameters.get("arguments", {}), "/parameters/arguments", []
    return Call(step_id=step.step_id, tool=tool, pointer=pointer, below=below, arguments=arguments, inputs=inputs)


def _has_template(value: Any) -> bool:
    if isinstance(value, str):
        return "{" in value and _TEMPLATE.search(value) is not None
    if isinstance(value, dict):
        return any(map(_has_template, value.values()))
    return isinstance(value, list) and any(map(_has_template, value))


# -- what to say


def _misfits(call: Call, error: ValidationError) -> Iterator[Misfit]:
    path = [str(one) for one in error.absolute_path]
    names = (
        [name for name in error.instance if name not in error.schema.get("properties", ())] if _is_extra(error) else []
    )
    if names and not path:
        takes = ", ".join(sorted(error.schema.get("properties", ()))) or "none"
        for name in names:
            detail = f"The tool {call.tool!r} has no argument {name!r}; it takes {takes}."
            yield Misfit(pointer=call.place(name), detail=_cut(detail))
        return
    pointer = call.place(path[0]) if path else f"{call.pointer}{call.below}"
    pointer += "".join(f"/{escaped(one)}" for one in path[1:])
    yield Misfit(pointer=pointer, detail=_cut(_sentence(call.tool, path, error)))


def _is_extra(error: ValidationError) -> bool:
    is_closed = error.validator == "additionalProperties" and error.validator_value is False
    return is_closed and "patternProperties" not in error.schema


def _sentence(tool: str, path: list[str], error: ValidationError) -> str:
    argument = f"{'.'.join(path)!r}" if path else "its arguments"
    if error.validator == "required" and not path:
        name = error.message.removesuffix(" is a required property")
        return f"The tool {tool!r} needs the argument {name}, which neither parameters nor inputs give."
    expected = _expected(error)
    if expected:
        return f"The tool {tool!r} wants {argument} to be {expected}."
    return f"The tool {tool!r} does not take this for {argument}: {error.message}."


def _expected(error: ValidationError) -> str | None:
    """What a value should be, to be said after "be"."""
    keyword = str(error.validator)
    if keyword == "required":
        return f"given with {error.message.removesuffix(' is a required property')}"
    if keyword in _EXPECTED:
        return f"{_EXPECTED[keyword]} {_said(error.validator_value)}"
    if keyword == "oneOf" and not error.context:
        return "of one form only; it is of several"
    branches = groupby(error.context or (), key=lambda one: one.relative_schema_path[0])
    firsts = [_expected(next(errors)) for _, errors in branches]
    return " or ".join(dict.fromkeys(map(str, firsts))) if firsts and all(firsts) else None


_EXPECTED = {
    "type": "of type",
    "enum": "one of",
    "const": "just",
    "pattern": "a text that matches",
    "minLength": "a text whose length is at least",
    "maxLength": "a text whose length is at most",
    "minimum": "a number not below",
    "maximum": "a number not above",
    "exclusiveMinimum": "a number above",
    "exclusiveMaximum": "a number below",
    "multipleOf": "a multiple of",
    "minItems": "a list whose length is at least",
    "maxItems": "a list whose length is at most",
}


def _said(wanted: Any) -> str:
    if isinstance(wanted, list):
        return ", ".join(_said(one) for one in wanted)
    return wanted if isinstance(wanted, str) else json.dumps(wanted, ensure_ascii=False)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
