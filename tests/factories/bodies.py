"""Bodies for hypothesis: any JSON at all, and sound values with something changed somewhere."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

_HUGE = [2**53, -(2**63), 10**400, 1e300, -1e-320, float("inf")]  # infinity is sent as a number too large to read
_ODD = [
    "",
    " ",
    "\0",
    "\ud800",
    "\\u0000",
    "~1",
    "a/b",
    "__proto__",
    "non_field_errors",
    "{{x}}",
    "${x}",
    "x" * 300,
    "9" * 5000,
]


def _deep(value: Any) -> Any:
    for _ in range(70):
        value = [value]
    return value


_texts = st.text(max_size=8) | st.sampled_from(_ODD)
_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(_HUGE)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _texts
)
any_json = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=4) | inner.map(_deep),
    max_leaves=8,
)


@st.composite
def mutated(draw: st.DrawFn, sound: Any) -> Any:
    """The sound value with one to three members changed, dropped, doubled, renamed or added."""
    value = deepcopy(sound)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(value))
        if not places:
            return draw(any_json)
        container, key = draw(st.sampled_from(places))
        draw(st.sampled_from(_CHANGES))(draw, container, key)
    return value


def _places(value: Any) -> Any:
    """Every (container, key) in a value."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in members:
        yield value, key
        yield from _places(one)


def _replace(draw: st.DrawFn, container: Any, key: Any) -> None:
    container[key] = draw(any_json)


def _drop(draw: st.DrawFn, container: Any, key: Any) -> None:
    del container[key]


def _double(draw: st.DrawFn, container: Any, key: Any) -> None:
    if isinstance(container, list):
        container.insert(key, deepcopy(container[key]))
    else:
        container[draw(_texts)] = deepcopy(container[key])


def _rename(draw: st.DrawFn, container: Any, key: Any) -> None:
    if isinstance(container, dict):
        container[draw(_texts)] = container.pop(key)


def _convert(draw: st.DrawFn, container: Any, key: Any) -> None:
    """To the nearest value of another type: what a lenient reader would take for the same."""
    value = container[key]
    container[key] = draw(st.sampled_from([str(value), [value], {"value": value}, None, bool(value), f" {value} "]))


_CHANGES = [_replace, _replace, _drop, _double, _rename, _convert]
