"""Lists: which objects, in which order, how many at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from rest_framework import exceptions
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request

from executions.errors import InvalidRequest


class NewestFirst(CursorPagination):
    """Pages over UUIDv7 keys, which grow with time: a page stays right while new objects arrive."""

    ordering = "-id"
    page_size = 50
    max_page_size = 200
    page_size_query_param = "limit"
    cursor_query_description = "Where to go on: the `next` or `previous` link of another page."

    def decode_cursor(self, request: Request) -> Any:
        """Read the cursor. Raises InvalidRequest for one that no page has given out."""
        try:
            cursor = super().decode_cursor(request)
            if cursor is not None and cursor.position is not None:
                UUID(str(cursor.position))
        except (ValueError, exceptions.NotFound):
            raise InvalidRequest(
                "cursor: follow the `next` or `previous` link of a page; this one leads nowhere."
            ) from None
        return cursor

    def get_page_size(self, request: Request) -> int:
        """Read `limit`. Raises InvalidRequest for what is no number from 1 to 200."""
        given = request.query_params.get("limit", str(self.page_size))
        if not (given.isascii() and given.isdigit() and 1 <= int(given[:5]) <= self.max_page_size):
            raise InvalidRequest(f"limit: a number from 1 to {self.max_page_size}.")
        return int(given)


def check_filters(request: Request, known: Iterable[str]) -> None:
    """Refuse a query parameter nobody reads: a typing error would show everything."""
    allowed = sorted({*known, "cursor", "limit"})
    unknown = sorted(set(request.query_params) - set(allowed))
    if unknown:
        raise InvalidRequest(f"{unknown[0]}: there is no such filter; known are {', '.join(allowed)}.")
