"""API keys over HTTP: list, make, rotate, revoke; for keys with the scope `admin`. The rules: docs/reference/api-keys.md.

A key's secret is in one answer only. The answer that is stored under an Idempotency-Key has null in its place: a repeat makes no
second key, and gets no secret.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

from django.db.models import QuerySet
from django.http import HttpResponseBase
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request

from executions.actions.tenants import (
    DEFAULT_OVERLAP,
    LONGEST_OVERLAP,
    create_api_key,
    revoke_api_key,
    rotate_api_key,
)
from executions.api.fields import ShortListField
from executions.api.filters import Exactly
from executions.api.headers import sends
from executions.api.lists import ListView, described
from executions.api.serializers import StrictSerializer
from executions.api.sparse import SparseSerializer
from executions.api.tenant_view import IDEMPOTENCY_KEY, TenantView, answer_once
from executions.errors import Conflict, Forbidden, NotFound
from executions.models import ApiKey, Scope, Tenant

SHORTEST_LIFE, LONGEST_LIFE = 60, 315_360_000  # seconds; ten years
LONGEST_PRINCIPAL = 128
LONGEST_NAME = 150
LONGEST_REASON = 500
SHOWN_ONCE = {"Cache-Control": "no-store"}
Make = Callable[[], tuple[ApiKey, str]]


class ApiKeySerializer(SparseSerializer):
    """An API key, without its secret."""

    needs = {"links": ("pk",)}

    principal = serializers.CharField(help_text="Who calls, as written on runs and events.")
    user = serializers.CharField(
        source="user.username", allow_null=True, help_text="The person whose key it is; null for a service's."
    )
    scopes = serializers.ListField(child=serializers.ChoiceField(choices=Scope.choices))
    prefix = serializers.CharField(help_text="How the key begins, to tell it by.")
    created_by = serializers.CharField(help_text="The principal or the person who made it.")
    replaces = serializers.UUIDField(source="replaces_id", allow_null=True, help_text="The key it was rotated from.")
    revoked_by = serializers.CharField(help_text="Empty for a key that is not revoked.")
    links = serializers.SerializerMethodField()

    class Meta:
        model = ApiKey
        fields = [
            "id", "principal", "user", "scopes", "prefix", "created_at", "created_by", "expires_at", "last_used_at",
            "replaces", "revoked_at", "revoked_by", "links",
        ]  # fmt: skip

    def get_links(self, key: ApiKey) -> dict[str, str]:
        """Where to go from here."""
        return {verb: f"/v1/api-keys/{key.pk}/{verb}" for verb in ("rotate", "revoke")}


class MadeApiKeySerializer(ApiKeySerializer):
    """A new API key with its secret, which no other answer shows."""

    secret = serializers.CharField(allow_null=True, help_text="The key itself. Null in the answer to a repeat.")

    class Meta(ApiKeySerializer.Meta):
        fields = [*ApiKeySerializer.Meta.fields, "secret"]


class NewApiKeySerializer(StrictSerializer):
    """What a new key is for. It belongs to whom the caller's key belongs to."""

    principal = serializers.CharField(max_length=LONGEST_PRINCIPAL, help_text="Who will call with it.")
    scopes = ShortListField(
        child=serializers.ChoiceField(choices=Scope.choices), min_length=1, max_length=len(Scope),
        help_text="Some of those the caller's key has.",
    )  # fmt: skip
    lifetime = serializers.IntegerField(
        required=False, allow_null=True, min_value=SHORTEST_LIFE, max_value=LONGEST_LIFE,
        help_text="Seconds until it expires; unless given, as many as the caller's key was made for, or forever like it.",
    )  # fmt: skip


class ApiKeyRotationSerializer(StrictSerializer):
    """How long both keys are good."""

    overlap = serializers.IntegerField(
        default=int(DEFAULT_OVERLAP.total_seconds()), min_value=0, max_value=int(LONGEST_OVERLAP.total_seconds()),
        help_text="Seconds until the old key expires, never later than it would have; 0 to end it now.",
    )  # fmt: skip


class ApiKeyRevocationSerializer(StrictSerializer):
    """Why, for the audit log."""

    reason = serializers.CharField(required=False, default="", max_length=LONGEST_REASON)


@described(operation_id="list_api_keys", summary="List API keys, newest first")
class ApiKeyListView(ListView):
    """GET and POST /v1/api-keys."""

    scopes = {"GET": Scope.ADMIN, "POST": Scope.ADMIN}
    refusals = {"POST": (Forbidden,)}
    serializer_class = ApiKeySerializer
    queryset = ApiKey.objects.none()
    filters = (
        Exactly("principal", "principal", "Of exactly this principal.", longest=LONGEST_PRINCIPAL),
        Exactly("created_by", "created_by", "Made by this principal or person.", longest=LONGEST_NAME),
    )

    def rows(self) -> QuerySet[ApiKey]:
        """The tenant's keys, also those that are revoked or expired."""
        return ApiKey.objects.filter(tenant=self.principal.tenant)

    @extend_schema(
        operation_id="create_api_key", summary="Make an API key", request=NewApiKeySerializer,
        responses={201: MadeApiKeySerializer}, parameters=[IDEMPOTENCY_KEY, sends("Cache-Control", 201)],
        description="The answer holds the key itself as `secret`, this once: a repeat under the same Idempotency-Key has null.",
    )  # fmt: skip
    def post(self, request: Request) -> HttpResponseBase:
        """Make a key that may do no more, and lives no longer, than the caller's own."""
        serializer = NewApiKeySerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        wanted, caller = serializer.validated_data, self.principal
        own = own_key(request)
        seconds = wanted.get("lifetime")
        lifetime = own.lifetime if seconds is None else timedelta(seconds=seconds)
        check_may_give(own, scopes=wanted["scopes"], lifetime=lifetime)

        def make() -> tuple[ApiKey, str]:
            return create_api_key(
                tenant=caller.tenant, user=caller.user, by=caller.name, principal=wanted["principal"], scopes=wanted["scopes"],
                expires_at=None if lifetime is None else timezone.now() + lifetime,
            )  # fmt: skip

        return shown_once(request, make)


class RotateView(TenantView):
    """POST /v1/api-keys/{key_id}/rotate."""

    scopes = {"POST": Scope.ADMIN}
    refusals = {"POST": (Conflict, Forbidden)}

    @extend_schema(
        operation_id="rotate_api_key", summary="Rotate an API key", request=ApiKeyRotationSerializer,
        responses={201: MadeApiKeySerializer}, parameters=[IDEMPOTENCY_KEY, sends("Cache-Control", 201)],
        description=(
            "Make the key's successor: the same principal, person and scopes, and as long a life. The old key expires after "
            "`overlap`. The answer holds the new key as `secret`, this once."
        ),
    )  # fmt: skip
    def post(self, request: Request, key_id: UUID) -> HttpResponseBase:
        """Replace a key that may do no more than the caller's own."""
        serializer = ApiKeyRotationSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        overlap = timedelta(seconds=serializer.validated_data["overlap"])

        def make() -> tuple[ApiKey, str]:
            key, own = find_key(self.principal.tenant, key_id), own_key(request)
            check_same_owner(own, key)
            check_may_give(own, scopes=key.scopes, lifetime=key.lifetime)
            return rotate_api_key(key, by=self.principal.name, overlap=overlap)

        return shown_once(request, make)


class RevokeView(TenantView):
    """POST /v1/api-keys/{key_id}/revoke."""

    scopes = {"POST": Scope.ADMIN}

    @extend_schema(
        operation_id="revoke_api_key", summary="Revoke an API key", request=ApiKeyRevocationSerializer,
        responses=ApiKeySerializer, parameters=[IDEMPOTENCY_KEY],
        description="The next request that brings the key is refused. A key that is revoked already stays as it is.",
    )  # fmt: skip
    def post(self, request: Request, key_id: UUID) -> HttpResponseBase:
        """Refuse any key of the tenant from now on, also the caller's own."""
        serializer = ApiKeyRevocationSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)

        def work() -> tuple[int, Any, dict[str, str]]:
            tenant = self.principal.tenant
            key = find_key(tenant, key_id)
            revoke_api_key(key, by=self.principal.name, reason=serializer.validated_data["reason"])
            return 200, ApiKeySerializer(find_key(tenant, key_id)).data, {}

        return answer_once(request, work)


def shown_once(request: Request, make: Make) -> HttpResponseBase:
    """Answer with the key that `make` makes; its secret is put into this one answer after the other has been stored."""
    secrets: list[str] = []

    def work() -> tuple[int, Any, dict[str, str]]:
        key, secret = make()
        secrets.append(secret)
        return 201, {**ApiKeySerializer(key).data, "secret": None}, SHOWN_ONCE

    answer: Any = answer_once(request, work)
    if "Idempotency-Replayed" not in answer.headers:
        answer.content = JSONRenderer().render({**json.loads(answer.content), "secret": secrets[-1]})
    return cast("HttpResponseBase", answer)


def own_key(request: Request) -> ApiKey:
    """The key the caller came with."""
    return cast("ApiKey", request.auth)


def check_may_give(own: ApiKey, *, scopes: Collection[str], lifetime: timedelta | None) -> None:
    """Raise Forbidden for a scope the caller's key has not, and for a longer life than it was made for."""
    lacking = sorted(set(scopes) - set(own.scopes))
    if lacking:
        raise Forbidden(f"scopes: this key has not the scope {lacking[0]!r}, so that it cannot give it.")
    if own.lifetime is not None and (lifetime is None or lifetime > own.lifetime):
        longest = int(own.lifetime.total_seconds())
        raise Forbidden(f"lifetime: this key was made for {longest} seconds; it makes none that lives longer.")


def check_same_owner(own: ApiKey, key: ApiKey) -> None:
    """Raise Forbidden where the secret would come into other hands: of another person, or of a service instead of a person."""
    if own.user_id != key.user_id:
        sentence = "This is the key of a person; only a key of the same person can rotate it."
        raise Forbidden(
            sentence if key.user_id else "This is the key of a service; the key of a person cannot rotate it."
        )


def find_key(tenant: Tenant, key_id: UUID) -> ApiKey:
    """Return a key of the tenant. Raises NotFound; another tenant's does not exist."""
    key = ApiKey.objects.filter(tenant=tenant, pk=key_id).select_related("user").first()
    if key is None:
        raise NotFound(f"There is no API key {key_id}.")
    return key
