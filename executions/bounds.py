"""How large a JSON value may be that comes in: how deep, and with what names. docs/reference/limits.md has every bound.

Names matter because they become parts of JSON Pointers: one name of a megabyte around a thousand errors would make a
gigabyte of answers.
"""

from __future__ import annotations

from typing import Any

MOST_NAMES = 1000  # of one object that says what is what: parameters, variables, metadata
LONGEST_NAME = 128  # characters, of such a name
LONGEST_INNER_NAME = 256  # of a name at any depth
DEEPEST_VALUE = 64  # levels of lists and objects in each other

Excess = tuple[tuple[str | int, ...], str, str]
Places = list[tuple[tuple[str | int, ...], Any]]


def excess(value: Any, *, levels: int = DEEPEST_VALUE) -> Excess | None:
    """The first thing beyond all bounds in a JSON value, or None: (path, code, what to do)."""
    if _fits(value, levels):
        return None
    places: Places = [((), value)]
    for _ in range(levels):
        for path, one in places:
            if isinstance(one, dict) and any(_is_too_long(name) for name in one):
                return path, "name_too_long", f"Give every name in here at most {LONGEST_INNER_NAME} characters."
        places = _inside(places)
        if not places:
            return None
    return places[0][0], "too_deep", f"This is nested more than {levels} levels deep; flatten it."


def _fits(value: Any, levels: int) -> bool:
    """A quick look at everything, level by level, without a thought of where it is."""
    containers = [value] if isinstance(value, dict | list) else []
    for _ in range(levels):
        if not containers:
            return True
        names: set[Any] = set()
        inner: list[Any] = []
        for one in containers:
            if type(one) is dict:
                names.update(one)
                inner += one.values()
            else:
                inner += one
        if any(map(_is_too_long, names)):
            return False
        containers = [one for one in inner if type(one) is dict or type(one) is list]
    return not containers


def _is_too_long(name: Any) -> bool:
    return isinstance(name, str) and len(name) > LONGEST_INNER_NAME


def _inside(places: Places) -> Places:
    """The lists and objects one level further in."""
    found: Places = []
    for path, one in places:
        members = one.items() if isinstance(one, dict) else enumerate(one)
        found += [((*path, name), inner) for name, inner in members if isinstance(inner, dict | list)]
    return found
