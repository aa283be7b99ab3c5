"""Capability tokens over HTTP: issue, verify, attenuate, revoke. The rules: docs/reference/capability-tokens.md.

An answer that holds a token is never stored: an Idempotency-Key is not read there, and a repeat makes another token.
"""

from __future__ import annotations

import re
from typing import Any

from django.http import HttpResponseBase
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from executions.actions import captokens, denials
from executions.actions.captokens import Issued
from executions.api.fields import JSONObjectField, ShortListField
from executions.api.headers import sends
from executions.api.preview_serializers import CapabilityValidationSerializer
from executions.api.serializers import StrictSerializer
from executions.api.tenant_view import IDEMPOTENCY_KEY, TenantView, answer_once
from executions.argument_limits import MOST_LIMITS, BadLimits, check_limits
from executions.capabilities import LONGEST_LIFETIME, LONGEST_WORD, CapabilityValidation
from executions.captokens import LONGEST_TOKEN
from executions.errors import CapabilityRefused, NoSigningKey, NotFound
from executions.models import RevokedToken, Scope
from executions.plan_parts import LONGEST_TITLE

MOST_WORDS = 100
LONGEST_REASON = 500
WORD = rf"[!-~]{{1,{LONGEST_WORD}}}"
SUBJECT = rf"[!-~]([ -~]{{0,{LONGEST_WORD - 2}}}[!-~])?"
SHOWN_ONCE = {"Cache-Control": "no-store"}
NOT_STORED = "The answer holds the token, this once: an Idempotency-Key is not read, and a repeat makes another token."
TOKEN_ID = OpenApiParameter(
    "token_id", {"type": "string", "pattern": f"^[ -~]{{1,{LONGEST_WORD}}}$"}, OpenApiParameter.PATH,
    description="The token's jti, percent-encoded.",
)  # fmt: skip


class WordField(serializers.RegexField):
    """A text of some characters only; in a list, too, no number is taken for one."""

    def to_internal_value(self, data: Any) -> str:
        """Refuse what is no string."""
        if not isinstance(data, str):
            raise serializers.ValidationError("Send a string.", code="wrong_type")
        return super().to_internal_value(data)


def _word(pattern: str, what: str) -> WordField:
    sentence = f"Send {what}: 1 to {LONGEST_WORD} printable ASCII characters."
    return WordField(rf"^{pattern}\Z", trim_whitespace=False, error_messages={"invalid": sentence})


def _words(**options: Any) -> ShortListField:
    return ShortListField(child=_word(WORD, "a word without blanks"), max_length=MOST_WORDS, **options)


@extend_schema_field(
    {
        "type": "object",
        "maxProperties": MOST_LIMITS,
        "propertyNames": {"minLength": 1, "maxLength": LONGEST_TITLE},
        "additionalProperties": {"type": ["object", "boolean"]},
    }
)
class LimitsField(JSONObjectField):
    """Schemas of arguments by tool id."""

    def to_internal_value(self, data: Any) -> Any:
        """Refuse what limits nothing."""
        limits = super().to_internal_value(data)
        try:
            check_limits(limits)
        except BadLimits as bad:
            wrong = serializers.ErrorDetail(bad.sentence, "invalid_limit")
            raise serializers.ValidationError(wrong if bad.tool is None else {bad.tool: wrong}) from None
        return limits


class IssueSerializer(StrictSerializer):
    """What a new token allows, and to whom."""

    subject = _word(SUBJECT, "a name")
    capabilities = _words(min_length=1, help_text="`payments:*` covers all that begin with `payments:`.")
    tools = _words(required=False, allow_null=True, help_text="Tools it is limited to; null: not limited.")
    limits = LimitsField(required=False, help_text="Schemas that the arguments of tools must fit, by tool.")
    lifetime = serializers.IntegerField(
        default=LONGEST_LIFETIME, min_value=1, max_value=LONGEST_LIFETIME, help_text="Seconds until it expires."
    )


class AttenuateSerializer(StrictSerializer):
    """A token, and what is to be left of it; what is not said stays as it is."""

    token = serializers.CharField(max_length=LONGEST_TOKEN, write_only=True)
    capabilities = _words(required=False, min_length=1, help_text="Each covered by one that the token has.")
    tools = _words(required=False, help_text="Some of the token's; any where it is not limited.")
    limits = LimitsField(required=False, help_text="On top of those the token has.")
    lifetime = serializers.IntegerField(
        required=False, min_value=1, max_value=LONGEST_LIFETIME, help_text="Seconds; it ends no later than the token."
    )


class VerifySerializer(StrictSerializer):
    """A token, and what it should cover."""

    token = serializers.CharField(max_length=LONGEST_TOKEN, write_only=True)
    required_capabilities = _words(default=list)


class RevocationSerializer(StrictSerializer):
    """Why."""

    reason = serializers.CharField(min_length=3, max_length=LONGEST_REASON, help_text="For the audit log.")


class IssuedSerializer(serializers.Serializer[Any]):
    """A new token, and what it allows."""

    token = serializers.CharField(help_text="For `X-Capability-Token`; no other answer shows it.")
    token_id = serializers.CharField(help_text="Its jti, by which it is revoked.")
    subject = serializers.CharField()
    capabilities = serializers.ListField(child=serializers.CharField())
    tools = serializers.ListField(child=serializers.CharField(), allow_null=True)
    limits = JSONObjectField()
    parents = serializers.ListField(child=serializers.CharField(), help_text="The tokens it was made from.")
    expires_at = serializers.DateTimeField()


class RevokedTokenSerializer(serializers.ModelSerializer[RevokedToken]):
    """A token that is refused."""

    class Meta:
        model = RevokedToken
        fields = ["token_id", "revoked_at", "revoked_by", "reason"]


class IssueView(TenantView):
    """POST /v1/captokens."""

    scopes = {"POST": Scope.ADMIN}
    refusals = {"POST": (NoSigningKey,)}

    @extend_schema(
        operation_id="issue_captoken", summary="Issue a capability token", description=NOT_STORED,
        request=IssueSerializer, responses={201: IssuedSerializer}, parameters=[sends("Cache-Control", 201)],
    )  # fmt: skip
    def post(self, request: Request) -> HttpResponseBase:
        """Sign a token of the caller's tenant; only where this service holds a key to sign with."""
        serializer = IssueSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        return _shown(
            captokens.issue(tenant=self.principal.tenant, by=self.principal.name, **serializer.validated_data)
        )


class AttenuateView(TenantView):
    """POST /v1/captokens/attenuate."""

    scopes = {"POST": Scope.EXECUTE}
    refusals = {"POST": (NoSigningKey, CapabilityRefused)}

    @extend_schema(
        operation_id="attenuate_captoken", summary="Make a capability token narrower", description=NOT_STORED,
        request=AttenuateSerializer, responses={201: IssuedSerializer}, parameters=[sends("Cache-Control", 201)],
    )  # fmt: skip
    def post(self, request: Request) -> HttpResponseBase:
        """Sign a token that allows less than the presented one, to be handed on; it is revoked with that one."""
        serializer = AttenuateSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        caller = self.principal
        with denials.recorded(tenant=caller.tenant, by=caller.name):
            return _shown(captokens.attenuate(tenant=caller.tenant, by=caller.name, **serializer.validated_data))


class VerifyView(TenantView):
    """POST /v1/captokens/verify."""

    scopes = {"POST": Scope.EXECUTE}

    @extend_schema(
        operation_id="verify_captoken", summary="Check a capability token", request=VerifySerializer,
        responses=CapabilityValidationSerializer,
    )  # fmt: skip
    def post(self, request: Request) -> Response:
        """Say what the token allows the caller's tenant now, or why nothing; a refusal is written into the audit log."""
        serializer = VerifySerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        wanted, caller = serializer.validated_data, self.principal
        found = captokens.check(
            wanted["token"], tenant=caller.tenant, required=wanted["required_capabilities"], now=timezone.now()
        )
        if not found.valid:
            facts = {"reason": found.reason, "token_id": found.token_id}
            denials.record(tenant=caller.tenant, by=caller.name, message=found.error or "", facts=facts)
        return Response(found.to_json())


class RevokeView(TenantView):
    """POST /v1/captokens/{token_id}/revoke."""

    scopes = {"POST": Scope.ADMIN}

    @extend_schema(
        operation_id="revoke_captoken", summary="Revoke a capability token", request=RevocationSerializer,
        responses=RevokedTokenSerializer, parameters=[TOKEN_ID, IDEMPOTENCY_KEY],
    )  # fmt: skip
    def post(self, request: Request, token_id: str) -> HttpResponseBase:
        """Refuse the token, and those made from it, from now on; the runs it let in stop at their next check."""
        serializer = RevocationSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        if not re.fullmatch(f"[ -~]{{1,{LONGEST_WORD}}}", token_id):
            raise NotFound(f"There is no such token: its id is 1 to {LONGEST_WORD} printable ASCII characters.")

        def work() -> tuple[int, Any, dict[str, str]]:
            caller, reason = self.principal, serializer.validated_data["reason"]
            revoked = captokens.revoke(tenant=caller.tenant, token_id=token_id, by=caller.name, reason=reason)
            return 200, RevokedTokenSerializer(revoked).data, {}

        return answer_once(request, work)


def _shown(issued: Issued) -> Response:
    known = CapabilityValidation.of(issued.capability, now=timezone.now()).to_json()
    return Response(IssuedSerializer(known | {"token": issued.token}).data, status=201, headers=SHOWN_ONCE)
