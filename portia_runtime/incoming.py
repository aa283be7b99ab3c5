"""Reading requests: the key and the tenant, the body, and the words of the query; every refusal is a Problem."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from datetime import datetime
from functools import wraps
from typing import Any, TypeVar

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils.dateparse import parse_datetime
from pydantic import BaseModel, ConfigDict, ValidationError

from portia_runtime.documents import DocumentError, parse
from portia_runtime.plan_checks import join
from portia_runtime.problems import Problem

MAX_WAIT = 55.0

View = Callable[..., HttpResponse]
Read = TypeVar("Read", bound=BaseModel)


class Body(BaseModel):
    """Base of request bodies: unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore")


def routes(**handlers: View) -> View:
    """A view that checks the key and calls the handler of the method."""

    def view(request: HttpRequest, **arguments: str) -> HttpResponse:
        handler = handlers.get((request.method or "").lower())
        if any("\x00" in text for text in (request.path, *request.GET.values())):
            raise Problem("invalid_request", "the address contains the NUL character")
        if handler is None:
            allow = ", ".join(sorted(name.upper() for name in handlers))
            raise Problem("method_not_allowed", f"use {allow}", headers={"Allow": allow})
        return handler(request, **arguments)

    return view


def with_key(view: View) -> View:
    """Only for requests that carry the runtime's key; hands the tenant on."""

    @wraps(view)
    def checked(request: HttpRequest, **arguments: str) -> HttpResponse:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        known = scheme.lower() in ("api-key", "bearer")
        if not known or not hmac.compare_digest(key.strip().encode(), settings.PORTIA_API_KEY.encode()):
            raise Problem(
                "unauthorized", "send the key as 'Authorization: Api-Key …'", headers={"WWW-Authenticate": "Api-Key"}
            )
        return view(request, tenant=_tenant(request), **arguments)

    return checked


def _tenant(request: HttpRequest) -> str:
    tenant = request.headers.get("X-Tenant-ID") or request.headers.get("x-portia-org-id") or ""
    if len(tenant) > 128:
        raise Problem("invalid_request", "X-Tenant-ID is longer than 128 characters")
    return tenant


def json_body(request: HttpRequest) -> Any:
    """The body as JSON."""
    try:
        return parse(request.body)
    except DocumentError as error:
        raise Problem("invalid_json", f"the body is not usable JSON: {error}") from None


def read_body(kind: type[Read], data: Any, code: str) -> Read:
    """The data as this kind of body; `code` is the problem's when it does not fit."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        errors = [{"loc": join("", one["loc"]) or "$", "msg": one["msg"]} for one in error.errors(include_url=False)]
        message = "; ".join(f"{one['loc']}: {one['msg']}" for one in errors[:5])
        raise Problem(code, message, errors=errors) from None


def idempotency_key(request: HttpRequest) -> str | None:
    """The request's Idempotency-Key, if it has one."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not 1 <= len(key) <= 255 or not key.isprintable():
        raise Problem("invalid_idempotency_key", "Idempotency-Key must have 1 to 255 printable characters")
    return key


def seconds_to_wait(request: HttpRequest) -> float:
    """How long to wait for a change, from 0 to 55 seconds."""
    text = request.GET.get("wait", "0")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_WAIT:
        raise Problem("invalid_request", f"wait must be a number of seconds from 0 to {MAX_WAIT:g}")
    return seconds


def whole_number(request: HttpRequest, name: str, *, default: int, least: int = -1) -> int:
    """A whole number of the query."""
    text = request.GET.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"-?[0-9]{1,18}", text) or int(text) < least:
        raise Problem("invalid_request", f"{name} must be a whole number from {least}")
    return int(text)


def moment(text: str) -> datetime:
    """A time with its offset; a plus sign that became a blank on its way is understood."""
    try:
        found = parse_datetime(text.replace(" ", "+"))
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise Problem("invalid_request", "updated_since must be an RFC 3339 time with its offset")
    return found
