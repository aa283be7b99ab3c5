"""Django's WSGI handler for the runtime: routes of its own, no middleware, and every error a problem document."""

from __future__ import annotations

import logging
import uuid
from typing import Any

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.core.handlers.wsgi import WSGIHandler, WSGIRequest
from django.db import InterfaceError, OperationalError, connection
from django.http import HttpRequest, UnreadablePostError
from django.http.response import HttpResponseBase
from django.urls import Resolver404

from portia_runtime import problems
from portia_runtime.problems import Problem

log = logging.getLogger(__name__)


class RuntimeRequest(WSGIRequest):
    """A request that is resolved against the runtime's own routes."""

    urlconf = "portia_runtime.urls"


class RuntimeHandler(WSGIHandler):
    """Django's handler without middleware; every error leaves as a problem document."""

    request_class = RuntimeRequest

    def load_middleware(self, is_async: bool = False) -> None:
        """Only the view stands behind the handler."""
        self._view_middleware: list[Any] = []
        self._template_response_middleware: list[Any] = []
        self._exception_middleware: list[Any] = []
        self._middleware_chain = self._answer

    def _answer(self, request: HttpRequest) -> HttpResponseBase:
        request_id = _request_id(request)
        try:
            answer: HttpResponseBase = self._get_response(request)  # type: ignore[attr-defined]
        except Exception as error:
            answer = problems.response(_as_problem(error), request_id=request_id)
        answer["X-Request-ID"] = request_id
        return answer


def _request_id(request: HttpRequest) -> str:
    given = request.headers.get("X-Request-ID", "")
    return given if 0 < len(given) <= 128 and given.isascii() and given.isprintable() else str(uuid.uuid4())


def _as_problem(error: Exception) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, Resolver404):
        return Problem("not_found", "there is nothing at this address")
    if isinstance(error, RequestDataTooBig):
        limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        return Problem("payload_too_large", f"the body has more than {limit} bytes")
    if isinstance(error, UnreadablePostError):
        return Problem("invalid_json", "the body ended before its end")
    if isinstance(error, (OperationalError, InterfaceError)):
        log.warning("the database could not serve a request: %s", str(error).partition("\n")[0])
        connection.close()
        return Problem("unavailable", "the database cannot be used just now", headers={"Retry-After": "1"})
    log.error("request failed", exc_info=error)
    return Problem("internal_error", "the runtime failed; its log tells more under this request id")
