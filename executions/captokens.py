"""A capability token as it is presented: its text in, SignedToken out; and then what it allows here.

    signed = read(text, tenant="acme")                           outside of any transaction: it may ask for keys, or the service
    capability_of(signed, tenant=…, required=…, now=…)           its claims, and whether it was revoked

The rules: docs/reference/capability-tokens.md. Leans on joserfc for JWS (RFC 7515) and the algorithm name `Ed25519` (RFC 9864).
A raw token is never kept, logged or quoted.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.conf import settings
from django.utils import timezone
from joserfc import jwt
from joserfc.errors import BadSignatureError, JoseError
from joserfc.jwk import OKPKey
from joserfc.jws import JWSAlgModel, JWSRegistry

from executions import captokens_service
from executions.canonical_json import doubled_name
from executions.capabilities import ALGORITHM, Capability, CapabilityDenied, check_claims, granted, is_word
from executions.key_sets import is_configured, key_of
from executions.models import RevokedToken, Tenant

LONGEST_TOKEN = 8192
LONGEST_HEADER = 512  # bytes
ALGORITHMS = (ALGORITHM, "EdDSA")  # the older name (RFC 8037), which here never means Ed448
_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)")


@dataclass(frozen=True)
class SignedToken:
    """The claims of a token whose signature is good. What they are worth to a tenant now, `capability_of` says."""

    claims: Mapping[str, Any] = field(repr=False)


def read(token: str, *, tenant: str, required: Collection[str] = ()) -> SignedToken:
    """The claims of a token, its signature checked with the local keys, the CapTokens service, or both where both are set.

    The service is told which capabilities are `required`. Raises CapabilityDenied, and Unavailable where keys or service are
    needed and do not answer. May talk HTTP: call it outside of any transaction.
    """
    header, claims = _unverified(token)
    if is_configured() or not settings.CAPTOKENS_BASE_URL:
        _check_signature(token, header)
    if settings.CAPTOKENS_BASE_URL:
        check_claims(claims, tenant=tenant, now=timezone.now())
        claims = captokens_service.confirmed(token, claims, tenant=tenant, required=required)
    return SignedToken(claims)


def capability_of(signed: SignedToken, *, tenant: Tenant, required: Iterable[str], now: datetime) -> Capability:
    """What the token allows its tenant now. Raises CapabilityDenied, also where it or one it was made from was revoked."""
    try:
        capability = granted(signed.claims, tenant=tenant.identifier, required=required, now=now)
        if is_revoked(capability.lineage, tenant=tenant):
            raise CapabilityDenied("revoked", "The token was revoked: ask for a fresh one.")
    except CapabilityDenied as denied:
        denied.token_id = jti if is_word(jti := signed.claims.get("jti")) else None
        raise
    return capability


def is_revoked(token_ids: Iterable[str], *, tenant: Tenant) -> bool:
    """Whether one of these tokens of a tenant was revoked."""
    return RevokedToken.objects.filter(tenant=tenant, token_id__in=list(token_ids)).exists()


# -- the text


def _unverified(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims, as strictly read as they can be before anybody vouches for them."""
    if len(token) > LONGEST_TOKEN:
        raise CapabilityDenied("malformed", f"A token has at most {LONGEST_TOKEN} characters.")
    parts = _COMPACT.fullmatch(token)
    if parts is None:
        raise _malformed()
    header = _json_object(parts[1], longest=LONGEST_HEADER)
    _check_header(header)
    return header, _json_object(parts[2], longest=LONGEST_TOKEN)


def _check_header(header: Mapping[str, Any]) -> None:
    if "crit" in header:
        raise CapabilityDenied("malformed", "A token with critical header extensions is not accepted.")
    if not isinstance(header.get("alg"), str):
        raise _malformed()
    if header["alg"] not in ALGORITHMS:
        raise CapabilityDenied("wrong_algorithm", "A token is signed with Ed25519.")


def _json_object(part: str, *, longest: int) -> dict[str, Any]:
    try:
        text = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
        content = json.loads(text.decode()) if len(text) <= longest else None
        is_doubled = doubled_name(text) is not None
    except (ValueError, RecursionError):
        raise _malformed() from None
    if is_doubled:
        raise CapabilityDenied("malformed", "A token says each thing once: a name comes twice in an object of it.")
    if not isinstance(content, dict):
        raise _malformed()
    return content


def _malformed() -> CapabilityDenied:
    return CapabilityDenied("malformed", "This is not a token: a signed JWT in compact form is needed.")


# -- the signature


class _Registry(JWSRegistry):
    """Ed25519 and nothing else, by either of its names."""

    def get_alg(self, name: str) -> JWSAlgModel:
        return super().get_alg(ALGORITHM if name == "EdDSA" else name)


_registry = _Registry(algorithms=[ALGORITHM])


def _check_signature(token: str, header: Mapping[str, Any]) -> None:
    key = _key_for(header)
    try:
        jwt.decode(token, key, registry=_registry)
    except BadSignatureError:
        raise CapabilityDenied("bad_signature", "The token's signature is not valid.") from None
    except (JoseError, ValueError, TypeError, RecursionError):
        raise _malformed() from None


def _key_for(header: Mapping[str, Any]) -> OKPKey:
    kid = header.get("kid")
    key = key_of(kid) if isinstance(kid, str) else None
    if key is None:
        raise CapabilityDenied("unknown_key", "The token's key id is not in the key set.")
    return key
