"""What the views of the API share: one tenant, a body of known length, an answer that is given once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, cast

from django.http import HttpResponse, HttpResponseBase
from drf_spectacular.utils import OpenApiParameter
from rest_framework import exceptions
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.views import APIView

from executions import idempotency
from executions.api.authentication import Principal, check_still_usable
from executions.api.parameters import check_parameters
from executions.api.preferences import seconds_to_wait
from executions.api.throttling import quota_headers
from executions.errors import InvalidRequest
from executions.idempotency import KEY_PATTERN, LONGEST_KEY, Answer, content_key, once, read_key, write_key
from executions.idempotency import Request as IdempotentRequest
from executions.limits import runs_left
from executions.models import KeyOrigin, Scope

LONGEST_HEADER = 8192  # characters
LONGEST_QUERY = 8192
Work = Callable[[], tuple[int, Any, dict[str, str]]]

IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    {"type": "string", "minLength": 1, "pattern": KEY_PATTERN, "examples": ['"8e03978e-40d5-43dd-bc93-6894a57f9324"']},
    OpenApiParameter.HEADER,
    description=(
        f"1 to {LONGEST_KEY} printable ASCII characters, as a structured-field string (in quotes) or bare. A repeat with the "
        "same key and body gets the first answer again, byte for byte, with `Idempotency-Replayed: true`; another body is "
        "refused with 422 `idempotency-key-reused`. docs/reference/idempotency.md"
    ),
)


class LengthRequired(exceptions.APIException):
    """The body's length is not said (RFC 9110, section 15.5.12)."""

    status_code = 411
    default_code = "length_required"


class TenantView(APIView):
    """A view that sees one tenant: the caller's."""

    scopes: dict[str, Scope] = {}
    refusals: ClassVar[dict[str, tuple[type[Exception], ...]]] = {}  # by method: what it may raise besides what all do

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Count the request whatever becomes of it, then look at its outside.

        A body of unknown length is refused: WSGI would show it as an empty one.
        """
        self.perform_authentication(request)
        self.check_throttles(request)
        super().initial(request, *args, **kwargs)
        if "transfer-encoding" in request.headers:
            raise LengthRequired("Send the body with a Content-Length; a chunked one is not read.")
        _check_lengths(request)
        if request.method == "POST" and "POST" in self.scopes:
            check_parameters(request, ())

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        """Say on every answer what is left of the tenant's limits; how many runs only where one is started."""
        response = super().finalize_response(request, response, *args, **kwargs)
        if hasattr(request, "quota"):
            match = request.resolver_match
            starts_run = request.method == "POST" and match is not None and match.url_name == "execute"
            runs = runs_left(self.principal.tenant) if starts_run and response.status_code < 500 else None
            for name, value in quota_headers(requests=request.quota, runs=runs).items():
                response.headers[name] = value
        return response

    @property
    def principal(self) -> Principal:
        """The caller, as authentication left it."""
        return cast("Principal", self.request.user)


def answer_once(request: Request, work: Work, *, deduplicate: bool = False) -> HttpResponseBase:
    """Run `work` under the request's Idempotency-Key, or, to `deduplicate` one that brings none, under that of its content.

    `work` returns status, data and headers. Its answer comes with the key's expiry; a repeat gets it byte for byte.
    """

    def answer() -> Answer:
        if wait:
            check_still_usable(request)
        status, data, headers = work()
        return Answer(status, JSONRenderer().render(data), headers)

    asked, wait = _idempotent_request(request, deduplicate=deduplicate), seconds_to_wait(request) or 0
    done = once(asked, answer, wait=wait)
    if wait and done.replayed:
        check_still_usable(request)
    return _response(asked, done)


def answered(request: Request, *, deduplicate: bool = False) -> HttpResponseBase | None:
    """The answer `answer_once` would repeat, for a view that has something to fetch before its work; None without one."""
    asked = _idempotent_request(request, deduplicate=deduplicate)
    known = idempotency.answered(asked)
    return _response(asked, known) if known else None


def _response(asked: IdempotentRequest, done: Answer) -> HttpResponseBase:
    response = HttpResponse(done.body, status=done.status, content_type="application/json", headers=done.headers)
    if asked.key and done.expires_at:
        response.headers["Idempotency-Key"] = write_key(asked.key)
        response.headers["Idempotency-Key-Expires"] = f"{done.expires_at:%Y-%m-%dT%H:%M:%SZ}"
    if done.replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return response


def _check_lengths(request: Request) -> None:
    """Refuse a header or a query string nobody means; each that is read has a bound of its own below this one."""
    if len(request.META.get("QUERY_STRING", "")) > LONGEST_QUERY:
        raise InvalidRequest(f"The query string has more than {LONGEST_QUERY} characters; send a shorter one.")
    for name, value in request.META.items():
        if name.startswith("HTTP_") and len(value) > LONGEST_HEADER:
            header = name.removeprefix("HTTP_").replace("_", "-").title()
            raise InvalidRequest(f"{header}: the header has more than {LONGEST_HEADER} characters; send a shorter one.")


def _idempotent_request(request: Request, *, deduplicate: bool) -> IdempotentRequest:
    principal, route = cast("Principal", request.user), f"{request.method} {request.path}"
    key, origin = read_key(request.headers.get("Idempotency-Key")), KeyOrigin.HEADER
    if key is None and deduplicate:
        key, origin = content_key(route=route, body=request.data), KeyOrigin.CONTENT
    return IdempotentRequest(
        tenant=principal.tenant, principal=principal.name, route=route, body=request.data, key=key, origin=origin
    )
