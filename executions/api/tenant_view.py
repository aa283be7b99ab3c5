"""What the views of the API share: one tenant, a body of known length, an answer that is given once."""

from __future__ import annotations

from typing import Any, cast

from django.http import HttpResponse, HttpResponseBase
from drf_spectacular.utils import OpenApiParameter
from rest_framework import exceptions
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.views import APIView

from executions.api.authentication import Principal
from executions.idempotency import Answer, once, read_key
from executions.models import Scope

IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[\\x20-\\x7e]+$"},
    OpenApiParameter.HEADER,
    description="A repeat with the same key and body gets the first answer again, with `Idempotency-Replayed: true`.",
)


class LengthRequired(exceptions.APIException):
    """The body's length is not said (RFC 9110, section 15.5.12)."""

    status_code = 411
    default_code = "length_required"


class TenantView(APIView):
    """A view that sees one tenant: the caller's."""

    scopes: dict[str, Scope] = {}

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Refuse a body of unknown length, which WSGI would show as an empty one."""
        super().initial(request, *args, **kwargs)
        if "transfer-encoding" in request.headers:
            raise LengthRequired("Send the body with a Content-Length; a chunked one is not read.")

    @property
    def principal(self) -> Principal:
        """The caller, as authentication left it."""
        return cast("Principal", self.request.user)


def answer_once(request: Request, work: Any) -> HttpResponseBase:
    """Run `work` (no arguments, returns status, data and headers) under the request's Idempotency-Key."""
    principal = cast("Principal", request.user)

    def answer() -> Answer:
        status, data, headers = work()
        return Answer(status, JSONRenderer().render(data), headers)

    done = once(
        tenant=principal.tenant,
        principal=principal.name,
        route=f"{request.method} {request.path}",
        key=read_key(request.headers.get("Idempotency-Key")),
        body=request.data,
        work=answer,
    )
    response = HttpResponse(done.body, status=done.status, content_type="application/json", headers=done.headers)
    if done.replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return response
