"""The `args_schema` of a tool, prepared once for the arguments of many steps. Pure.

A schema is the runtime's, which may be any: it goes through safe_json_schema. Most arguments fit, and most schemas use a dozen
keywords; of these a plain function is made that says "this surely fits" ten times faster than the library finds nothing wrong.
What it does not say that of, the library looks at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from itertools import groupby
from time import thread_time
from typing import Any

from jsonschema import ValidationError

from safe_json_schema import MAX_SCHEMA, Prepared, UnusableSchema, check_time, is_found, time_limit

SECONDS = 1.0  # of CPU, to prepare all schemas of a runtime
MOST_MISFITS = 20  # per step
SHORT = 200  # characters of a text that is remembered

Fits = Callable[[Any], bool]


class ArgumentSchema:
    """A sound schema for the arguments of one tool."""

    def __init__(self, schema: Any) -> None:
        """Raises UnusableSchema."""
        self._prepared = Prepared(schema)
        self._fits = _fits(schema)

    def misfits(self, arguments: Mapping[str, Any], *, unknown: Collection[str] = ()) -> list[ValidationError]:
        """What is wrong with the arguments whatever those are that are given but `unknown`. Raises UnusableSchema."""
        known = {name: value for name, value in arguments.items() if name not in unknown}
        try:
            if self._fits(known | dict.fromkeys(unknown, _ANYTHING)):
                return []
        except RecursionError as error:
            raise UnusableSchema("The schema is nested too deep.") from error
        found = self._prepared.misfits(known, unknown=unknown, most=MOST_MISFITS)
        return [one for one in found if _is_certain(one)]


def prepared(schemas: Mapping[str, Any]) -> dict[str, ArgumentSchema | None]:
    """The schemas of tools, made ready; None for one that cannot be used. Takes a second of CPU at most, and mostly none."""
    ends = thread_time() + SECONDS
    return {name: _prepared(schema) if thread_time() < ends else None for name, schema in schemas.items()}


def _prepared(schema: Any) -> ArgumentSchema | None:
    try:
        text = json.dumps(schema, ensure_ascii=False)
    except (ValueError, RecursionError):
        return None
    return _remembered(text) if len(text) <= MAX_SCHEMA else None


@lru_cache(maxsize=256)
def _remembered(text: str) -> ArgumentSchema | None:
    try:
        with time_limit(SECONDS):
            return ArgumentSchema(json.loads(text))
    except (UnusableSchema, RecursionError):
        return None


# -- is a misfit one for every runtime?

# What the dialects of patterns do not read alike: classes of letters, blanks and digits beyond the usual characters, `$`
# before a last line break; and what one of them takes for letters where another sees a word of its language.
_CLASSES = re.compile(r"\\[wWdDsSbB]")
_UNUSUAL = re.compile(r"[^\t\n\f\r -~]")
_OF_ONE_DIALECT = re.compile(r"\{,|\[:")


def _is_certain(error: ValidationError) -> bool:
    if error.validator == "pattern":
        return _is_read_alike(error.validator_value, error.instance)
    if not error.context:
        return True
    branches = groupby(error.context, key=lambda one: one.relative_schema_path[0])
    return all(any(map(_is_certain, errors)) for _, errors in branches)


def _is_read_alike(pattern: str, text: str) -> bool:
    if _OF_ONE_DIALECT.search(pattern) or text.endswith("\n"):
        return False
    return not (_CLASSES.search(pattern) and _UNUSUAL.search(text))


# -- does a value surely fit?

_ANYTHING = object()  # a value that is not known
_SILENT = frozenset({
    "$comment", "$defs", "$schema", "default", "definitions", "deprecated", "description", "examples", "format", "readOnly",
    "title", "writeOnly",
})  # fmt: skip
_OF_OBJECTS = frozenset({"properties", "required", "additionalProperties", "oneOf"})


def _fits(schema: Any) -> Fits:
    """A function that is true for values which surely fit; it may raise UnusableSchema."""
    if isinstance(schema, bool):
        return lambda _: schema
    checks = [_MAKERS[key](wanted) for key, wanted in schema.items() if key in _MAKERS]
    if schema.keys() - _SILENT - _MAKERS.keys() - _OF_OBJECTS:
        return _never
    if schema.keys() & _OF_OBJECTS:
        checks.append(_object(schema))
    if len(checks) == 1:
        return checks[0]
    return lambda value: all(check(value) for check in checks)


def _never(_: Any) -> bool:
    return False


def _object(schema: Mapping[str, Any]) -> Fits:
    members = {name: _fits(part) for name, part in schema.get("properties", {}).items()}
    further = _fits(schema.get("additionalProperties", True))
    required = frozenset(schema.get("required", ()))
    choice = _choice(schema["oneOf"]) if "oneOf" in schema else None

    def fits(value: Any) -> bool:
        if not isinstance(value, dict):
            return choice is None
        check_time()
        if not required <= value.keys() or (choice and not choice(value)):
            return False
        return all(_member_fits(members.get(name, further), name in members, one) for name, one in value.items())

    def _member_fits(check: Fits, is_named: bool, one: Any) -> bool:
        return check(one) if one is not _ANYTHING else is_named or schema.get("additionalProperties") is not False

    return fits


def _choice(branches: list[Any]) -> Fits:
    """Exactly one of several lists of names is there; where a choice says more than that, nothing is sure."""
    if not all(isinstance(one, dict) and one.keys() == {"required"} for one in branches):
        return _never
    names = [frozenset(one["required"]) for one in branches]
    return lambda value: sum(some <= value.keys() for some in names) == 1


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_TYPES: dict[str, Fits] = {
    "array": lambda value: isinstance(value, list),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: _is_number(value) and (isinstance(value, int) or value.is_integer()),
    "null": lambda value: value is None,
    "number": _is_number,
    "object": lambda value: isinstance(value, dict),
    "string": lambda value: isinstance(value, str),
}


def _type(wanted: str | list[str]) -> Fits:
    if isinstance(wanted, str):
        return _TYPES[wanted]
    kinds = [_TYPES[one] for one in wanted]
    return lambda value: any(kind(value) for kind in kinds)


def _one_of(wanted: list[Any]) -> Fits:
    texts = frozenset(one for one in wanted if isinstance(one, str))
    return lambda value: isinstance(value, str) and value in texts


def _text(is_right: Callable[[str], bool]) -> Fits:
    return lambda value: not isinstance(value, str) or is_right(value)


def _list(is_right: Callable[[list[Any]], bool]) -> Fits:
    return lambda value: not isinstance(value, list) or is_right(value)


def _number(is_right: Callable[[Any], bool]) -> Fits:
    return lambda value: not _is_number(value) or is_right(value)


def _items(schema: Any) -> Fits:
    each = _fits(schema)
    return _list(lambda values: all(map(each, values)))


def _any_of(schemas: list[Any]) -> Fits:
    branches = [_fits(one) for one in schemas]

    def fits(value: Any) -> bool:
        check_time()
        return any(branch(value) for branch in branches)

    return fits


def _all_of(schemas: list[Any]) -> Fits:
    branches = [_fits(one) for one in schemas]
    return lambda value: all(branch(value) for branch in branches)


def _matches(text: str, pattern: str) -> bool:
    return _short_matches(text, pattern) if len(text) <= SHORT else is_found(text, pattern)


@lru_cache(maxsize=4096)
def _short_matches(text: str, pattern: str) -> bool:
    return is_found(text, pattern)


_MAKERS: dict[str, Callable[[Any], Fits]] = {
    "type": _type,
    "enum": _one_of,
    "const": lambda wanted: _one_of([wanted]),
    "pattern": lambda wanted: _text(lambda text: _matches(text, wanted)),
    "minLength": lambda wanted: _text(lambda text: len(text) >= wanted),
    "maxLength": lambda wanted: _text(lambda text: len(text) <= wanted),
    "minimum": lambda wanted: _number(lambda number: number >= wanted),
    "maximum": lambda wanted: _number(lambda number: number <= wanted),
    "exclusiveMinimum": lambda wanted: _number(lambda number: number > wanted),
    "exclusiveMaximum": lambda wanted: _number(lambda number: number < wanted),
    "minItems": lambda wanted: _list(lambda values: len(values) >= wanted),
    "maxItems": lambda wanted: _list(lambda values: len(values) <= wanted),
    "items": _items,
    "anyOf": _any_of,
    "allOf": _all_of,
}
