"""Schemas from outside: judged soundly, applied safely, and alike on both sides of the wire."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from safe_json_schema import UnusableSchema, flaws, misfits, time_limit

META = Draft202012Validator(Draft202012Validator.META_SCHEMA)
ODD_VALUES = [
    None, -1, 0, 1.5, 2.0, "", "x", "string", "#", True, [], {}, [1], ["a"], ["a", "a"], [{}], [{"type": 5}], ["string", "x"],
    {"a": 1}, {"a": {}}, {"a": {"type": 5}}, {"a": ["b", "b"]}, {"a": ["b"]},
]  # fmt: skip
# The library looks at none of these: the first two are taken away or unknown to it, the others refused by us.
OWN_RULES = {"$id", "dependencies", "$ref", "$anchor", "$dynamicAnchor", "$dynamicRef", "$recursiveRef", "$recursiveAnchor",
             "$vocabulary"}  # fmt: skip
CONTENT = {"type": "object", "properties": {"a/b": {"type": "integer", "minimum": 1}}, "required": ["a/b"]}


def keywords() -> list[str]:
    parts = [Draft202012Validator.META_SCHEMA, *META.META_SCHEMA["allOf"]]
    vocabularies = (META._resolver.lookup(part["$ref"]).contents for part in parts[1:])
    return sorted({key for one in (parts[0], *vocabularies) for key in one["properties"]} - OWN_RULES)


def places(schema: Any) -> set[str]:
    return {"/".join(map(str, path)) for path, _ in flaws(schema)}


def where(schema: Any, value: Any) -> list[str]:
    return [error.json_path for error in misfits(schema, value)]


@pytest.mark.parametrize("keyword", keywords())
def test_a_keyword_takes_what_the_meta_schema_lets_it_take(keyword: str) -> None:
    judged = {repr(value): not flaws({keyword: value}) for value in ODD_VALUES}
    assert judged == {repr(value): META.is_valid({keyword: value}) for value in ODD_VALUES}


def test_all_flaws_are_named_at_once_with_their_places() -> None:
    schema = {
        "type": "text",
        "properties": {"a": {"minLength": "3"}, "b": 5, "c": {"$ref": "#/$defs/nope"}, "d": {"pattern": "("}},
        "patternProperties": {"(?=x)": True},
        "allOf": [{"$id": "https://x.example"}],
    }
    assert places(schema) == {
        "type", "properties/a/minLength", "properties/b", "properties/c/$ref", "properties/d/pattern",
        "patternProperties/(?=x)", "allOf/0/$id",
    }  # fmt: skip


@pytest.mark.parametrize(
    "reference", ["http://127.0.0.1:1/s", "file:///etc/passwd", "other.json", "#name", "#/type", ""]
)
def test_a_reference_out_of_the_schema_or_to_nothing_is_a_flaw(reference: str) -> None:
    assert places({"type": "object", "properties": {"a": {"$ref": reference}}}) == {"properties/a/$ref"}


def test_references_within_the_schema_are_followed() -> None:
    schema = {"$defs": {"a~/ b": {"type": "integer"}}, "items": {"$ref": "#/$defs/a~0~1%20b"}}
    assert where(schema, [1, "x"]) == ["$[1]"]


def test_a_list_of_itself_is_sound_but_itself_is_not() -> None:
    assert flaws({"items": {"$ref": "#"}}) == []
    assert len(flaws({"$ref": "#"})) == 1
    circle = {"a": {"anyOf": [{"$ref": "#/$defs/b"}]}, "b": {"not": {"$ref": "#/$defs/a"}}}
    assert "part of itself" in flaws({"$defs": circle})[0][1]


def test_a_long_schema_is_a_flaw() -> None:
    assert "50000 characters" in flaws({"description": "x" * 50_000})[0][1]
    assert "1000 characters" in flaws({"pattern": "x" * 1_001})[0][1]


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [("b", "abc", True), ("^b", "a\nb", False), ("^a$", "a\n", False), ("^.$", "ü", True), (r"^\p{L}+$", "größe", True),
     (r"^\d$", "٣", False), ("", "", True)],
)  # fmt: skip
def test_a_pattern_is_found_anywhere_unless_anchored(pattern: str, text: str, fits: bool) -> None:
    assert (where({"pattern": pattern}, text) == []) is fits
    assert where({"pattern": pattern}, 5) == []
    key_schema = {"patternProperties": {pattern: True}, "additionalProperties": False}
    assert (where(key_schema, {text: 1}) == []) is fits


def test_properties_by_pattern_are_checked_and_counted_as_known() -> None:
    schema = {
        "properties": {"b": True},
        "patternProperties": {"^a": {"type": "integer"}},
        "additionalProperties": False,
    }
    assert where(schema, {"a1": 1, "b": 2}) == []
    assert where(schema, {"a1": "x", "c": 2}) == ["$.a1", "$"]


def test_unevaluated_properties_stand_alone_only() -> None:
    closed = {"allOf": [CONTENT], "unevaluatedProperties": False}
    assert where(closed, {"a/b": 1, "c": 2}) == ["$"]
    assert places(closed | {"patternProperties": {"x": True}}) == {"unevaluatedProperties"}


@pytest.mark.parametrize(
    ("items", "differ"),
    [([1, 1.0], False), ([1, True], True), ([[True], [1]], True), ([{"a": [1]}, {"a": [1]}], False), ([0, False, None], True),
     (["1", 1], True), ([[], {}], True)],
)  # fmt: skip
def test_equal_items_are_those_that_json_calls_equal(items: list[Any], differ: bool) -> None:
    assert (where({"uniqueItems": True}, items) == []) is differ


@pytest.mark.parametrize(
    "schema", [{"type": 5}, {"minLength": "3"}, {"$ref": "#"}, {"$ref": "http://127.0.0.1:1/"}, 5, None]
)
def test_a_flawed_schema_is_not_applied(schema: Any) -> None:
    with pytest.raises(UnusableSchema):
        misfits(schema, "x")


def test_a_value_that_cannot_be_checked_is_said_in_one_way() -> None:
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    long = "x" * 100_001
    for schema, value in [({"multipleOf": 0.5}, 10**400), ({"items": {"$ref": "#"}}, deep), ({"pattern": "y"}, long)]:
        with pytest.raises(UnusableSchema):
            misfits(schema, value)


def all_of_itself_twice() -> Any:
    doubled = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(40)}
    return {"$defs": doubled | {"a40": True}, "$ref": "#/$defs/a0"}


def unevaluated_forty_deep() -> Any:
    schema: Any = {"type": "object"}
    for _ in range(40):
        schema = {"allOf": [schema], "unevaluatedProperties": False}
    return schema


STALLING = {
    "references that double": (all_of_itself_twice(), 1),
    "unevaluated properties in each other": (unevaluated_forty_deep(), {}),
    "a large pattern many times": ({"items": {"pattern": r"\pL{100}"}}, ["ä"] * 2_000),
}


@pytest.mark.parametrize("what", STALLING)
def test_what_would_never_end_is_given_up(what: str) -> None:
    began = time.thread_time()
    with pytest.raises(UnusableSchema, match="too long"), time_limit(0.05):
        misfits(*STALLING[what])
    assert time.thread_time() - began < 1


def test_backtracking_does_not_happen() -> None:
    with time_limit(0.2):
        for keyword in ("pattern", "propertyNames"):
            schema = {keyword: "^(a+)+$"} if keyword == "pattern" else {keyword: {"pattern": "^(a+)+$"}}
            text = "a" * 10_000 + "!"
            assert len(misfits(schema, text if keyword == "pattern" else {text: 1})) == 1


def test_the_outer_of_two_limits_holds() -> None:
    patterns = {"anyOf": [{"pattern": f"[a-z]{{1,{n}}}"} for n in range(900, 990)]}
    assert flaws(patterns) == []
    with time_limit(-1), time_limit(60):
        assert "too long" in flaws(patterns)[0][1]


def test_the_number_of_misfits_is_bounded() -> None:
    errors = misfits({"items": {"type": "string"}}, list(range(10)), most=3)
    assert [list(error.absolute_path) for error in errors] == [[0], [1], [2]]
    assert list(itertools.chain(misfits(True, 1), misfits({"$schema": "urn:x", "$id": "urn:y"}, 1))) == []
