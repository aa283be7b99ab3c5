"""Which arguments a capability token allows its tools: the claim `limits`, a schema of the arguments by tool id. Pure.

The schemas are a small part of JSON Schema 2020-12, and closed: a keyword that is not of it is refused, because a limit that
nobody applies is none. Only what stands in the plan can be held against them; an argument whose value is known only when the
step runs is refused, unless the schema leaves it open. docs/reference/capability-tokens.md
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from executions.canonical_json import flaws
from executions.plan_model import ExecutablePlan
from executions.plan_parts import LONGEST_TITLE
from executions.tool_arguments import Call, calls
from safe_json_schema import Prepared, UnusableSchema, time_limit

SECONDS = 0.5  # of CPU, for all schemas of a token and all steps of a plan
MOST_LIMITS = 50
MOST_TOLD = 20  # per step
LONGEST = 300  # characters of a sentence of the library's

Limits = Mapping[str, Any]

_OF_TYPE = {
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "string": {"minLength", "maxLength", "pattern"},
    "array": {"items", "minItems", "maxItems", "uniqueItems"},
    "object": {"properties", "required", "additionalProperties"},
}
_OF_ANY_TYPE = {"type", "enum", "const", "allOf", "anyOf", "oneOf", "not"}
_SILENT = {"title", "description", "$comment"}
_KNOWN = _OF_ANY_TYPE.union(_SILENT, *_OF_TYPE.values())


class BadLimits(ValueError):
    """These are no limits; `tool` is the one whose schema is at fault, where it is one's."""

    def __init__(self, sentence: str, tool: str | None = None) -> None:
        super().__init__(sentence if tool is None else f"{tool}: {sentence}")
        self.sentence, self.tool = sentence, tool


@dataclass(frozen=True, kw_only=True)
class Violation:
    """An argument that the token does not allow: where in the plan it stands, a stable code, and what to do."""

    pointer: str
    code: str
    detail: str


def check_limits(limits: Any) -> None:
    """Raise BadLimits for what is no object of sound schemas of the subset."""
    if not isinstance(limits, dict) or len(limits) > MOST_LIMITS:
        raise BadLimits(f"Give an object with the schemas of the arguments of at most {MOST_LIMITS} tools, by tool id.")
    if not all(1 <= len(tool) <= LONGEST_TITLE for tool in limits):
        raise BadLimits(f"Name each tool with 1 to {LONGEST_TITLE} characters.")
    for _, _, sentence in flaws(limits):
        raise BadLimits(sentence)
    with time_limit(SECONDS):
        for tool, schema in limits.items():
            try:
                Prepared(schema)
                flaw = next(_flaws(schema, at_root=True), None)
            except UnusableSchema as error:
                flaw = str(error)
            if flaw:
                raise BadLimits(flaw[:LONGEST], tool)


def narrowed(held: Limits, wanted: Limits) -> dict[str, Any]:
    """Both limits at once, which is never wider than either: a tool that both speak of gets `allOf`."""
    both = {tool: {"allOf": [held[tool], schema]} for tool, schema in wanted.items() if tool in held}
    return {**held, **wanted, **{tool: held[tool] if held[tool] == wanted[tool] else one for tool, one in both.items()}}


def violations(document: ExecutablePlan, *, limits: Limits, allowed_tools: Collection[str]) -> list[Violation]:
    """Everything in a plan that the limits do not allow, or that nobody could hold against them before it runs."""
    if not limits:
        return []
    with time_limit(SECONDS):
        found = [one for call in calls(document, limits) for one in _violations_of(call, limits[call.tool])]
    return found + list(_unknowable(document, limits, sorted(set(limits) & set(allowed_tools))))


def _violations_of(call: Call, schema: Any) -> Iterator[Violation]:
    hidden = [name for name in call.unknown if not _leaves_open(schema, name)]
    for name in hidden:
        yield Violation(
            pointer=call.place(name),
            code="argument_not_known",
            detail=(
                f"Step {call.step_id!r}: the capability token limits the argument {name!r} of {call.tool!r}, whose value "
                "is known only when the step runs. Write the value itself into the plan."
            ),
        )
    if hidden:
        return
    try:
        errors = Prepared(schema).misfits(call.arguments, unknown=call.unknown, most=MOST_TOLD)
    except UnusableSchema as error:
        yield _not_allowed(call, [], f"it cannot be checked: {error}")
        return
    for misfit in errors:
        yield _not_allowed(call, [str(one) for one in misfit.absolute_path], misfit.message)


def _not_allowed(call: Call, path: list[str], why: str) -> Violation:
    what = f"the argument {'.'.join(path)!r}" if path else "these arguments"
    return Violation(
        pointer=call.place(path[0]) if path else call.pointer,
        code="argument_not_allowed",
        detail=f"Step {call.step_id!r}: the capability token does not allow {what} of {call.tool!r}: {why[:LONGEST]}.",
    )


def _unknowable(document: ExecutablePlan, limits: Limits, agents_tools: list[str]) -> Iterator[Violation]:
    """Steps that choose their arguments themselves."""
    for pointer, step in document.every_step():
        named = step.called_tool if step.step_type not in ("action", "loop") else None
        tools = [named] if named in limits else agents_tools if step.step_type == "agent" else []
        if tools:
            whose = f"the capability token limits those of: {', '.join(map(str, tools))}"
            detail = f"Step {step.step_id!r} chooses arguments itself, and {whose}. Leave them out of allowed_tools."
            yield Violation(pointer=pointer, code="argument_not_known", detail=detail)


def _leaves_open(schema: Any, name: str) -> bool:
    """Whether the schema surely says nothing about the value of this argument."""
    if schema is True:
        return True
    if not isinstance(schema, dict):
        return False
    return all(_is_silent(schema, key, name) for key in schema)


def _is_silent(schema: Mapping[str, Any], key: str, name: str) -> bool:
    value, named = schema[key], schema.get("properties", {})
    if key == "properties":
        return name not in named or value[name] in (True, {})
    if key == "additionalProperties":
        return name in named or value in (True, {})
    if key == "allOf":
        return all(_leaves_open(one, name) for one in value)
    return key in _SILENT or key == "required" or (key == "type" and value == "object")


def _flaws(schema: Any, *, at_root: bool = False) -> Iterator[str]:
    """What a sound schema has that is not of the subset."""
    if isinstance(schema, bool):
        return
    for key in sorted(schema.keys() - _KNOWN):
        yield f"The keyword {key!r} is not one that limits are written in."
    types = _types(schema, at_root=at_root)
    for kind, keywords in _OF_TYPE.items():
        found = sorted(keywords & schema.keys())
        if found and types != {kind}:
            yield f"{found[0]!r} lets everything pass that is no {kind}: give the type {kind!r} beside it, and no other."
    for part in _parts(schema):
        yield from _flaws(part)
    for part in _in_place(schema):
        yield from _flaws(part, at_root=at_root)


def _types(schema: Mapping[str, Any], *, at_root: bool) -> set[str]:
    """The types a value may have, an integer being a number; arguments as a whole are always an object."""
    given = schema.get("type", "object" if at_root else [])
    return {"number" if one == "integer" else one for one in ([given] if isinstance(given, str) else given)}


def _in_place(schema: Mapping[str, Any]) -> Iterator[Any]:
    """The schemas in a schema that speak of the same value."""
    for key in ("allOf", "anyOf", "oneOf"):
        yield from schema.get(key, ())
    if "not" in schema:
        yield schema["not"]


def _parts(schema: Mapping[str, Any]) -> Iterator[Any]:
    """Those that speak of a part of it."""
    yield from schema.get("properties", {}).values()
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield schema[key]
