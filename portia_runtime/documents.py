"""JSON that comes in and goes out: parsing with limits, what the database can keep, digests and ids."""

from __future__ import annotations

import hashlib
import math
import os
import time
import uuid
from typing import Any

import rfc8785
from pydantic_core import from_json

JSON = dict[str, Any]


class DocumentError(ValueError):
    """A value that is no JSON, or JSON that cannot be kept; the text says why."""


def parse(body: bytes) -> Any:
    """The value of a JSON text in UTF-8. Raises DocumentError (nesting over some 200 levels, NaN and the NUL character too)."""
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise DocumentError(str(error)) from None
    if b"u0000" in body:
        check_storable(value)
    return value


def check_storable(value: Any) -> None:
    """Raise DocumentError unless PostgreSQL can keep the value: plain types, finite numbers, no NUL, no half characters."""
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, dict):
        for key, member in value.items():
            if not isinstance(key, str):
                raise DocumentError(f"a key is {type(key).__name__}, not text")
            _check_text(key)
            check_storable(member)
    elif isinstance(value, (list, tuple)):
        for member in value:
            check_storable(member)
    elif isinstance(value, float) and not math.isfinite(value):
        raise DocumentError(f"the number {value} is not JSON")
    elif not isinstance(value, (int, float, type(None))):
        raise DocumentError(f"a value of type {type(value).__name__} is not JSON")


def _check_text(text: str) -> None:
    if "\x00" in text:
        raise DocumentError("a text contains the NUL character, which cannot be stored")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise DocumentError("a text contains half a character (a lone surrogate)") from None


def digest(value: Any) -> str:
    """Hex SHA-256 of the canonical form (RFC 8785). Raises DocumentError for numbers that JSON cannot carry exactly."""
    try:
        return hashlib.sha256(rfc8785.dumps(value)).hexdigest()
    except (rfc8785.CanonicalizationError, RecursionError) as error:
        raise DocumentError(f"has no canonical form: {error}") from None


def new_id(prefix: str) -> str:
    """`prefix-<UUIDv7>` (RFC 9562): ids made later sort later, so that index pages stay together."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    number = milliseconds << 80 | 0x7 << 76 | (random >> 68) << 64 | 0b10 << 62 | random & (1 << 62) - 1
    return f"{prefix}-{uuid.UUID(int=number)}"
