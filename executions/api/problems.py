"""Every refusal as a problem document (RFC 9457).

Members: type, title, status, detail, code, correlation_id; `errors` with one entry per wrong field, each with a JSON Pointer
into the request body, a code and what to do; further members by kind of problem.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.core.exceptions import DisallowedHost, TooManyFieldsSent
from django.core.exceptions import PermissionDenied as DjangoPermissionDenied
from django.db import OperationalError
from django.http import Http404, HttpRequest, HttpResponseBase, JsonResponse
from psycopg.errors import LockNotAvailable
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import set_rollback

from executions.errors import OrchestratorError
from orchestrator_project.telemetry import correlation_id

logger = logging.getLogger(__name__)

SENTENCES = {
    exceptions.NotAuthenticated: "Send an API key: Authorization: Bearer <key>.",
    exceptions.UnsupportedMediaType: "Send the body as JSON, with Content-Type: application/json.",
    exceptions.NotAcceptable: "The answer is JSON: send Accept: application/json, or no Accept at all.",
}

CONTENT_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:anumate:problem:"
MOST_ERRORS = 500  # told at once
RETRY_AFTER = {503: 5}  # seconds, by status


def exception_handler(error: Exception, context: dict[str, Any]) -> Response:
    """Turn whatever a view raised into a problem response; what nobody foresaw is logged and says nothing of itself."""
    set_rollback()
    status, code, detail, extra = _describe(error)
    headers = _headers(error, status)
    body = problem(status=status, code=code, detail=detail, **extra)
    return Response(body, status=status, headers=headers, content_type=CONTENT_TYPE)


def problem(*, status: int, code: str, detail: str, **extra: Any) -> dict[str, Any]:
    """Build a problem document's members."""
    return {
        "type": f"{TYPE_PREFIX}{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
        "correlation_id": correlation_id(),
        **extra,
    }


def _describe(error: Exception) -> tuple[int, str, str, dict[str, Any]]:
    if isinstance(error, OrchestratorError):
        return (
            error.status,
            error.code,
            str(error),
            {**({"errors": error.errors} if error.errors else {}), **error.extra},
        )
    if isinstance(error, Http404):
        return 404, "not-found", "There is no such object.", {}
    if isinstance(error, DjangoPermissionDenied):
        return 403, "forbidden", "You may not do this.", {}
    if isinstance(error, exceptions.ValidationError):
        return 422, "validation-error", "The request has errors.", {"errors": field_errors(error.detail)[:MOST_ERRORS]}
    if isinstance(error, exceptions.APIException):
        sentence = SENTENCES.get(type(error), str(error.detail))
        code = str(getattr(error, "default_code", "error")).replace("_", "-")
        return error.status_code, code, sentence, {}
    if isinstance(error, TooManyFieldsSent):
        return (
            400,
            "invalid-request",
            f"The query has more than {settings.DATA_UPLOAD_MAX_NUMBER_FIELDS} parameters.",
            {},
        )
    if isinstance(error, OperationalError) and isinstance(error.__cause__, LockNotAvailable):
        logger.warning("a lock was not free in time")
        return 503, "unavailable", "Somebody else holds what this needs just now; try again in a moment.", {}
    if isinstance(error, OperationalError):
        logger.error("the database does not answer: %s", type(error).__name__)
        return 503, "unavailable", "The database does not answer; try again in a moment.", {}
    logger.exception("unforeseen error")
    return 500, "internal-error", "Something went wrong here; the correlation id finds it in the log.", {}


def kind_of(error: type[Exception]) -> tuple[int, str, str]:
    """The status, the code and what it means, of what a view may raise: for the OpenAPI document."""
    if issubclass(error, OrchestratorError):
        return error.status, error.code, str(error.__doc__).splitlines()[0]
    if issubclass(error, exceptions.ValidationError):
        return 422, "validation-error", "Fields of the request are wrong."
    if issubclass(error, exceptions.APIException):
        sentence = SENTENCES.get(error) or error.__doc__ or str(error.default_detail)
        return error.status_code, str(error.default_code).replace("_", "-"), sentence.splitlines()[0]
    raise TypeError(error)


def field_errors(detail: Any, pointer: str = "") -> list[dict[str, str]]:
    """Flatten the errors of nested serializers into entries with a JSON Pointer each."""
    if isinstance(detail, dict):
        return [
            entry
            for name, inner in detail.items()
            for entry in field_errors(
                inner, pointer if _is_of_the_whole(name, inner) else f"{pointer}/{_escape(str(name))}"
            )
        ]
    if isinstance(detail, list) and any(isinstance(one, dict | list) for one in detail):
        return [entry for i, inner in enumerate(detail) for entry in field_errors(inner, f"{pointer}/{i}")]
    texts = detail if isinstance(detail, list) else [detail]
    return [{"pointer": pointer, "code": getattr(one, "code", "invalid"), "detail": str(one)} for one in texts]


def _is_of_the_whole(name: Any, errors: Any) -> bool:
    """Whether these are DRF's errors of an object as a whole; a member of that name, the caller's own, has no list."""
    return name == "non_field_errors" and isinstance(errors, list)


def _escape(token: str) -> str:
    return token.replace("~", "~0").replace("/", "~1")


def _headers(error: Exception, status: int) -> dict[str, str]:
    headers = {}
    if challenge := getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = challenge
    told = error.extra.get("retry_after") if isinstance(error, OrchestratorError) else getattr(error, "wait", None)
    if seconds := told or RETRY_AFTER.get(status):
        headers["Retry-After"] = str(int(seconds))
    return headers


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """Answer a route that does not exist: a problem for programs, Django's page for people."""
    if request.path.startswith("/admin"):
        from django.views.defaults import page_not_found as django_page

        return django_page(request, exception)
    body = problem(status=404, code="not-found", detail="There is nothing at this address; see /v1/docs.")
    return JsonResponse(body, status=404, content_type=CONTENT_TYPE)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """Answer a request that Django itself refuses, such as one for a host name that is not ours."""
    detail = "The request is not acceptable."
    if isinstance(exception, DisallowedHost):
        detail = "This host name is not served here; ALLOWED_HOSTS names those that are."
    body = problem(status=400, code="bad-request", detail=detail)
    return JsonResponse(body, status=400, content_type=CONTENT_TYPE)


def server_error(request: HttpRequest) -> HttpResponseBase:
    """Answer an error outside any API view, without a word about its inside."""
    body = problem(status=500, code="internal-error", detail="Something went wrong here.")
    return JsonResponse(body, status=500, content_type=CONTENT_TYPE)
