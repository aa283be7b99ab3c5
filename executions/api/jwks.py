"""GET /.well-known/jwks.json: the public keys with which whoever holds a capability token of ours can check it."""

from __future__ import annotations

from django.http import HttpResponseBase
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from executions.api.headers import sends
from executions.captoken_keys import UnusableKey, key_set_file, published
from executions.errors import Unavailable

CACHED = 300  # seconds


class KeySerializer(serializers.Serializer[dict[str, str]]):
    """A public key (RFC 7517, RFC 8037)."""

    kty = serializers.ChoiceField(choices=["OKP"])
    crv = serializers.ChoiceField(choices=["Ed25519"])
    x = serializers.CharField(help_text="The key, base64url.")
    kid = serializers.CharField()
    use = serializers.ChoiceField(choices=["sig"])
    alg = serializers.CharField(help_text="Ed25519 (RFC 9864).")


class KeySetSerializer(serializers.Serializer[dict[str, str]]):
    """A JWK Set (RFC 7517)."""

    keys = KeySerializer(many=True)


class KeySetView(APIView):
    """GET /.well-known/jwks.json; needs no key."""

    authentication_classes = ()
    permission_classes = ()

    @extend_schema(
        operation_id="jwks", summary="Public keys of capability tokens", responses={200: KeySetSerializer}, auth=[],
        parameters=[sends("Cache-Control", 200)],
    )  # fmt: skip
    def get(self, request: Request) -> HttpResponseBase:
        """Return the Ed25519 keys of our key set; none where this service has none."""
        try:
            keys = published(key_set_file())
        except UnusableKey:
            raise Unavailable("The key set cannot be read just now.") from None
        return Response({"keys": keys}, headers={"Cache-Control": f"public, max-age={CACHED}"})
