"""A capability token, checked: token in, Capability or CapabilityDenied out.

The format, its rules and how keys are rotated: docs/reference/capability-tokens.md. Leans on joserfc for JWS (RFC
7515), JWT claims (RFC 7519) and the algorithm name `Ed25519` (RFC 9864). A raw token is never kept, logged or quoted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

from django.conf import settings
from joserfc import jwt
from joserfc.errors import (
    BadSignatureError,
    ExpiredTokenError,
    InvalidClaimError,
    JoseError,
    MissingClaimError,
    UnsupportedAlgorithmError,
)
from joserfc.jwk import OKPKey
from joserfc.jws import JWSAlgModel, JWSRegistry

ALGORITHM = "Ed25519"
LEEWAY = 5
LONGEST_LIFETIME = 300
LONGEST_TOKEN = 8192
LONGEST_WORD = 200
CLAIMS = ("iss", "sub", "aud", "tid", "jti", "iat", "exp", "cap")
CLAIM_CODES = {
    "iss": "wrong_issuer",
    "aud": "wrong_tenant",
    "tid": "wrong_tenant",
    "iat": "not_yet_valid",
    "nbf": "not_yet_valid",
}


class CapabilityDenied(Exception):
    """The capability token does not allow this.

    `code` is one of no_key_set, malformed, wrong_algorithm, unknown_key, bad_signature, expired, not_yet_valid,
    lifetime_too_long, wrong_issuer, wrong_tenant, invalid_claim and missing_capability, which fills `missing`.
    """

    def __init__(self, code: str, message: str, missing: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.missing = tuple(missing)


@dataclass(frozen=True, kw_only=True)
class Capability:
    """What a valid token allows; `tools` is None where the token restricts none."""

    token_id: str
    subject: str
    capabilities: frozenset[str]
    tools: frozenset[str] | None
    expires_at: datetime

    def covers(self, needed: str) -> bool:
        """Whether one of the token's capabilities is the needed one or its wildcard."""
        return any(covers(held, needed) for held in self.capabilities)


@dataclass(frozen=True, kw_only=True)
class CapabilityValidation:
    """The outcome of a check as it is recorded on a run; `mode` is `token` or `development_without_token`."""

    valid: bool
    mode: str = "token"
    token_id: str | None = None
    subject: str | None = None
    capabilities: list[str] = field(default_factory=list)
    tools: list[str] | None = None
    expires_at: datetime | None = None
    error: str | None = None

    @classmethod
    def of(cls, capability: Capability | None) -> CapabilityValidation:
        """The record of a run let in by this capability, or by development without one."""
        if capability is None:
            return cls(valid=True, mode="development_without_token")
        return cls(
            valid=True,
            token_id=capability.token_id,
            subject=capability.subject,
            capabilities=sorted(capability.capabilities),
            tools=None if capability.tools is None else sorted(capability.tools),
            expires_at=capability.expires_at,
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self) | {"expires_at": self.expires_at.isoformat() if self.expires_at else None}


def verify(token: str, *, tenant: str, required: Iterable[str], now: datetime) -> Capability:
    """What the token allows its tenant now, once it is found to cover every required capability.

    Raises CapabilityDenied. Keys come from CAPTOKENS_JWKS_FILE, the issuer from CAPTOKENS_ISSUER (empty: any).
    """
    claims = _signed_claims(token)
    _check_claims(claims, tenant=tenant, now=now)
    capability = Capability(
        token_id=claims["jti"],
        subject=claims["sub"],
        capabilities=frozenset(_words(claims, "cap")),
        tools=frozenset(_words(claims, "tools")) if claims.get("tools") is not None else None,
        expires_at=datetime.fromtimestamp(claims["exp"], tz=UTC),
    )
    missing = sorted(needed for needed in set(required) if not capability.covers(needed))
    if missing:
        raise CapabilityDenied("missing_capability", f"The token does not grant {', '.join(missing)}.", missing)
    return capability


def covers(held: str, needed: str) -> bool:
    """Whether a held capability covers a needed one: `payments:*` covers all that begin with `payments:`.

    Only a trailing `:*` is a wildcard; `*`, `pay*` and `*:refund` are plain words.
    """
    return held == needed or (held.endswith(":*") and len(held) > 2 and needed.startswith(held[:-1]))


def issue(
    *,
    key: OKPKey,
    issuer: str,
    tenant: str,
    subject: str,
    capabilities: Iterable[str],
    tools: Iterable[str] | None = None,
    lifetime: int = LONGEST_LIFETIME,
    now: datetime,
) -> str:
    """A signed token; `lifetime` in seconds, 300 at most. For development and trials: in production CapTokens signs."""
    if not 1 <= lifetime <= LONGEST_LIFETIME:
        raise ValueError(f"lifetime: give 1 to {LONGEST_LIFETIME} seconds")
    claims: dict[str, Any] = {
        "iss": issuer,
        "sub": subject,
        "aud": audience(tenant),
        "tid": tenant,
        "jti": token_urlsafe(16),
        "iat": int(now.timestamp()),
        "exp": int((now + timedelta(seconds=lifetime)).timestamp()),
        "cap": sorted(set(capabilities)),
    }
    if tools is not None:
        claims["tools"] = sorted(set(tools))
    return jwt.encode({"alg": ALGORITHM, "kid": key.thumbprint()}, claims, key, algorithms=[ALGORITHM])


def audience(tenant: str) -> str:
    """The `aud` claim of a tenant's tokens."""
    return f"tenant:{tenant}"


class KeySetFile:
    """The public Ed25519 keys of a JWKS file (RFC 7517) by `kid`; read again when the file has changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read_at: int | None = None
        self._keys: Mapping[str, OKPKey] = {}

    def key(self, kid: str) -> OKPKey | None:
        """The key, or None; a kid that is not there makes it look into the file once more."""
        try:
            if self.path.stat().st_mtime_ns != self._read_at or kid not in self._keys:
                self._read()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, JoseError) as error:
            self._read_at, self._keys = None, {}
            raise CapabilityDenied("no_key_set", f"CAPTOKENS_JWKS_FILE {self.path} cannot be used: {error}.") from error
        return self._keys.get(kid)

    def _read(self) -> None:
        read_at = self.path.stat().st_mtime_ns  # before reading: a change in between is then seen next time
        entries = json.loads(self.path.read_bytes())["keys"]
        keys = [public_key(entry) for entry in entries if is_signing_key(entry)]
        self._keys = {key.kid or key.thumbprint(): key for key in keys}
        self._read_at = read_at


def is_signing_key(entry: Mapping[str, Any]) -> bool:
    """Whether a JWK is an Ed25519 key for signatures."""
    return entry.get("kty") == "OKP" and entry.get("crv") == ALGORITHM and entry.get("use", "sig") == "sig"


def public_key(entry: Mapping[str, Any]) -> OKPKey:
    """The public half of a JWK, whatever else it says."""
    return OKPKey.import_key({name: entry[name] for name in ("kty", "crv", "x", "kid") if name in entry})


class _Registry(JWSRegistry):
    """Ed25519 and nothing else; older issuers call it `EdDSA` (RFC 8037), which here never means Ed448."""

    def get_alg(self, name: str) -> JWSAlgModel:
        return super().get_alg(ALGORITHM if name == "EdDSA" else name)


_registry = _Registry(algorithms=[ALGORITHM])
_key_set_file = lru_cache(maxsize=4)(KeySetFile)


def _signed_claims(token: str) -> dict[str, Any]:
    if settings.CAPTOKENS_JWKS_FILE is None:
        raise CapabilityDenied("no_key_set", "No keys to check a token with: set CAPTOKENS_JWKS_FILE.")
    if len(token) > LONGEST_TOKEN:
        raise CapabilityDenied("malformed", f"A token has at most {LONGEST_TOKEN} characters.")
    keys = _key_set_file(Path(settings.CAPTOKENS_JWKS_FILE))
    try:
        return jwt.decode(token, lambda unverified: _key_for(unverified.headers(), keys), registry=_registry).claims
    except UnsupportedAlgorithmError:
        raise CapabilityDenied("wrong_algorithm", "A token is signed with Ed25519.") from None
    except BadSignatureError:
        raise CapabilityDenied("bad_signature", "The token's signature is not valid.") from None
    except (JoseError, ValueError, TypeError, RecursionError):
        raise CapabilityDenied("malformed", "This is not a token: a signed JWT in compact form is needed.") from None


def _key_for(header: Mapping[str, Any], keys: KeySetFile) -> OKPKey:
    if "crit" in header:
        raise CapabilityDenied("malformed", "A token with critical header extensions is not accepted.")
    kid = header.get("kid")
    key = keys.key(kid) if isinstance(kid, str) else None
    if key is None:
        raise CapabilityDenied("unknown_key", "The token's key id is not in the key set.")
    return key


def _check_claims(claims: dict[str, Any], *, tenant: str, now: datetime) -> None:
    needed: dict[str, jwt.ClaimsOption] = {name: {"essential": True} for name in CLAIMS}
    needed["aud"]["value"] = audience(tenant)
    needed["tid"]["value"] = tenant
    if settings.CAPTOKENS_ISSUER:
        needed["iss"]["value"] = settings.CAPTOKENS_ISSUER
    try:
        jwt.JWTClaimsRegistry(now=int(now.timestamp()), leeway=LEEWAY, **needed).validate(claims)
    except ExpiredTokenError:
        raise CapabilityDenied("expired", "The token has expired: ask for a fresh one.") from None
    except (MissingClaimError, InvalidClaimError) as error:
        code = CLAIM_CODES.get(error.claim, "invalid_claim")
        raise CapabilityDenied(code, f"The token's claim {error.claim} is missing or wrong.") from None
    _check_limits(claims)


def _check_limits(claims: dict[str, Any]) -> None:
    if not isinstance(claims["tid"], str):  # a list that contains the tenant has passed until here
        raise CapabilityDenied("wrong_tenant", "The token's claim tid names one tenant.")
    if not all(_is_word(claims[name]) for name in ("sub", "jti")):
        raise CapabilityDenied("invalid_claim", f"sub and jti have 1 to {LONGEST_WORD} printable characters.")
    if not 0 < claims["exp"] - claims["iat"] <= LONGEST_LIFETIME:
        raise CapabilityDenied("lifetime_too_long", f"A token lives at most {LONGEST_LIFETIME} seconds (exp - iat).")


def _words(claims: Mapping[str, Any], name: str) -> list[str]:
    words = claims[name]
    if not isinstance(words, list) or not all(_is_word(word) for word in words):
        raise CapabilityDenied("invalid_claim", f"{name} is a list of words of 1 to {LONGEST_WORD} characters.")
    return words


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= LONGEST_WORD and value.isprintable()
