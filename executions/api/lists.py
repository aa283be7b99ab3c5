"""Lists: which objects, in which order, how many at a time, and whether the caller has them already."""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import sha256
from typing import Any, ClassVar
from uuid import UUID

from django.db.models import F, QuerySet
from django.db.models.functions import Coalesce
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import generics
from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response

from executions.api.conditional import conditional
from executions.api.filters import Asked, Filter, read_asked
from executions.api.sparse import SparseSerializer, fields_parameter, narrow, sparse, wanted_fields
from executions.api.tenant_view import TenantView
from executions.errors import InvalidRequest
from executions.models import Scope
from executions.tenancy import every_tenant

WINDOW = 5000  # rows
LAST_KEY = 2**128 - 1
ETAG_DIGITS = 32  # of the 64 of SHA-256
CURSOR = re.compile("(before|after)-([0-9a-f]{32})")
IF_NONE_MATCH = OpenApiParameter(
    "If-None-Match", {"type": "string"}, OpenApiParameter.HEADER,
    description="Entity tags of earlier answers: 304 without a body while the answer is still the same.",
)  # fmt: skip


class NewestFirst(BasePagination):
    """Pages by key, which is a UUIDv7 and grows with time: nothing that arrives or goes moves a page.

    A cursor names the key where the last page ended, and the direction, so that page 1,000 costs what page 1 costs. Links are
    relative to the host that was asked (RFC 3986, section 4.2): a proxy may call this service by any name.
    """

    page_size = 50
    max_page_size = 200

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any]:
        """Return the page that `cursor` and `limit` ask for, newest first; `view.asked` may hold conditions on the rows.

        The keys come first, by themselves: an index gives them without a look at the rows, which are wide.
        """
        self.request = request
        limit, newer, position = self._limit(), *self._cursor()
        asked = getattr(view, "asked", None) or Asked()
        rows = queryset if position is None else queryset.filter(**{"id__gt" if newer else "id__lt": position})
        keys = self._keys(rows.filter(asked.bounds), asked, newer=newer, count=limit + 1)
        self._link(sorted(keys[:limit], reverse=True), newer, position, more=len(keys) > limit)
        page = queryset.filter(asked.condition, pk__in=keys[:limit]) if keys else ()
        return sorted(page, key=lambda one: one.pk, reverse=True)

    def _keys(self, rows: QuerySet[Any], asked: Asked, **which: Any) -> list[UUID]:
        """The keys of the rows that fit.

        Behind the wall between tenants PostgreSQL uses no index for what is no plain comparison, lest it tell of hidden rows. So
        the keys are looked up on this side of it; their rows, which are what is shown, are then read on the other.
        """
        if not asked.fits:
            return first_keys(rows, asked, **which)
        with every_tenant():
            return gathered(rows, asked, **which) if asked.is_scattered else first_keys(rows, asked, **which)

    def get_paginated_response(self, data: Any) -> Response:
        """Put the page into its envelope."""
        return Response({"next": self.next, "previous": self.previous, "results": data})

    def _link(self, page: list[UUID], newer: bool, position: UUID | None, *, more: bool) -> None:
        """Set the links to older and newer objects. A page that has become empty leads back to where it was entered."""
        edge = position.int if position else 0
        oldest = page[-1].int if page else min(edge + 1, LAST_KEY)
        newest = page[0].int if page else max(edge - 1, 0)
        has_older, has_newer = (True, more) if newer else (more, position is not None)
        self.next = self._address("before", oldest) if has_older else None
        self.previous = self._address("after", newest) if has_newer else None

    def _address(self, direction: str, key: int) -> str:
        query = self.request.query_params.copy()
        query["cursor"] = f"{direction}-{key:032x}"
        return f"{self.request.path}?{query.urlencode(safe=',:/')}"

    def _cursor(self) -> tuple[bool, UUID | None]:
        given = self.request.query_params.get("cursor")
        if given is None:
            return False, None
        match = CURSOR.fullmatch(given)
        if match is None:
            raise InvalidRequest("cursor: follow the `next` or `previous` link of a page; this one leads nowhere.")
        return match[1] == "after", UUID(match[2])

    def _limit(self) -> int:
        given = self.request.query_params.get("limit", str(self.page_size))
        if not (re.fullmatch("[0-9]{1,3}", given) and 1 <= int(given) <= self.max_page_size):
            raise InvalidRequest(f"limit: a number from 1 to {self.max_page_size}.")
        return int(given)

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Describe the envelope."""
        link = {"type": ["string", "null"], "format": "uri-reference"}
        return {
            "type": "object",
            "required": ["next", "previous", "results"],
            "properties": {
                "next": {**link, "description": "Where older ones are, relative to this address."},
                "previous": {**link, "description": "Where newer ones are."},
                "results": schema,
            },
        }

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        """Describe `cursor` and `limit`."""
        cursor = {"type": "string", "pattern": f"^{CURSOR.pattern}$"}
        limit = {"type": "integer", "minimum": 1, "maximum": self.max_page_size, "default": self.page_size}
        where = "Where to go on: the `next` or `previous` link of another page holds it."
        return [
            {"name": "cursor", "in": "query", "required": False, "description": where, "schema": cursor},
            {
                "name": "limit",
                "in": "query",
                "required": False,
                "description": "Most results in a page.",
                "schema": limit,
            },
        ]


def first_keys(rows: QuerySet[Any], asked: Asked, *, newer: bool, count: int) -> list[UUID]:
    """Return the keys of the first `count` rows that fit, in the order of the list: of each alternative so many, then of all."""
    first, *others = (_ordered(rows.filter(asked.fits, one), F("id"), newer)[:count] for one in asked.alternatives)
    if not others:
        return list(first)
    return list(first.union(*others, all=True).order_by("id" if newer else "-id")[:count])


def gathered(rows: QuerySet[Any], asked: Asked, *, newer: bool, count: int) -> list[UUID]:
    """Return what `first_keys` does, for conditions whose rows no index has in the order of the list.

    1. Look at the next few thousand rows. Whatever is common is found there, at a cost that has a bound.
    2. Ask for all others that fit, through the indexes of the conditions, and sort them. They are few, or at least not common.
    A single query leaves that choice to the planner, which takes what is common for evenly spread: for a label that every tenth
    run had half a million runs ago, it reads half a million rows.
    """
    edge = _ordered(rows, F("id"), newer)[WINDOW : WINDOW + 1].first()
    if edge is None:
        return first_keys(rows, asked, newer=newer, count=count)
    beyond = {"id__gte" if newer else "id__lte": edge}
    near = first_keys(rows.exclude(**beyond), asked, newer=newer, count=count)
    if len(near) == count:
        return near
    no_index_has_this = Coalesce("id", "id")
    return near + list(_ordered(rows.filter(asked.fits, **beyond), no_index_has_this, newer)[: count - len(near)])


def _ordered(rows: QuerySet[Any], by: Any, newer: bool) -> Any:
    return rows.order_by(by.asc() if newer else by.desc()).values_list("id", flat=True)


class ListView(TenantView, generics.ListAPIView[Any]):
    """A list of one tenant's objects: filters, pages, chosen fields, and an entity tag made of the bytes of the answer."""

    scopes = {"GET": Scope.READ}
    pagination_class = NewestFirst
    serializer_class: type[SparseSerializer]
    filters: ClassVar[tuple[Filter, ...]] = ()
    asked = Asked()
    wanted: frozenset[str] | None = None

    def rows(self) -> QuerySet[Any]:
        """All objects of the caller's tenant."""
        raise NotImplementedError

    def shows(self, field: str) -> bool:
        """Whether the caller wants this field."""
        return self.wanted is None or field in self.wanted

    def get_queryset(self) -> QuerySet[Any]:
        """The rows with the columns that will be shown; the pages look among them for what is asked."""
        known = ("cursor", "limit", "fields")
        self.asked = read_asked(self.request, self.filters, also=known, tenant=self.principal.tenant)
        self.wanted = wanted_fields(self.request, self.serializer_class)
        return narrow(self.rows(), self.serializer_class, self.wanted)

    def get_serializer(self, *args: Any, **kwargs: Any) -> Any:
        """The serializer of the wanted fields."""
        return super().get_serializer(*args, only=self.wanted, **kwargs)

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        """Write the answer out, and send it only to a caller who has another one."""
        final = super().finalize_response(request, response, *args, **kwargs)
        if not isinstance(final, Response) or final.status_code != 200:
            return final
        digest = sha256(final.render().content).hexdigest()
        return conditional(request, final, f'"{digest[:ETAG_DIGITS]}"')


def described(**words: Any) -> Callable[[type[ListView]], type[ListView]]:
    """Describe a list in the OpenAPI document: its filters, `fields`, and the conditional answer."""

    def decorate(view: type[ListView]) -> type[ListView]:
        one = view.serializer_class
        schema = extend_schema(
            parameters=[*(each.parameter() for each in view.filters), fields_parameter(one), IF_NONE_MATCH],
            responses=sparse(one)(many=True),
            **words,
        )
        return extend_schema_view(get=schema)(view)

    return decorate
