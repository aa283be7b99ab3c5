"""The OpenAPI document: what drf-spectacular cannot see by itself.

- `ApiSchema` completes each operation: every refusal with its codes, the headers that are sent, the answer 304.
- `complete_document` adds what operations share, how one leads to another (links.py), and examples (examples.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Any, cast

from drf_spectacular.extensions import OpenApiAuthenticationExtension, OpenApiSerializerExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import force_instance, is_serializer
from rest_framework import exceptions, serializers

from executions import errors
from executions.api.examples import add_examples
from executions.api.headers import HEADERS
from executions.api.links import add_links
from executions.api.parsers import PayloadTooLarge
from executions.api.plan_schema import plan_components
from executions.api.problems import CONTENT_TYPE, kind_of
from executions.api.tenant_view import LengthRequired
from executions.waiting import LONGEST_WAIT

Schema = dict[str, Any]
Refusals = Iterable[type[Exception]]

OF_EVERY_VIEW: Refusals = (exceptions.NotAcceptable,)
OF_A_TENANT: Refusals = (
    errors.InvalidRequest,
    exceptions.NotAuthenticated,
    exceptions.AuthenticationFailed,
    exceptions.PermissionDenied,
    LengthRequired,
    errors.RateLimited,
    errors.Unavailable,
)
OF_A_BODY: Refusals = (exceptions.ParseError, PayloadTooLarge, exceptions.UnsupportedMediaType)
OF_A_KEY: Refusals = (errors.RequestInProgress, errors.IdempotencyKeyReused)

PROBLEM: Schema = {
    "type": "object",
    "description": "A problem document (RFC 9457). Some codes have further members: docs/reference/problems.md",
    "required": ["type", "title", "status", "code", "detail", "correlation_id"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string"},
        "detail": {"type": "string", "description": "What is wrong and what to do."},
        "correlation_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "code", "detail"],
                "properties": {
                    "pointer": {"type": "string", "description": "JSON Pointer (RFC 6901) into the request body."},
                    "code": {"type": "string"},
                    "detail": {"type": "string"},
                },
            },
        },
    },
    "additionalProperties": True,
}


OF_A_CONDITIONAL_ANSWER = ("ETag", "Cache-Control")
OF_A_KEYED_ANSWER = ("Idempotency-Key", "Idempotency-Key-Expires", "Idempotency-Replayed")
OF_LIMITS = ("RateLimit-Policy", "RateLimit")
WHILE_IN_FLIGHT = HEADERS["Retry-After"] | {"description": "With `request-in-progress`: seconds.", "required": False}


def _parameter(name: str, description: str, *examples: str) -> Schema:
    return {
        "name": name,
        "in": "header",
        "description": description,
        "schema": {"type": "string", "examples": list(examples)},
    }


PARAMETERS: dict[str, Schema] = {
    "X-Correlation-ID": _parameter(
        "X-Correlation-ID",
        "1 to 128 letters, digits, dots, colons, hyphens or underscores: the answer, logs, events and outgoing calls carry it. "
        "Without it, and where it is malformed, they carry a new one.",
        "order-4711",
    ),
    "X-Tenant-ID": _parameter(
        "X-Tenant-ID", "The tenant of the API key, which says it already: another one is refused with 403.", "demo"
    ),
    "Prefer": _parameter(
        "Prefer",
        f"`wait=N` (RFC 7240): wait up to N seconds, {LONGEST_WAIT} at most, for the same request in flight under this key.",
        "wait=10",
    ),
}
ANYTHING_OR_NULL: list[Schema] = [{}, {"type": "null"}]


class ApiKeyScheme(OpenApiAuthenticationExtension):
    """Bearer authentication with an API key."""

    target_class = "executions.api.authentication.ApiKeyAuthentication"
    name = "ApiKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        """Return the security scheme object of OpenAPI 3.1."""
        return {"type": "http", "scheme": "bearer", "bearerFormat": "API key"}


class StrictSchema(OpenApiSerializerExtension):
    """What a strict serializer refuses beyond single fields, and that its texts are more than white space."""

    target_class = "executions.api.serializers.StrictSerializer"
    match_subclasses = True

    def map_serializer(self, auto_schema: Any, direction: Any) -> Schema:
        """The usual schema, closed."""
        schema: Schema = auto_schema._map_serializer(self.target, direction, bypass_extensions=True)
        for name, field in self.target.fields.items():
            if isinstance(field, serializers.CharField) and field.trim_whitespace and not field.allow_blank:
                schema["properties"][name].setdefault("pattern", _not_blank(field.min_length or 1))
        return {**schema, "additionalProperties": False, **self.target.holds_too}


def _not_blank(length: int) -> str:
    """The pattern of a text with so many characters between white space, which is cut off."""
    one = r"[^\s\u001c-\u001f\u0085]"  # what Python takes for white space beyond JSON Schema's \s
    return one if length == 1 else rf"{one}[\s\S]{{{length - 2},}}{one}"


class ApiSchema(AutoSchema):
    """Describes an operation with everything it takes and answers, as far as view, method and parameters tell."""

    def get_operation(self, *args: Any, **kwargs: Any) -> Schema | None:
        """The operation, completed."""
        operation: Schema | None = super().get_operation(*args, **kwargs)
        if operation is None:
            return None
        takes = {one["name"] for one in operation.get("parameters", ())}
        responses = operation["responses"] | problem_responses(self._refusals(takes))
        if "If-None-Match" in takes:
            responses["304"] = {"description": "The same as before: no body."}
        for status, response in responses.items():
            response["headers"] = self._headers(status, takes) | response.get("headers", {})
            response["description"] = response.get("description") or HTTPStatus(int(status)).phrase
        operation["responses"] = dict(sorted(responses.items()))
        if self._needs_a_body:
            operation["requestBody"]["required"] = True
        operation["parameters"] = [*operation.get("parameters", ()), *self._parameters(takes)]
        return operation

    def _refusals(self, takes: set[str]) -> Iterator[type[Exception]]:
        yield from OF_EVERY_VIEW
        if not self._is_of_a_tenant:
            return
        yield from OF_A_TENANT
        if "{" in self.path:
            yield errors.NotFound
        if self.method == "POST":
            yield from OF_A_BODY
            if is_serializer(self.get_request_serializer()):
                yield exceptions.ValidationError
        if "Idempotency-Key" in takes:
            yield from OF_A_KEY
        yield from getattr(self.view, "refusals", {}).get(self.method, ())

    def _headers(self, status: str, takes: set[str]) -> Schema:
        names = ["X-Correlation-ID"]
        if self._is_of_a_tenant:
            names += ["WWW-Authenticate"] if status == "401" else OF_LIMITS
            names += ["Retry-After"] if status in ("429", "503") else []
        if status[0] == "2" and "Idempotency-Key" in takes:
            names += OF_A_KEYED_ANSWER
        if status in ("200", "304") and "If-None-Match" in takes:
            names += OF_A_CONDITIONAL_ANSWER
        if status[0] in "23" and "Prefer" in takes:
            names += ["Preference-Applied"]
        refs = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
        return refs | ({"Retry-After": WHILE_IN_FLIGHT} if status == "409" and "Idempotency-Key" in takes else {})

    def _parameters(self, takes: set[str]) -> list[Schema]:
        names = ["X-Correlation-ID", *(["X-Tenant-ID"] if self._is_of_a_tenant else [])]
        names += ["Prefer"] if "Idempotency-Key" in takes and "Prefer" not in takes else []
        return [{"$ref": f"#/components/parameters/{name}"} for name in names]

    @property
    def _needs_a_body(self) -> bool:
        """Whether an empty one would be refused; a view that takes one reads none as an empty object."""
        taken = self.get_request_serializer() if self.method == "POST" else None
        if not is_serializer(taken):
            return bool(taken)
        serializer = force_instance(taken)
        return bool(serializer.holds_too) or any(field.required for field in serializer.fields.values())

    @property
    def _is_of_a_tenant(self) -> bool:
        return bool(getattr(self.view, "scopes", None))


def problem_responses(refusals: Iterable[type[Exception]]) -> Schema:
    """The responses, by status, of what may be raised: each says its codes and what they mean."""
    kinds: dict[int, dict[str, str]] = {}
    for refusal in refusals:
        status, code, sentence = kind_of(refusal)
        kinds.setdefault(status, {})[code] = sentence
    return {
        str(status): {
            "description": "\n".join(f"- `{code}`: {sentence}" for code, sentence in sorted(codes.items())),
            "content": {CONTENT_TYPE: {"schema": _problem(status, sorted(codes))}},
        }
        for status, codes in kinds.items()
    }


def _problem(status: int, codes: list[str]) -> Schema:
    narrowed = {"properties": {"status": {"const": status}, "code": {"enum": codes}}}
    return {"allOf": [{"$ref": "#/components/schemas/Problem"}, narrowed]}


def complete_document(result: Schema, **kwargs: Any) -> Schema:
    """Add what operations share, links and examples (drf-spectacular postprocessing hook)."""
    components = result.setdefault("components", {})
    named = components.setdefault("schemas", {})
    for name, schema in named.items():
        if not name.endswith("Request") and not name.startswith("Sparse") and "properties" in schema:
            schema["required"] = list(schema["properties"])  # an answer always has all members
    named |= {"Problem": PROBLEM, **plan_components()}
    components["headers"] = HEADERS
    components["parameters"] = PARAMETERS
    operations = {one["operationId"]: one for path in result["paths"].values() for one in path.values()}
    add_links(operations)
    add_examples(operations)
    return cast("Schema", _mended(result))


def _mended(value: Any) -> Any:
    """The document where a value that may be anything is just that: `oneOf` of anything and null would refuse null."""
    if isinstance(value, list):
        return [_mended(one) for one in value]
    if not isinstance(value, dict):
        return value
    if value.get("oneOf") == ANYTHING_OR_NULL:
        value = {key: one for key, one in value.items() if key != "oneOf"}
    return {key: _mended(one) for key, one in value.items()}
