"""Templates and paths (contract section 4): `{{path}}` or `${path}` inside values, expanded once and never again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

_PATH = r"[^\s.\[\]{}$\"']+(?:\.[^\s.\[\]{}$\"']+|\[\d+\]|\[\"[^\"\]]*\"\]|\['[^'\]]*'\])*"
_TEMPLATE = re.compile(r"\{\{\s*(" + _PATH + r")\s*\}\}|\$\{\s*(" + _PATH + r")\s*\}")
_WHOLE_PATH = re.compile(_PATH)
_SEGMENT = re.compile(r"\[(\d+)\]|\[[\"']([^\"'\]]*)[\"']\]|\.?([^\s.\[\]{}$\"']+)")

Lookup = Callable[[str], Any]


class MissingPathError(LookupError):
    """The path names nothing."""

    def __str__(self) -> str:
        return f"nothing is called {self.args[0]!r} here"


def is_path(text: str) -> bool:
    """Whether the text could be a path."""
    return _WHOLE_PATH.fullmatch(text) is not None


def has_template(value: Any) -> bool:
    """Whether the value contains a template at any depth."""
    if isinstance(value, str):
        return _TEMPLATE.search(value) is not None
    if isinstance(value, dict):
        return any(has_template(member) for member in value.values())
    return isinstance(value, list) and any(has_template(member) for member in value)


def expand(value: Any, lookup: Lookup) -> Any:
    """The value with each template replaced; one that is the whole string keeps the JSON type. Raises MissingPathError."""
    if isinstance(value, str):
        return _expand_text(value, lookup)
    if isinstance(value, dict):
        return {key: expand(member, lookup) for key, member in value.items()}
    if isinstance(value, list):
        return [expand(member, lookup) for member in value]
    return value


def _expand_text(text: str, lookup: Lookup) -> Any:
    if "{{" not in text and "${" not in text:
        return text
    whole = _TEMPLATE.fullmatch(text.strip())
    if whole:
        return lookup(whole[1] or whole[2])
    return _TEMPLATE.sub(lambda match: as_text(lookup(match[1] or match[2])), text)


def as_text(value: Any) -> str:
    """A value as it stands inside a text: nothing for null, JSON for what is no string."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def segments(path: str) -> list[str | int]:
    """`a.b[0]["c d"]` as ['a', 'b', 0, 'c d']."""
    return [int(number) if number else (quoted or name) for number, quoted, name in _SEGMENT.findall(path)]


def descend(value: Any, path: str, steps: list[str | int]) -> Any:
    """Go from the value along the segments. Raises MissingPathError naming the whole path."""
    for step in steps:
        if isinstance(value, dict) and str(step) in value:
            value = value[str(step)]
        elif isinstance(value, list) and str(step).isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            raise MissingPathError(path)
    return value
