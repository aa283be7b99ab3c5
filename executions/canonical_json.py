"""Canonical JSON after RFC 8785 (JCS), the form in which plans and actions are hashed.

Written out here because the `rfc8785` package takes some 50 ms for a plan of 500 steps. The bytes are the same (a property
test compares the two); very small numbers still go through it. Large ones are refused in either spelling (RFC 7493, section
2.2): PostgreSQL would give 1e20 back as an integer, which RFC 8785 does not allow.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from functools import lru_cache
from json.encoder import encode_basestring as _quote
from typing import Any

import rfc8785

MAX_DEPTH = 128
MAX_INTEGER = 2**53 - 1
DIGEST_PATTERN = "[0-9a-f]{64}"  # of a SHA-256, in hex

JSONPath = tuple[str | int, ...]


class NotCanonical(ValueError):
    """This value has no canonical form."""


def canonical_json(value: Any) -> bytes:
    """The RFC 8785 bytes of a JSON-decoded value.

    Raises NotCanonical for NaN and infinities, numbers beyond 2**53 - 1, lone surrogates, keys that are no strings, types
    JSON does not have, and nesting of more than MAX_DEPTH levels.
    """
    try:
        return _Writer().text(value).encode()
    except UnicodeEncodeError as error:
        raise NotCanonical("a text holds half of a surrogate pair") from error


def doubled_name(text: bytes) -> str | None:
    """A name that some object of this JSON text has twice, which RFC 7493 forbids as readers differ on what it means.

    Takes text that has been decoded, and so is no deeper than a decoder goes.
    """
    try:
        json.loads(text, object_pairs_hook=_names_once, parse_int=str, parse_float=str)
    except _Doubled as doubled:
        return doubled.name
    return None


class _Doubled(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def _names_once(pairs: list[tuple[str, Any]]) -> None:
    names: set[str] = set()
    for name, _ in pairs:
        if name in names:
            raise _Doubled(name)
        names.add(name)


def digest(value: Any) -> str:
    """64 hex digits: SHA-256 of the canonical bytes. Raises NotCanonical."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def flaws(value: Any) -> Iterator[tuple[JSONPath, str, str]]:
    """Every (path, code, what to do) that keeps a value from being hashed, or from being stored in PostgreSQL (NUL)."""
    waiting: list[tuple[JSONPath, Any]] = [((), value)]
    while waiting:
        path, one = waiting.pop()
        flaw = _flaw(one)
        if flaw:
            yield path, *flaw
        elif isinstance(one, dict | list) and len(path) >= MAX_DEPTH:
            yield path, "too_deep", f"This is nested more than {MAX_DEPTH} levels deep; flatten it."
        elif isinstance(one, dict):
            for key in one:
                flaw = _flaw(key) if isinstance(key, str) else ("wrong_type", "A key must be a string.")
                if flaw:
                    yield (*path, str(key)), *flaw
            waiting.extend(((*path, str(key)), item) for key, item in reversed(one.items()))
        elif isinstance(one, list):
            waiting.extend(((*path, index), one[index]) for index in reversed(range(len(one))))


class _Writer:
    """Writes one value. Objects of a document mostly have few sets of keys: each is sorted and quoted once."""

    def __init__(self) -> None:
        self._orders: dict[tuple[str, ...], list[tuple[str, str]]] = {}

    def text(self, value: Any, levels: int = MAX_DEPTH) -> str:
        """The text of a value that may have so many levels."""
        kind = type(value)
        if kind is dict:
            return self._object(value, levels)
        if kind is str:
            return _quote(value)
        if kind is list or kind is tuple:
            return self._array(value, levels)
        if kind is bool:
            return "true" if value else "false"
        return "null" if value is None else _number(value)

    def _object(self, value: dict[str, Any], levels: int) -> str:
        below = _below(levels)
        keys = tuple(value)
        order = self._orders.get(keys)
        if order is None:
            order = self._orders[keys] = _ordered(keys)
        text = self.text
        members = [
            quoted + (_quote(one) if type(one := value[key]) is str else text(one, below)) for key, quoted in order
        ]
        return "{" + ",".join(members) + "}"

    def _array(self, value: list[Any] | tuple[Any, ...], levels: int) -> str:
        below = _below(levels)
        text = self.text
        return "[" + ",".join([_quote(one) if type(one) is str else text(one, below) for one in value]) + "]"


def _below(levels: int) -> int:
    if levels <= 0:
        raise NotCanonical(f"nested more than {MAX_DEPTH} levels deep")
    return levels - 1


def _ordered(keys: tuple[str, ...]) -> list[tuple[str, str]]:
    """The keys as the RFC sorts them, each with how it is written."""
    try:
        # The RFC sorts by UTF-16 units; Python by code points, which is the same for ASCII.
        is_plain = "".join(keys).isascii()
    except TypeError as error:
        raise NotCanonical("object keys must be strings") from error
    return [(key, _quote(key) + ":") for key in sorted(keys, key=None if is_plain else _utf16)]


def _utf16(text: str) -> bytes:
    return text.encode("utf-16-be")


@lru_cache(maxsize=4096, typed=True)  # a document repeats few numbers; and typed, as Decimal(1) equals 1
def _number(value: Any) -> str:
    if type(value) is float:
        if 1e-4 <= abs(value) <= MAX_INTEGER:
            return str(int(value)) if value.is_integer() else repr(value)
    elif type(value) is not int:
        raise NotCanonical(f"a {type(value).__name__} is no JSON")
    if not abs(value) <= MAX_INTEGER:  # also true of NaN
        raise NotCanonical(f"{value} is beyond what every JSON reader keeps exactly")
    return rfc8785.dumps(value).decode() if type(value) is float else str(value)


def _flaw(value: Any) -> tuple[str, str] | None:
    if isinstance(value, str):
        return _text_flaw(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "not_finite", "JSON has no NaN and no infinity; send a number, null or a string."
    if isinstance(value, int | float) and abs(value) > MAX_INTEGER:
        return "number_too_large", "Numbers beyond 2^53 - 1 lose digits in JSON; send this one as a string."
    if value is None or isinstance(value, int | float | dict | list):
        return None
    return "wrong_type", f"A {type(value).__name__} is not a JSON value."


def _text_flaw(value: str) -> tuple[str, str] | None:
    if "\0" in value:
        return "bad_character", "Remove the NUL character (\\u0000)."
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        return "bad_character", "Remove the half of a surrogate pair (\\ud800 to \\udfff)."
    return None
