"""Query parameters: one nobody reads is refused, one that is given twice too, and so is a text that no column could hold."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from rest_framework.request import Request

from executions.errors import InvalidRequest


def check_parameters(request: Request, known: Iterable[str], *, may_repeat: Collection[str] = ()) -> None:
    """Refuse a query parameter nobody reads: a typing error would show everything. Refuse one given twice, too.

    `may_repeat` names those of the known ones that may be given more than once. Raises InvalidRequest naming the parameter.
    """
    given, known = dict(request.query_params.lists()), set(known)
    unknown = given.keys() - known
    if unknown:
        hint = f"known are {', '.join(sorted(known))}" if known else "this takes none"
        raise InvalidRequest(f"{min(unknown)}: there is no such parameter; {hint}.")
    for name, texts in given.items():
        if len(texts) > 1 and name not in may_repeat:
            raise InvalidRequest(f"{name}: give it once.")


def check_text(name: str, text: str, *, longest: int) -> None:
    """Refuse a text that is empty, too long, or holds NUL, which PostgreSQL does not take. Raises InvalidRequest."""
    if not 1 <= len(text) <= longest or "\x00" in text:
        raise InvalidRequest(f"{name}: 1 to {longest} characters, none of them NUL.")


def text_schema(longest: int) -> dict[str, Any]:
    """The JSON Schema of a text that `check_text` lets through."""
    return {"type": "string", "minLength": 1, "maxLength": longest, "pattern": r"^[^\u0000]*$"}
