"""GET /v1/idempotency-keys/{key}: what became of a key; POST …/release: forget its answer, with a reason."""

from __future__ import annotations

import re
from typing import Any, cast

from django.http import HttpResponseBase
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from executions import idempotency
from executions.api.serializers import StrictSerializer
from executions.api.tenant_view import IDEMPOTENCY_KEY, TenantView, answer_once, check_parameters
from executions.errors import InvalidRequest, NotFound
from executions.idempotency import LONGEST_KEY, LONGEST_REASON, write_key
from executions.models import IdempotencyRecord, Scope

STATES = ["in_flight", "completed", "expired", "released"]
LONGEST_PRINCIPAL = 128
KEY_IN_PATH = OpenApiParameter(
    "key", {"type": "string", "pattern": f"^[ -~]{{1,{LONGEST_KEY}}}$"}, OpenApiParameter.PATH,
    description="The key without its quotes, percent-encoded; `sha256:…` where the request brought none.",
)  # fmt: skip
WHOSE = OpenApiParameter(
    "principal",
    {"type": "string", "minLength": 1, "maxLength": LONGEST_PRINCIPAL, "pattern": r"^[^\u0000]*$"},
    OpenApiParameter.QUERY,
    description="Whose key; the caller's own unless said.",
)  # fmt: skip


class IdempotencyKeySerializer(serializers.Serializer[IdempotencyRecord]):
    """A key, and the request it stands for; while that is in flight only key, principal and state are known."""

    key = serializers.CharField()
    principal = serializers.CharField()
    state = serializers.ChoiceField(choices=STATES)
    origin = serializers.ChoiceField(choices=["header", "content"], allow_null=True)
    route = serializers.CharField(allow_null=True, help_text="Method and path.")
    fingerprint = serializers.CharField(allow_null=True)
    response_status = serializers.IntegerField(allow_null=True)
    location = serializers.CharField(allow_null=True, help_text="What the request made, e.g. a run.")
    created_at = serializers.DateTimeField(allow_null=True)
    expires_at = serializers.DateTimeField(allow_null=True)
    released_at = serializers.DateTimeField(allow_null=True)
    released_by = serializers.CharField(allow_null=True)
    release_reason = serializers.CharField(allow_null=True)


class ReleaseSerializer(StrictSerializer):
    """Why the answer is to be forgotten."""

    reason = serializers.CharField(min_length=3, max_length=LONGEST_REASON, help_text="Kept with the key for 90 days.")
    principal = serializers.CharField(
        required=False, max_length=LONGEST_PRINCIPAL, help_text="Whose key; yours unless said."
    )


class IdempotencyKeyView(TenantView):
    """GET /v1/idempotency-keys/{key}."""

    scopes = {"GET": Scope.READ}

    @extend_schema(
        operation_id="get_idempotency_key", summary="Look at an Idempotency-Key", responses=IdempotencyKeySerializer,
        parameters=[KEY_IN_PATH, WHOSE],
    )  # fmt: skip
    def get(self, request: Request, key: str) -> Response:
        """Say what became of the request under this key; changes nothing."""
        check_parameters(request, ("principal",))
        whose = request.query_params.get("principal", self.principal.name)
        check_words(key=key, principal=whose)
        whereabouts: dict[str, Any] = {"tenant": self.principal.tenant, "principal": whose, "key": key}
        if idempotency.is_in_flight(**whereabouts):
            return Response(describe(key=key, principal=whose))
        record = idempotency.look(**whereabouts)
        if record is None:
            raise NotFound(f"Nothing is known of the key {write_key(key)} of {whose}.")
        return Response(describe(key=key, principal=whose, record=record))


class ReleaseView(TenantView):
    """POST /v1/idempotency-keys/{key}/release."""

    scopes = {"POST": Scope.CONTROL}

    @extend_schema(
        operation_id="release_idempotency_key", summary="Release an Idempotency-Key", request=ReleaseSerializer,
        responses=IdempotencyKeySerializer, parameters=[KEY_IN_PATH, IDEMPOTENCY_KEY],
    )  # fmt: skip
    def post(self, request: Request, key: str) -> HttpResponseBase:
        """Forget the stored answer: the next request with this key is a first one. What the first did stays done."""
        serializer = ReleaseSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        whose = serializer.validated_data.get("principal", self.principal.name)
        check_words(key=key, principal=whose)

        def work() -> tuple[int, Any, dict[str, str]]:
            record = idempotency.release(
                tenant=self.principal.tenant,
                principal=whose,
                key=key,
                by=self.principal.name,
                reason=serializer.validated_data["reason"],
            )
            return 200, describe(key=key, principal=whose, record=record), {}

        return answer_once(request, work)


def check_words(*, key: str, principal: str) -> None:
    """Refuse what can be no key and no name, before the database is asked."""
    if not re.fullmatch(f"[ -~]{{1,{LONGEST_KEY}}}", key):
        raise NotFound(f"There is no such key: a key is 1 to {LONGEST_KEY} printable ASCII characters.")
    if not 1 <= len(principal) <= LONGEST_PRINCIPAL or "\x00" in principal:
        raise InvalidRequest(f"principal: 1 to {LONGEST_PRINCIPAL} characters, none of them NUL.")


def describe(*, key: str, principal: str, record: IdempotencyRecord | None = None) -> dict[str, Any]:
    """A key as the API shows it; without a record it is in flight."""
    blank = dict.fromkeys(IdempotencyKeySerializer().fields)
    known: dict[str, Any] = {"key": key, "principal": principal, "state": "in_flight"}
    if record is not None:
        copied = ("origin", "route", "fingerprint", "response_status", "created_at", "expires_at", "released_at")
        known |= {name: getattr(record, name) for name in copied}
        known |= {
            "state": idempotency.state_of(record),
            "location": record.response_headers.get("Location"),
            "released_by": record.released_by or None,
            "release_reason": record.release_reason or None,
        }
    return dict(IdempotencyKeySerializer(cast("Any", blank | known)).data)
