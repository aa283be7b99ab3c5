"""JSON Schemas (2020-12) that come from outside: is one sound, and does a value fit it?

Such a schema never makes a request, never stalls the process and never fails in another way than by UnusableSchema:

- `$ref` names a part of the schema itself (`#/$defs/name`) and nothing is its own part without going into the value;
- patterns are RE2 (`matches` of CEL), which takes time linear in the text and has neither look-around nor back-references;
- checking and applying it ends after some CPU seconds of the calling thread.

Used on both sides of the wire and belonging to neither: it imports nothing of ours (docs/adr/0006-schemas-of-strangers.md).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, lru_cache
from graphlib import CycleError, TopologicalSorter
from itertools import islice
from time import thread_time
from typing import Any
from urllib.parse import unquote

from cel_expr_python import cel
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend
from referencing import Registry

MAX_SCHEMA = 50_000  # characters as JSON
MAX_PATTERN = 1_000  # characters
MAX_TEXT = 100_000  # characters that a pattern is looked for in: the one thing that no limit interrupts
SECONDS = 0.5  # of CPU, unless a time_limit is set

JSONPath = tuple[str | int, ...]
Flaw = tuple[JSONPath, str]

_STANDARD: dict[str, Any] = dict(Draft202012Validator.VALIDATORS)
_TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
_ONE = frozenset({
    "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not", "propertyNames", "then",
    "unevaluatedItems", "unevaluatedProperties",
})  # fmt: skip
_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_MAPS = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})
_IN_PLACE = frozenset({"allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas"})
_ONLY_AT_ROOT = frozenset({"$id", "$schema"})
_NO_SCHEMA = "Give a schema: an object, true or false."


class UnusableSchema(ValueError):
    """The schema is not sound, or cannot be applied; the text says why."""


_ends: ContextVar[float | None] = ContextVar("ends", default=None)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """So many CPU seconds of this thread for all schemas looked at inside; a limit around this one stays."""
    if _ends.get() is not None:
        yield
        return
    token = _ends.set(thread_time() + seconds)
    try:
        yield
    finally:
        _ends.reset(token)


def check_time() -> None:
    """Raises UnusableSchema where the time of a time_limit is over."""
    ends = _ends.get()
    if ends is not None and thread_time() > ends:
        raise UnusableSchema("This takes too long; simplify the patterns and references of the schema.")


def flaws(schema: Any) -> list[Flaw]:
    """Everything that is wrong with a schema, as (path in it, what to do)."""
    if len(json.dumps(schema, ensure_ascii=False)) > MAX_SCHEMA:
        return [((), f"Shorten the schema to {MAX_SCHEMA} characters.")]
    parts = dict(_parts((), schema))
    try:
        with time_limit(SECONDS):
            found = [flaw for path, part in parts.items() for flaw in _part_flaws(path, part)]
    except UnusableSchema as error:
        return [((), str(error))]
    return found + list(_reference_flaws(parts)) + list(_combination_flaws(parts))


def misfits(schema: Any, value: Any, *, most: int = 100) -> list[ValidationError]:
    """Where a value does not fit a schema, the first `most` places. Raises UnusableSchema, and nothing else."""
    with _bounded():
        return Prepared(schema).misfits(value, most=most)


class Prepared:
    """A sound schema, to be applied to many values."""

    def __init__(self, schema: Any) -> None:
        """Raises UnusableSchema, and nothing else."""
        with _bounded():
            for path, sentence in flaws(schema):
                raise UnusableSchema(f"see {_pointer(path) or 'its root'}: {sentence}")
            if isinstance(schema, dict):
                schema = {key: one for key, one in schema.items() if key not in _ONLY_AT_ROOT}
            self._validator = _Validator(schema, registry=Registry())

    def misfits(self, value: Any, *, unknown: Collection[str] = (), most: int = 100) -> list[ValidationError]:
        """Where a value does not fit, the first `most` places. Raises UnusableSchema, and nothing else.

        `unknown` names members that the value, an object, has with anything in them: what may fit by them is no misfit.
        """
        with _bounded():
            anything = _Unknown()
            value = value | dict.fromkeys(unknown, anything) if unknown else value
            return list(islice(self._validator.iter_errors(value), most))


@contextmanager
def _bounded() -> Iterator[None]:
    try:
        with time_limit(SECONDS):
            yield
    except UnusableSchema:
        raise
    except Exception as error:  # the schema is a stranger's: whatever the library makes of it is said in one way
        raise UnusableSchema(f"{type(error).__name__}: {str(error)[:300]}") from None


class _Unknown:
    """Stands for a value that fits everything; `looks` counts how often that was made use of."""

    looks = 0

    def __repr__(self) -> str:
        return "…"


# -- is it sound?


def _parts(path: JSONPath, schema: Any) -> Iterator[tuple[JSONPath, Any]]:
    """The schema and every schema in it."""
    yield path, schema
    for key, value in schema.items() if isinstance(schema, dict) else ():
        if key in _ONE:
            yield from _parts((*path, key), value)
        elif key in _LISTS and isinstance(value, list):
            for index, one in enumerate(value):
                yield from _parts((*path, key, index), one)
        elif key in _MAPS and isinstance(value, dict):
            for name, one in value.items():
                yield from _parts((*path, key, name), one)


def _part_flaws(path: JSONPath, part: Any) -> Iterator[Flaw]:
    if not isinstance(part, dict):
        if not isinstance(part, bool):
            yield path, _NO_SCHEMA
        return
    for key, value in part.items():
        is_right, sentence = _RULES.get(key, _ANYTHING)
        if not is_right(value):
            yield (*path, key), sentence
        elif path and key in _ONLY_AT_ROOT:
            yield (*path, key), f"{key} has a meaning only at the root of the schema; remove it here."
    patterns: dict[JSONPath, Any] = {(*path, "pattern"): part.get("pattern")}
    if isinstance(part.get("patternProperties"), dict):
        patterns |= {(*path, "patternProperties", pattern): pattern for pattern in part["patternProperties"]}
    for place, pattern in patterns.items():
        check_time()
        if isinstance(pattern, str) and (problem := _pattern_problem(pattern)):
            yield place, problem


def _reference_flaws(parts: dict[JSONPath, Any]) -> Iterator[Flaw]:
    paths = {"#" + _pointer(path): path for path in parts}
    needs: dict[JSONPath, list[JSONPath]] = {}
    for path, part in parts.items():
        if path and (outer := _outer(path)) is not None:
            needs.setdefault(outer, []).append(path)
        reference = part.get("$ref") if isinstance(part, dict) else None
        if isinstance(reference, str):
            target = paths.get(unquote(reference))
            if target is None:
                yield (*path, "$ref"), "Name a part of this schema, such as #/$defs/name; nothing is fetched."
            else:
                needs.setdefault(path, []).append(target)
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        way = " -> ".join("#" + _pointer(path) for path in error.args[1])
        yield error.args[1][0], f"This is a part of itself without going into the value: {way[:300]}. Remove a $ref."


def _outer(path: JSONPath) -> JSONPath | None:
    """The schema that applies this one to the same value; None where it goes into the value, or is a mere definition."""
    for length in (1, 2):
        if len(path) >= length and path[-length] in _IN_PLACE:
            return path[:-length]
    return None


def _combination_flaws(parts: dict[JSONPath, Any]) -> Iterator[Flaw]:
    """The library answers `unevaluatedProperties` with Python's own patterns, which can stall."""
    used = {key: path for path, part in parts.items() if isinstance(part, dict) for key in part}
    if "patternProperties" in used and "unevaluatedProperties" in used:
        place = (*used["unevaluatedProperties"], "unevaluatedProperties")
        yield place, "This cannot be used together with patternProperties; use additionalProperties."


def _pointer(path: JSONPath) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def _is_whole(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value == int(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value) and len(set(value)) == len(value)


def _is_type(value: Any) -> bool:
    return value in _TYPES if isinstance(value, str) else bool(value) and _are_names(value) and _TYPES.issuperset(value)


def _rules() -> Iterator[tuple[str, Callable[[Any], bool], str]]:
    yield "type", _is_type, f"Give one or several of: {', '.join(sorted(_TYPES))}."
    yield "enum examples", lambda value: isinstance(value, list), "Give a list."
    yield "required", _are_names, "Give a list of different names."
    names = "Give an object of lists of different names."
    yield "dependentRequired", lambda value: isinstance(value, dict) and all(map(_are_names, value.values())), names
    counts = "minLength maxLength minItems maxItems minProperties maxProperties minContains maxContains"
    yield counts, _is_whole, "Give a whole number, 0 or more."
    yield "minimum maximum exclusiveMinimum exclusiveMaximum", _is_number, "Give a number."
    yield "multipleOf", lambda value: _is_number(value) and value > 0, "Give a number above 0."
    texts = "$id $schema $ref $comment title description format pattern contentEncoding contentMediaType"
    yield texts, lambda value: isinstance(value, str), "Give a text."
    yield "uniqueItems deprecated readOnly writeOnly", lambda value: isinstance(value, bool), "Give true or false."
    yield " ".join(_LISTS), lambda value: isinstance(value, list) and bool(value), "Give a list of schemas."
    yield " ".join(_MAPS), lambda value: isinstance(value, dict), "Give an object of schemas by name."
    anchors = "$anchor $dynamicAnchor $dynamicRef $recursiveAnchor $recursiveRef $vocabulary"
    yield anchors, lambda _: False, "Use $ref with a place in this schema, such as #/$defs/name; this is not supported."


_RULES = {key: (is_right, sentence) for keys, is_right, sentence in _rules() for key in keys.split()}
_ANYTHING: tuple[Callable[[Any], bool], str] = (lambda _: True, "")


# -- patterns, by RE2


@cache
def _matcher() -> Any:
    environment = cel.NewEnv(variables={"text": cel.Type.STRING, "pattern": cel.Type.STRING})
    return environment.compile("text.matches(pattern)")


def _matches(text: str, pattern: str) -> bool:
    """Whether the pattern is found anywhere in the text. Raises UnusableSchema for one that RE2 does not have."""
    result = _matcher().eval(data={"text": text, "pattern": pattern})
    if result.type() != cel.Type.BOOL:
        raise UnusableSchema(str(result.value()).rpartition("regular expression: ")[2][:200])
    return bool(result.value())


@lru_cache(maxsize=4096)
def _pattern_problem(pattern: str) -> str | None:
    if len(pattern) > MAX_PATTERN:
        return f"Shorten the pattern to {MAX_PATTERN} characters."
    try:
        _matches("", pattern)
    except (UnusableSchema, RuntimeError) as error:
        return f"This is not a pattern of RE2, which has no look-around, no back-references and no \\u: {error}."
    return None


# -- does a value fit?


def is_found(text: str, pattern: str) -> bool:
    """Whether a sound schema's pattern is found anywhere in the text. Raises UnusableSchema for a text that is too long."""
    check_time()
    if len(text) > MAX_TEXT:
        raise UnusableSchema(f"A pattern is not looked for in a text of more than {MAX_TEXT} characters.")
    return _matches(text, pattern)


def _pattern(validator: Any, wanted: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not is_found(instance, wanted):
        yield ValidationError(f"the text does not match the pattern {wanted!r}")


def _pattern_properties(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    for key, value in instance.items() if validator.is_type(instance, "object") else ():
        for pattern, part in wanted.items():
            if is_found(key, pattern):
                yield from validator.descend(value, part, path=key, schema_path=pattern)


def _additional_properties(validator: Any, wanted: Any, instance: Any, schema: Any) -> Any:
    known = dict.fromkeys(schema.get("properties", ()))
    patterns = schema.get("patternProperties")
    if patterns and validator.is_type(instance, "object"):
        known |= dict.fromkeys(key for key in instance if any(is_found(key, pattern) for pattern in patterns))
    return _STANDARD["additionalProperties"](validator, wanted, instance, {"properties": known})


def _unique_items(validator: Any, wanted: bool, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """Linear, where the library compares each with each."""
    if wanted and validator.is_type(instance, "array") and len(set(map(_frozen, instance))) < len(instance):
        yield ValidationError("there are equal items, but all must be different")


def _frozen(value: Any) -> Any:
    """Something hashable that is equal for equal JSON values; true and 1 are not, 1 and 1.0 are."""
    if isinstance(value, dict):
        return frozenset((key, _frozen(one)) for key, one in value.items())
    if isinstance(value, list):
        return tuple(map(_frozen, value))
    return (bool, value) if isinstance(value, bool) else value


def _limited(check: Callable[..., Any]) -> Callable[..., Any]:
    def checked(validator: Any, wanted: Any, instance: Any, schema: Any) -> Any:
        check_time()
        if isinstance(instance, _Unknown):
            instance.looks += 1
            return ()
        return check(validator, wanted, instance, schema)

    return checked


def _if_certain(check: Callable[..., Any]) -> Callable[..., Any]:
    """The errors of a keyword that wants something *not* to fit, unless it came to them by an unknown value."""

    def checked(validator: Any, wanted: Any, instance: Any, schema: Any) -> Any:
        unknown = _unknown_in(instance)
        if unknown is None:
            return check(validator, wanted, instance, schema)
        looks = unknown.looks
        errors = list(check(validator, wanted, instance, schema) or ())
        return errors if unknown.looks == looks else ()

    return checked


def _if_known(check: Callable[..., Any]) -> Callable[..., Any]:
    """The errors of a keyword that compares the whole value."""

    def checked(validator: Any, wanted: Any, instance: Any, schema: Any) -> Any:
        return check(validator, wanted, instance, schema) if _unknown_in(instance) is None else ()

    return checked


def _unknown_in(instance: Any) -> _Unknown | None:
    members = instance.values() if isinstance(instance, dict) else ()
    return next((one for one in members if isinstance(one, _Unknown)), None)


_OWN = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "uniqueItems": _unique_items,
}
_CHECKS = _STANDARD | _OWN
_CHECKS |= {key: _if_certain(_CHECKS[key]) for key in ("if", "not", "oneOf", "unevaluatedProperties")}
_CHECKS |= {key: _if_known(_CHECKS[key]) for key in ("const", "enum")}
_Validator = extend(Draft202012Validator, {key: _limited(check) for key, check in _CHECKS.items()})
