"""The headers of answers in the OpenAPI document. Which operation sends which, schema.py finds out or the view says."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiParameter

Schema = dict[str, Any]


def _header(description: str, *, required: bool = False, **schema: Any) -> Schema:
    return {"description": description, "required": required, "schema": {"type": "string", **schema}}


HEADERS: dict[str, Schema] = {
    "X-Correlation-ID": _header(
        "The id of this request in logs, events and outgoing calls: the caller's, or a new one.",
        required=True,
        pattern="^[A-Za-z0-9._:-]{1,128}$",
    ),
    "WWW-Authenticate": _header("The challenge (RFC 6750).", required=True, examples=['Bearer realm="orchestrator"']),
    "RateLimit-Policy": _header(
        "The limits of a tenant that has some (draft-ietf-httpapi-ratelimit-headers). docs/reference/limits.md",
        examples=['"requests";q=100;w=60'],
    ),
    "RateLimit": _header(
        "What is left of them: 42 requests within 26 seconds, after which as many have come back.",
        examples=['"requests";r=42;t=26'],
    ),
    "Retry-After": _header("Seconds after which to send the request again.", required=True, pattern="^[0-9]+$"),
    "ETag": _header("The entity tag of this answer.", required=True, pattern='^"[!#-~]*"$', examples=['"7"']),
    "Location": _header("Where what this is about is found.", required=True, format="uri-reference"),
    "Cache-Control": _header("Who may keep this answer, and how.", required=True, examples=["private, no-cache"]),
    "Idempotency-Key": _header("The key under which this answer is stored.", examples=['"8e03978e"']),
    "Idempotency-Key-Expires": _header("Until when the answer is stored (UTC).", format="date-time"),
    "Idempotency-Replayed": _header("There on an answer that was stored before.", enum=["true"]),
    "Preference-Applied": _header(
        "How long this answer would have waited.", pattern="^wait=[0-9]+$", examples=["wait=10"]
    ),
}


def sends(name: str, *statuses: int, always: bool = True) -> OpenApiParameter:
    """Say of an operation that its answers with these statuses have this header."""
    header = HEADERS[name]
    return OpenApiParameter(
        name,
        header["schema"],
        OpenApiParameter.HEADER,
        description=header["description"],
        required=always,
        response=[*statuses],
    )
