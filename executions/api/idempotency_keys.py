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
from executions.api.authentication import Principal
from executions.api.parameters import check_parameters, check_text, text_schema
from executions.api.serializers import StrictSerializer
from executions.api.tenant_view import IDEMPOTENCY_KEY, TenantView, answer_once
from executions.errors import NotFound
from executions.idempotency import LONGEST_KEY, LONGEST_REASON, RELEASES_SHOWN, write_key
from executions.models import IdempotencyRecord, Scope

STATES = ["in_flight", "completed", "expired", "released"]
LONGEST_PRINCIPAL = 128
KEY_IN_PATH = OpenApiParameter(
    "key", {"type": "string", "pattern": f"^[ -~]{{1,{LONGEST_KEY}}}$"}, OpenApiParameter.PATH,
    description="The key without its quotes, percent-encoded; `sha256:…` where the request brought none.",
)  # fmt: skip
WHOSE = OpenApiParameter(
    "principal",
    text_schema(LONGEST_PRINCIPAL),
    OpenApiParameter.QUERY,
    description="Whose key; the caller's own unless said.",
)  # fmt: skip


class ReleasedSerializer(serializers.ModelSerializer[IdempotencyRecord]):
    """One time a key was released: which request it had stood for, by whom and why."""

    location = serializers.SerializerMethodField()

    class Meta:
        model = IdempotencyRecord
        fields = ["route", "location", "created_at", "released_at", "released_by", "release_reason"]
        extra_kwargs = {
            "released_at": {"allow_null": False, "required": True},
            "released_by": {"required": True},
            "release_reason": {"required": True},
        }

    def get_location(self, record: IdempotencyRecord) -> str | None:
        """What the request made, e.g. a run."""
        return record.response_headers.get("Location")


class IdempotencyKeySerializer(serializers.Serializer[IdempotencyRecord]):
    """A key, and the request it stands for; while that is in flight only key, principal and state are known."""

    key = serializers.CharField()
    principal = serializers.CharField()
    state = serializers.ChoiceField(choices=STATES)
    origin = serializers.ChoiceField(choices=["header", "content"], allow_null=True)
    route = serializers.CharField(allow_null=True, help_text="Method and path.")
    fingerprint = serializers.CharField(allow_null=True, help_text="Of the caller's own keys only.")
    response_status = serializers.IntegerField(allow_null=True)
    location = serializers.CharField(allow_null=True, help_text="What the request made, e.g. a run.")
    created_at = serializers.DateTimeField(allow_null=True)
    expires_at = serializers.DateTimeField(allow_null=True, help_text="Null for a released key.")
    releases = ReleasedSerializer(
        many=True, help_text=f"The last one first, {RELEASES_SHOWN} at most; kept for 90 days."
    )


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
        is_in_flight = idempotency.is_in_flight(**whereabouts)
        record = None if is_in_flight else idempotency.look(**whereabouts)
        if record is None and not is_in_flight:
            raise NotFound(f"Nothing is known of the key {write_key(key)} of {whose}.")
        return Response(describe(self.principal, key=key, whose=whose, record=record))


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
            return 200, describe(self.principal, key=key, whose=whose, record=record), {}

        return answer_once(request, work)


def check_words(*, key: str, principal: str) -> None:
    """Refuse what can be no key and no name, before the database is asked."""
    if not re.fullmatch(f"[ -~]{{1,{LONGEST_KEY}}}", key):
        raise NotFound(f"There is no such key: a key is 1 to {LONGEST_KEY} printable ASCII characters.")
    check_text("principal", principal, longest=LONGEST_PRINCIPAL)


def describe(caller: Principal, *, key: str, whose: str, record: IdempotencyRecord | None) -> dict[str, Any]:
    """A key as the API shows it to the caller; without a record it is in flight."""
    known: dict[str, Any] = dict.fromkeys(IdempotencyKeySerializer().fields)
    known |= {"key": key, "principal": whose, "state": "in_flight"}
    known["releases"] = idempotency.releases(tenant=caller.tenant, principal=whose, key=key)
    if record is not None:
        copied = ("origin", "route", "response_status", "created_at", "expires_at")
        known |= {name: getattr(record, name) for name in copied}
        known |= {"state": idempotency.state_of(record), "location": record.response_headers.get("Location")}
        known["fingerprint"] = record.fingerprint if whose == caller.name else None
        known["expires_at"] = None if record.released_at else record.expires_at
    return dict(IdempotencyKeySerializer(cast("Any", known)).data)
