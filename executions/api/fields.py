"""Fields of requests whose content is the caller's own: JSON within bounds, and lists that are counted before they are read."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from executions.api.plan_schema import PLAN_SCHEMA
from executions.bounds import LONGEST_NAME, MOST_NAMES, excess
from executions.canonical_json import NotCanonical, canonical_json, flaws


@extend_schema_field({"type": "object", "additionalProperties": True})
class JSONObjectField(serializers.JSONField):
    """A JSON object; arrays, strings and numbers are refused."""

    default_error_messages = {"invalid": "Holds a number that JSON cannot keep: not finite, or beyond 2^53 - 1."}

    def to_internal_value(self, data: Any) -> Any:
        """Refuse what is no object."""
        if not isinstance(data, dict):
            raise serializers.ValidationError("Send a JSON object.", code="not_an_object")
        return super().to_internal_value(data)


@extend_schema_field(PLAN_SCHEMA)
class PlanField(JSONObjectField):
    """The document of a plan; its own bounds are looked at when it is parsed."""


@extend_schema_field(
    {
        "type": "object",
        "maxProperties": MOST_NAMES,
        "propertyNames": {"minLength": 1, "maxLength": LONGEST_NAME},
        "additionalProperties": True,
    }
)
class NamedValuesField(JSONObjectField):
    """A JSON object of names and any values: so many names, so long, and values within bounds."""

    def to_internal_value(self, data: Any) -> Any:
        """Refuse what is too much, and what cannot be kept, with the place of it."""
        values = super().to_internal_value(data)
        if len(values) > MOST_NAMES:
            raise serializers.ValidationError(
                f"Send at most {MOST_NAMES} names; these are {len(values)}.", code="too_many"
            )
        if not all(1 <= len(name) <= LONGEST_NAME for name in values):
            raise serializers.ValidationError(f"Give every name 1 to {LONGEST_NAME} characters.", code="invalid_name")
        check_value(values)
        return values


class AnyValueField(serializers.JSONField):
    """Any JSON value within bounds."""

    def to_internal_value(self, data: Any) -> Any:
        """Refuse what is too deep, and what cannot be kept, with the place of it."""
        value = super().to_internal_value(data)
        check_value(value)
        return value


class ShortListField(serializers.ListField):
    """A list whose length is checked before its entries: half a million wrong ones would be as many errors."""

    def to_internal_value(self, data: Any) -> list[Any]:
        """Count, then look."""
        if isinstance(data, list) and self.max_length is not None and len(data) > self.max_length:
            self.fail("max_length", max_length=self.max_length)
        return super().to_internal_value(data)


def check_value(value: Any) -> None:
    """Raise ValidationError, with the place, for a JSON value beyond all bounds or one that cannot be kept exactly."""
    found = excess(value)
    if found is None:
        try:
            canonical_json(value)
        except NotCanonical as error:
            found = next(flaws(value), ((), "invalid", str(error)))
    if found:
        path, code, message = found
        detail: Any = serializers.ErrorDetail(message, code)
        for part in reversed(path):  # nested as the value is: from that the JSON Pointer is made
            detail = {str(part): detail}
        raise serializers.ValidationError(detail)
