"""`fields=run_id,status`: an answer with these members only, of which nothing else is computed or loaded.

A view reads the wish with `wanted_fields`, narrows its query with `narrow`, and gives both to a SparseSerializer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cache
from typing import Any, ClassVar

from django.db.models import QuerySet
from drf_spectacular.extensions import OpenApiSerializerExtension
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.request import Request

from executions.errors import InvalidRequest


class SparseSerializer(serializers.ModelSerializer[Any]):
    """Shows the fields named in `only`, or all. `needs`: the columns from which computed fields are made.

    A computed field that is not named in `needs` is right all the same, by one more query per row.
    """

    needs: ClassVar[dict[str, tuple[str, ...]]] = {}
    may_lack_fields: ClassVar[bool] = False  # whether the OpenAPI document leaves every member optional

    def __init__(self, *args: Any, only: Collection[str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.only = only

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        """The fields to show, in their usual order."""
        fields = super().get_fields()
        return {name: field for name, field in fields.items() if self.only is None or name in self.only}


def wanted_fields(request: Request, serializer: type[SparseSerializer]) -> frozenset[str] | None:
    """Read `fields`; None where the caller wants all. Raises InvalidRequest naming the known ones."""
    given = request.query_params.get("fields")
    if given is None:
        return None
    known = list(serializer().fields)
    wanted = given.split(",")
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise InvalidRequest(f"fields: there is no field {unknown[0]!r}; known are {', '.join(known)}.")
    return frozenset(wanted)


def narrow(
    found: QuerySet[Any],
    serializer: type[SparseSerializer],
    wanted: Collection[str] | None,
    *,
    also: Iterable[str] = (),
) -> QuerySet[Any]:
    """Load what the wanted fields need, and the columns in `also`; relations come in the same query."""
    columns = {*columns_of(serializer(only=wanted)), *also}
    relations = {column.rpartition("__")[0] for column in columns if "__" in column}
    return (found.select_related(*relations) if relations else found).only("pk", *columns)


def columns_of(serializer: serializers.BaseSerializer[Any]) -> set[str]:
    """The columns, with `__` across relations, from which a serializer's fields are made; rows of other tables are not."""
    needs: dict[str, tuple[str, ...]] = getattr(serializer, "needs", {})
    found: set[str] = set()
    for name, field in getattr(serializer, "fields", {}).items():
        if name in needs:
            found.update(needs[name])
        elif field.source == "*":
            found |= columns_of(field)
        elif not isinstance(field, serializers.BaseSerializer):
            found.add(field.source.replace(".", "__"))
    return found


def fields_parameter(serializer: type[SparseSerializer]) -> OpenApiParameter:
    """Describe `fields` in the OpenAPI document."""
    names = {"type": "string", "enum": list(serializer().fields)}
    return OpenApiParameter(
        "fields", {"type": "array", "minItems": 1, "items": names}, style="form", explode=False,
        description="Only these members, separated by commas; all of them unless given.",
    )  # fmt: skip


@cache
def sparse(serializer: type[SparseSerializer]) -> type[SparseSerializer]:
    """The serializer as the OpenAPI document shows an answer to `fields`: no member is required."""
    text = f"{serializer.__doc__} With `fields`, the members asked for."
    return type(f"Sparse{serializer.__name__}", (serializer,), {"__doc__": text, "may_lack_fields": True})


class SparseSchema(OpenApiSerializerExtension):
    """How a sparse answer shows in the OpenAPI document."""

    target_class = SparseSerializer
    match_subclasses = True

    def map_serializer(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
        """The usual schema, without `required` where any member may be left out."""
        schema: dict[str, Any] = auto_schema._map_serializer(self.target, direction, bypass_extensions=True)
        if self.target.may_lack_fields:
            schema.pop("required", None)
        return schema
