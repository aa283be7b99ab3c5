"""What a capability token's claims allow: claims in, Capability or CapabilityDenied out. Pure.

The format, its rules and how keys are rotated: docs/reference/capability-tokens.md. Leans on joserfc for JWT claims
(RFC 7519). How a token's text is read and its signature checked: captokens.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from secrets import token_urlsafe
from typing import Any

from django.conf import settings
from joserfc import jwt
from joserfc.errors import ExpiredTokenError, InvalidClaimError, MissingClaimError
from joserfc.jwk import OKPKey

from executions.argument_limits import BadLimits, Limits, check_limits

ALGORITHM = "Ed25519"
LEEWAY = 5
LONGEST_LIFETIME = 300
MOST_NAMED = 20  # words in a sentence
LONGEST_WORD = 200
MOST_PARENTS = 8
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

    `code` is one of no_key_set, malformed, wrong_algorithm, unknown_key, bad_signature, refused_by_service, expired,
    not_yet_valid, lifetime_too_long, wrong_issuer, wrong_tenant, invalid_claim, revoked and missing_capability, which fills
    `missing`. `token_id` is known where the token's signature is good.
    """

    def __init__(self, code: str, message: str, missing: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.missing = tuple(missing)
        self.token_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Capability:
    """What a valid token allows; `tools` is None where the token restricts none.

    `limits` has schemas of arguments by tool id; `parents` the ids of the tokens this one was made from, the first one first.
    """

    token_id: str
    subject: str
    capabilities: frozenset[str]
    tools: frozenset[str] | None
    limits: Limits
    parents: tuple[str, ...]
    expires_at: datetime

    @property
    def lineage(self) -> tuple[str, ...]:
        """The ids whose revocation refuses this token."""
        return (self.token_id, *self.parents)

    def covers(self, needed: str) -> bool:
        """Whether one of the token's capabilities is the needed one or its wildcard."""
        return any(covers(held, needed) for held in self.capabilities)


@dataclass(frozen=True, kw_only=True)
class CapabilityValidation:
    """The outcome of a check as it is recorded on a run; `mode` is `token` or `development_without_token`.

    `reason` is the code of a denial, `error` its sentence.
    """

    valid: bool
    mode: str = "token"
    token_id: str | None = None
    subject: str | None = None
    capabilities: list[str] = field(default_factory=list)
    tools: list[str] | None = None
    limits: dict[str, Any] = field(default_factory=dict)
    parents: list[str] = field(default_factory=list)
    expires_at: datetime | None = None
    error: str | None = None
    reason: str | None = None
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def denied(cls, denied: CapabilityDenied) -> CapabilityValidation:
        """The record of a token that was refused."""
        return cls(valid=False, token_id=denied.token_id, error=denied.message, reason=denied.code)

    @classmethod
    def of(cls, capability: Capability | None, *, now: datetime) -> CapabilityValidation:
        """The record of a run let in by this capability, or by development without one."""
        if capability is None:
            return cls(valid=True, mode="development_without_token")
        return cls(
            valid=True,
            token_id=capability.token_id,
            subject=capability.subject,
            capabilities=sorted(capability.capabilities),
            tools=None if capability.tools is None else sorted(capability.tools),
            limits=dict(capability.limits),
            parents=list(capability.parents),
            expires_at=capability.expires_at,
            warnings=_warnings(capability, now),
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self) | {"expires_at": self.expires_at.isoformat() if self.expires_at else None}


def _warnings(capability: Capability, now: datetime) -> list[str]:
    left = (capability.expires_at - now).total_seconds()
    if left >= settings.CAPTOKENS_EXPIRY_WARNING:
        return []
    return [f"The capability token expires in {max(left, 0):.0f} s: submit before that, or with a fresh one."]


def granted(claims: Mapping[str, Any], *, tenant: str, required: Iterable[str], now: datetime) -> Capability:
    """What claims whose signature was found good allow a tenant now, once they are found to cover every required capability.

    Raises CapabilityDenied. The issuer is that of CAPTOKENS_ISSUER (empty: any). Whether it was revoked: captokens.py.
    """
    check_claims(claims, tenant=tenant, now=now)
    capability = Capability(
        token_id=claims["jti"],
        subject=claims["sub"],
        capabilities=frozenset(claims["cap"]),
        tools=frozenset(claims["tools"]) if claims.get("tools") is not None else None,
        limits=claims.get("limits") or {},
        parents=tuple(claims.get("parents") or ()),
        expires_at=datetime.fromtimestamp(claims["exp"], tz=UTC),
    )
    missing = sorted(needed for needed in set(required) if not capability.covers(needed))
    if missing:
        raise CapabilityDenied("missing_capability", f"The token does not grant {some(missing)}.", missing)
    return capability


def some(words: list[str]) -> str:
    """The words for a sentence, MOST_NAMED of them at most: a refusal is kept in the audit log."""
    more = len(words) - MOST_NAMED
    return ", ".join(words[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def covers(held: str, needed: str) -> bool:
    """Whether a held capability covers a needed one: `payments:*` covers all that begin with `payments:`.

    Only a trailing `:*` is a wildcard; `*`, `pay*` and `*:refund` are plain words.
    """
    return held == needed or (held.endswith(":*") and len(held) > 2 and needed.startswith(held[:-1]))


def claims_of(
    *,
    issuer: str,
    tenant: str,
    subject: str,
    capabilities: Iterable[str],
    tools: Iterable[str] | None = None,
    limits: Limits | None = None,
    parents: Iterable[str] = (),
    lifetime: int = LONGEST_LIFETIME,
    now: datetime,
) -> dict[str, Any]:
    """The claims of a new token; `lifetime` in seconds. Raises ValueError for one that is not 1 to 300."""
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
    return claims | ({"limits": dict(limits)} if limits else {}) | ({"parents": list(parents)} if parents else {})


def signed(claims: Mapping[str, Any], key: OKPKey) -> str:
    """The token with these claims, signed with a private key."""
    header = {"alg": ALGORITHM, "kid": key.kid or key.thumbprint()}
    return jwt.encode(header, dict(claims), key, algorithms=[ALGORITHM])


def issue(*, key: OKPKey, **facts: Any) -> str:
    """A signed token with the claims that `claims_of` makes of these facts. For those who have no CapTokens service."""
    return signed(claims_of(**facts), key)


def audience(tenant: str) -> str:
    """The `aud` claim of a tenant's tokens."""
    return f"tenant:{tenant}"


def check_claims(claims: Mapping[str, Any], *, tenant: str, now: datetime) -> None:
    """Hold claims against every rule of theirs. Raises CapabilityDenied, naming the claim."""
    needed: dict[str, jwt.ClaimsOption] = {name: {"essential": True} for name in CLAIMS}
    needed["aud"]["value"] = audience(tenant)
    needed["tid"]["value"] = tenant
    if settings.CAPTOKENS_ISSUER:
        needed["iss"]["value"] = settings.CAPTOKENS_ISSUER
    try:
        jwt.JWTClaimsRegistry(now=int(now.timestamp()), leeway=LEEWAY, **needed).validate(dict(claims))
    except ExpiredTokenError:
        raise CapabilityDenied("expired", "The token has expired: ask for a fresh one.") from None
    except (MissingClaimError, InvalidClaimError) as error:
        code = CLAIM_CODES.get(error.claim, "invalid_claim")
        raise CapabilityDenied(code, f"The token's claim {error.claim} is missing or wrong.") from None
    _check_bounds(claims)
    _check_words(claims)


def is_word(value: Any) -> bool:
    """Whether this can be the id of a token, a subject, a capability or a tool."""
    return isinstance(value, str) and 1 <= len(value) <= LONGEST_WORD and value.isprintable()


def _check_bounds(claims: Mapping[str, Any]) -> None:
    if not isinstance(claims["tid"], str):  # a list that contains the tenant has passed until here
        raise CapabilityDenied("wrong_tenant", "The token's claim tid names one tenant.")
    if not all(is_word(claims[name]) for name in ("sub", "jti")):
        raise CapabilityDenied("invalid_claim", f"sub and jti have 1 to {LONGEST_WORD} printable characters.")
    if not 0 < claims["exp"] - claims["iat"] <= LONGEST_LIFETIME:
        raise CapabilityDenied("lifetime_too_long", f"A token lives at most {LONGEST_LIFETIME} seconds (exp - iat).")


def _check_words(claims: Mapping[str, Any]) -> None:
    for name in ("cap", "tools", "parents"):
        words = claims[name] if name == "cap" or claims.get(name) is not None else []
        if not isinstance(words, list) or not all(map(is_word, words)):
            raise CapabilityDenied("invalid_claim", f"{name} is a list of words of 1 to {LONGEST_WORD} characters.")
    if len(claims.get("parents") or ()) > MOST_PARENTS:
        raise CapabilityDenied("invalid_claim", f"parents names at most {MOST_PARENTS} tokens.")
    try:
        check_limits(claims["limits"] if claims.get("limits") is not None else {})
    except BadLimits as bad:
        raise CapabilityDenied("invalid_claim", f"The token's claim limits cannot be used: {bad}") from None
