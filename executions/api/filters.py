"""Filters of a list: each is one query parameter, described in the OpenAPI document and turned into conditions on rows.

A filter says in which of three ways its rows are found: it bounds the key (`Asked.bounds`), it has an index that gives its rows
in the order of the list (`in_order`), or neither: then lists.py looks for them in a way that suits rare and common values alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import or_
from typing import Any, ClassVar
from uuid import UUID

from django.db.models import Q
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request

from executions.api.parameters import check_parameters, check_text, text_schema
from executions.errors import InvalidRequest
from executions.labels import LONGEST_VALUE, NAME_PATTERN, labelled
from executions.models import Tenant
from executions.models.ids import first_uuid7

MOST_VALUES = 50  # of one parameter
MOST_ALTERNATIVES = 20  # each is a query of its own in the union of them
AT_OR_AFTER = "At this moment or later (RFC 3339, with an offset or Z)."
BEFORE = "Earlier than this moment (RFC 3339, with an offset or Z)."
MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)
MOMENT_WITHOUT_OFFSET = re.compile(r"\d{4}-\d{2}-\d{2}([Tt ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?)?", re.ASCII)


@dataclass
class Asked:
    """What a query string asks for: bounds of the key and what goes with them, alternatives, and all other conditions."""

    tenant: Tenant | None = None
    bounds: Q = field(default_factory=Q)
    fits: Q = field(default_factory=Q)
    alternatives: list[Q] = field(default_factory=lambda: [Q()])  # rows of each of them are in the order of an index
    in_order: bool = False  # whether there are such alternatives

    @property
    def condition(self) -> Q:
        """All of it in one."""
        return self.bounds & self.fits & reduce(or_, self.alternatives)

    @property
    def is_scattered(self) -> bool:
        """Whether no index leads from one fitting row to the next."""
        return bool(self.fits) and not self.in_order

    def add(self, *alternatives: Q, in_order: bool = False) -> None:
        """A condition more: one of these, of each of which an index has the rows in the order of the list, or has not."""
        product = [known & new for known in self.alternatives for new in alternatives]
        if in_order and len(product) <= MOST_ALTERNATIVES:
            self.alternatives, self.in_order = product, True
        else:
            self.fits &= reduce(or_, alternatives, Q(pk__in=()))


@dataclass(frozen=True)
class Filter:
    """One query parameter over one column; `in_order`: an index has (tenant, column, id)."""

    name: str
    column: str
    description: str = ""
    in_order: bool = False

    may_repeat: ClassVar[bool] = False

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of the parameter."""
        raise NotImplementedError

    def apply(self, texts: list[str], asked: Asked) -> None:
        """Say which rows fit. Raises InvalidRequest, naming the parameter, for a text that makes no sense."""
        raise NotImplementedError

    def parameter(self) -> OpenApiParameter:
        """The parameter as the OpenAPI document shows it."""
        form: dict[str, Any] = {"style": "form", "explode": True} if self.may_repeat else {}
        return OpenApiParameter(self.name, self.schema, description=self.description, **form)


@dataclass(frozen=True)
class AnyOf(Filter):
    """One of these words or several, repeated or separated by commas: any of them fits."""

    words: tuple[str, ...] = ()
    may_repeat = True

    @property
    def schema(self) -> dict[str, Any]:
        """A list of the words."""
        return {"type": "array", "minItems": 1, "items": {"type": "string", "enum": list(self.words)}}

    def apply(self, texts: list[str], asked: Asked) -> None:
        """The column holds one of the words."""
        wanted = {word for text in texts for word in text.split(",")}
        if not wanted <= set(self.words):
            raise InvalidRequest(f"{self.name}: one of {', '.join(self.words)}, or several separated by commas.")
        asked.add(*(self.holds(word) for word in sorted(wanted)), in_order=self.in_order)

    def holds(self, word: str) -> Q:
        """The condition for a word that was checked."""
        return Q(**{self.column: word})


@dataclass(frozen=True)
class Exactly(Filter):
    """A text, compared as it is."""

    longest: int = 128
    pattern: str = ""

    @property
    def schema(self) -> dict[str, Any]:
        """A string within its bounds."""
        return {"type": "string", "pattern": f"^{self.pattern}$"} if self.pattern else text_schema(self.longest)

    def apply(self, texts: list[str], asked: Asked) -> None:
        """The column is this text."""
        asked.add(Q(**{self.column: self.checked(texts[0])}), in_order=self.in_order)

    def checked(self, text: str) -> str:
        """The text, if it can be one."""
        if self.pattern and not re.fullmatch(self.pattern, text):
            raise InvalidRequest(f"{self.name}: {self.description}")
        check_text(self.name, text, longest=self.longest)
        return text


@dataclass(frozen=True)
class OneId(Filter):
    """The id of one object."""

    @property
    def schema(self) -> dict[str, Any]:
        """A UUID."""
        return {"type": "string", "format": "uuid"}

    def apply(self, texts: list[str], asked: Asked) -> None:
        """The column is this id."""
        try:
            asked.add(Q(**{self.column: UUID(texts[0])}), in_order=self.in_order)
        except ValueError:
            raise InvalidRequest(f"{self.name}: a UUID, such as 0190a0c4-8f6e-7b3a-9d2e-1f5c6a7b8d90.") from None


@dataclass(frozen=True)
class Labelled(Filter):
    """`name:value`, or `name` alone for whatever value; repeated, all of them."""

    may_repeat = True

    @property
    def schema(self) -> dict[str, Any]:
        """A list of labels."""
        pattern = rf"^{NAME_PATTERN}(:[^\u0000]{{0,{LONGEST_VALUE}}})?$"
        return {
            "type": "array",
            "minItems": 1,
            "maxItems": MOST_VALUES,
            "items": {"type": "string", "pattern": pattern},
        }

    def apply(self, texts: list[str], asked: Asked) -> None:
        """The column, a JSON object, has all these members."""
        if len(texts) > MOST_VALUES:
            raise InvalidRequest(f"{self.name}: at most {MOST_VALUES} of them.")
        for text in texts:
            has = labelled(text, column=self.column)
            if has is None:
                raise InvalidRequest(
                    f"{self.name}: send name:value, or a name alone. A name has 1 to 63 letters, digits, dots, slashes, hyphens "
                    f"or underscores, a value at most {LONGEST_VALUE} characters."
                )
            asked.add(has)


@dataclass(frozen=True)
class Moment(Filter):
    """A bound of a time range: `gte` includes the moment, `lt` does not, so that ranges meet without a gap.

    `leeway`: where the same bound of the UUIDv7 key follows from it, how far the clocks behind the two may differ. `is_key`:
    both are written at once, so that nearly every row within the bounds of the key fits.
    """

    lookup: str = "gte"
    leeway: timedelta | None = None
    is_key: bool = False

    @property
    def schema(self) -> dict[str, Any]:
        """A point in time (RFC 3339)."""
        return {"type": "string", "format": "date-time"}

    def apply(self, texts: list[str], asked: Asked) -> None:
        """The column is at or after this moment, or before it."""
        moment = self._moment(texts[0])
        if self.leeway is not None:
            asked.bounds &= Q(**{f"id__{self.lookup}": self._key(moment, self.leeway)})
        fits = Q(**{f"{self.column}__{self.lookup}": moment})
        if self.is_key:
            asked.bounds &= fits
        else:
            asked.add(fits)

    def _key(self, moment: datetime, leeway: timedelta) -> UUID:
        try:
            return first_uuid7(moment - leeway if self.lookup == "gte" else moment + leeway)
        except OverflowError:  # in the first minutes of the year 1, or the last of the year 9999
            return first_uuid7(moment)

    def _moment(self, text: str) -> datetime:
        try:
            if not MOMENT.fullmatch(text):
                raise ValueError(text)
            return datetime.fromisoformat(text.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            raise InvalidRequest(f"{self.name}: {_hint(text)}") from None


def key_range(name: str, column: str, *, leeway: timedelta) -> tuple[Moment, Moment]:
    """`<name>_after` and `<name>_before` over a column that is written when the key is made."""
    return (
        Moment(f"{name}_after", column, AT_OR_AFTER, lookup="gte", leeway=leeway, is_key=True),
        Moment(f"{name}_before", column, BEFORE, lookup="lt", leeway=leeway, is_key=True),
    )


def time_range(
    name: str, column: str, *, not_before_key: timedelta | None = None, not_after_key: timedelta | None = None
) -> tuple[Moment, Moment]:
    """`<name>_after` and `<name>_before`; where the column is never before (or after) the key, by how much clocks may differ."""
    return (
        Moment(f"{name}_after", column, AT_OR_AFTER, lookup="gte", leeway=not_after_key),
        Moment(f"{name}_before", column, BEFORE, lookup="lt", leeway=not_before_key),
    )


def read_asked(
    request: Request, filters: Iterable[Filter], *, also: Iterable[str] = (), tenant: Tenant | None = None
) -> Asked:
    """Turn the query string into conditions; `also` names the parameters that are no filters.

    Raises InvalidRequest for a parameter nobody reads, for a single one given twice, and for a text that makes no sense.
    """
    known = {one.name: one for one in filters}
    check_parameters(request, [*known, *also], may_repeat=[name for name, one in known.items() if one.may_repeat])
    asked = Asked(tenant)
    for name, texts in request.query_params.lists():
        if name in known:
            known[name].apply(texts, asked)
    return asked


def _hint(text: str) -> str:
    if " " in text and MOMENT.fullmatch("+".join(text.rsplit(" ", 1))):
        return "write the + of an offset as %2B; in an address it stands for a space."
    if MOMENT_WITHOUT_OFFSET.fullmatch(text):
        return "say the offset too, or Z for UTC, as in 2026-01-31T08:30:00Z."
    return "a moment by RFC 3339, such as 2026-01-31T08:30:00Z or 2026-01-31T08:30:00-05:00."
