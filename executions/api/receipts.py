"""GET /v1/executions/{run_id}/receipt, and GET /v1/audit/keys, with which anybody checks it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from executions.actions import audit, receipts
from executions.api.jwks import KeySetSerializer
from executions.api.parameters import check_parameters
from executions.api.tenant_view import TenantView
from executions.api.views import find_run
from executions.errors import NotEnded, Unavailable
from executions.models import Scope
from executions.signing import RECEIPT, UnusableKey, public_jwk

logger = logging.getLogger(__name__)

BASE64 = "Base64 (RFC 4648, section 4)."


class SignatureSerializer(serializers.Serializer[Any]):
    """A signature in an envelope."""

    keyid = serializers.CharField(help_text="Thumbprint (RFC 7638) of the key, as in /v1/audit/keys.")
    sig = serializers.CharField(help_text=BASE64)


class EnvelopeSerializer(serializers.Serializer[Any]):
    """A DSSE envelope (https://github.com/secure-systems-lab/dsse) of something signed with Ed25519."""

    payloadType = serializers.ChoiceField(choices=[RECEIPT])  # noqa: N815  DSSE's word
    payload = serializers.CharField(help_text=f"Canonical JSON (RFC 8785). {BASE64}")
    signatures = SignatureSerializer(many=True)


class ReceiptView(TenantView):
    """GET /v1/executions/{run_id}/receipt."""

    scopes = {"GET": Scope.READ}
    refusals = {"GET": (NotEnded,)}

    @extend_schema(
        operation_id="get_receipt", summary="Get the signed receipt of an ended run", responses=EnvelopeSerializer
    )
    def get(self, request: Request, run_id: UUID) -> Response:
        """Return plan, capability, approvals and outcome, signed; docs/reference/audit.md shows how to check it alone."""
        check_parameters(request, ())
        with readable_keys():
            return Response(receipts.receipt(find_run(self.principal, run_id)))


class AuditKeysView(APIView):
    """GET /v1/audit/keys."""

    authentication_classes: list[Any] = []
    permission_classes: list[Any] = []
    throttle_classes: list[Any] = []

    @extend_schema(
        operation_id="list_audit_keys", summary="The public keys of receipts and audit checkpoints", auth=[],
        responses=KeySetSerializer,
    )  # fmt: skip
    def get(self, request: Request) -> Response:
        """Return the key set (JWKS)."""
        with readable_keys():
            return Response({"keys": [public_jwk(key) for key in audit.public_keys().values()]})


@contextmanager
def readable_keys() -> Iterator[None]:
    """Refuse the request, and tell the operator in the log, where the block finds a key that cannot be used."""
    try:
        yield
    except UnusableKey as error:
        logger.error("AUDIT_SIGNING_KEY_FILE or AUDIT_OLD_KEYS_FILE: %s", error)
        raise Unavailable(
            "The keys of the audit log cannot be used just now; whoever runs the service has to mend that."
        ) from None
