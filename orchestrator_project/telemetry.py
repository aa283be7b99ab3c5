"""The correlation id: taken from the caller or made here, echoed, put on every log line and every outgoing call."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from django.http import HttpRequest, HttpResponse

HEADER = "X-Correlation-ID"
ALLOWED = re.compile(r"[A-Za-z0-9._:-]{1,128}")
TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

NOTHING = "-"  # the correlation id outside of any request or run
_correlation_id: ContextVar[str] = ContextVar("correlation_id", default=NOTHING)
_traceparent: ContextVar[str] = ContextVar("traceparent", default="")


def correlation_id() -> str:
    """The id of what is being done right now, `-` outside of any."""
    return _correlation_id.get()


def traceparent() -> str:
    """The W3C Trace Context header of what is being done right now, empty where there is none."""
    return _traceparent.get()


@contextmanager
def correlated(correlation: str, trace: str = "") -> Iterator[None]:
    """Do the block under this correlation id and traceparent."""
    tokens = _correlation_id.set(correlation or NOTHING), _traceparent.set(trace)
    try:
        yield
    finally:
        _correlation_id.reset(tokens[0])
        _traceparent.reset(tokens[1])


class CorrelationMiddleware:
    """Binds the request's correlation id and traceparent; a missing or malformed id is replaced by a new one."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer the request with its correlation id in the response headers."""
        given = request.headers.get(HEADER, "")
        trace = request.headers.get("traceparent", "")
        chosen = given if ALLOWED.fullmatch(given) else secrets.token_hex(16)
        with correlated(chosen, trace if TRACEPARENT.fullmatch(trace) else ""):
            response = self.get_response(request)
        response.headers[HEADER] = chosen
        return response


class CorrelationFilter(logging.Filter):
    """Adds `correlation_id` to each log record."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep every record, with the id on it."""
        record.correlation_id = correlation_id()
        return True
