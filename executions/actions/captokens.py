"""Capability tokens, as people and programs ask for them: present, check, issue, attenuate, revoke.

No token is kept: who loses the answer asks for another. What reads a token may talk HTTP, and must be outside a transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from executions import audit, captoken_keys
from executions.actions import withdrawals
from executions.admission import refusal_of
from executions.argument_limits import Limits, narrowed
from executions.capabilities import (
    LONGEST_LIFETIME,
    MOST_PARENTS,
    Capability,
    CapabilityDenied,
    CapabilityValidation,
    claims_of,
    granted,
    is_word,
    signed,
)
from executions.captokens import LONGEST_TOKEN, SignedToken, capability_of, read
from executions.errors import CapabilityRefused, InvalidRequest, NoSigningKey
from executions.models import Plan, RevokedToken, Tenant

ISSUER = "captokens"  # where CAPTOKENS_ISSUER names none


@dataclass(frozen=True, kw_only=True)
class Issued:
    """A token, and what it allows."""

    token: str = field(repr=False)
    capability: Capability


def present(
    token: str | None, *, tenant: Tenant, document: Any = None, plan_hash: str | None = None
) -> SignedToken | None:
    """Read the token of a submission; None where there is none. Raises CapabilityRefused or Unavailable."""
    if not token:
        return None
    required = _required(tenant, document, plan_hash) if settings.CAPTOKENS_BASE_URL else ()
    try:
        return read(token, tenant=tenant.identifier, required=required)
    except CapabilityDenied as denied:
        raise refusal_of(denied) from None


def check(token: str, *, tenant: Tenant, required: Collection[str], now: datetime) -> CapabilityValidation:
    """Say whether a token is good for this tenant and covers these capabilities. Raises Unavailable."""
    try:
        capability = capability_of(
            read(token, tenant=tenant.identifier, required=required), tenant=tenant, required=required, now=now
        )
    except CapabilityDenied as denied:
        return CapabilityValidation.denied(denied)
    return CapabilityValidation.of(capability, now=now)


def issue(
    *,
    tenant: Tenant,
    by: str,
    subject: str,
    capabilities: Iterable[str],
    tools: Iterable[str] | None = None,
    limits: Limits | None = None,
    lifetime: int = LONGEST_LIFETIME,
) -> Issued:
    """Sign a token for a tenant. Raises NoSigningKey, and InvalidRequest for one that would be too long."""
    facts = {"subject": subject, "capabilities": capabilities, "tools": tools, "limits": limits, "lifetime": lifetime}
    return _issue("capability_token.issued", tenant=tenant, by=by, now=timezone.now(), facts=facts)


def attenuate(
    token: str,
    *,
    tenant: Tenant,
    by: str,
    capabilities: Collection[str] | None = None,
    tools: Collection[str] | None = None,
    limits: Limits | None = None,
    lifetime: int | None = None,
) -> Issued:
    """Sign a token that allows no more than the presented one, for the same subject; what is None stays as it is.

    Limits come on top of those it has; it ends no later. Raises CapabilityRefused for what the presented token does not allow,
    or where that is not good itself; NoSigningKey; Unavailable; InvalidRequest.
    """
    now = timezone.now()
    held = _held(token, tenant=tenant, wanted=capabilities or (), now=now)
    missing = sorted(set(tools or ()) - held.tools) if held.tools is not None else []
    if missing:
        raise CapabilityRefused(f"The token does not allow these tools: {', '.join(missing)}.", missing_tools=missing)
    if len(held.parents) >= MOST_PARENTS:
        raise InvalidRequest(f"token: it was made narrower {MOST_PARENTS} times; start from one of those before.")
    left = int((held.expires_at - now).total_seconds())
    if left < 1:
        raise CapabilityRefused("The token has expired: ask for a fresh one.", reason="expired")
    facts = {
        "subject": held.subject,
        "capabilities": held.capabilities if capabilities is None else capabilities,
        "tools": held.tools if tools is None else tools,
        "limits": narrowed(held.limits, limits or {}),
        "parents": [*held.parents, held.token_id],
        "lifetime": min(left, LONGEST_LIFETIME, lifetime or LONGEST_LIFETIME),
    }
    return _issue("capability_token.attenuated", tenant=tenant, by=by, now=now, facts=facts)


@transaction.atomic
def revoke(*, tenant: Tenant, token_id: str, by: str, reason: str) -> RevokedToken:
    """Refuse a token, and those made from it, from now on. A second call changes nothing, and returns the first revocation.

    Raises InvalidRequest for what can be no token's id.
    """
    if not is_word(token_id):
        raise InvalidRequest("The id of a token (its jti) has 1 to 200 printable characters.")
    facts = {"revoked_by": by, "reason": reason}
    revoked, is_new = RevokedToken.objects.get_or_create(tenant=tenant, token_id=token_id, defaults=facts)
    if is_new:
        audit.record(
            action="capability_token.revoked", subject=subject_of(token_id), by=by, tenant_id=tenant.pk, reason=reason
        )
        withdrawals.look_at_runs_of(token_id, tenant=tenant)
    return revoked


def subject_of(token_id: str | None) -> str:
    """What the audit log calls a token."""
    return f"capability-token/{token_id}"[:200] if token_id else "capability-token"


def _required(tenant: Tenant, document: Any, plan_hash: str | None) -> list[str]:
    """The capabilities a plan asks for, as far as that can be told before it is checked."""
    if document is None:
        stored = Plan.objects.filter(tenant=tenant, plan_hash=plan_hash)
        words = stored.values_list("document__security_context__required_capabilities", flat=True).first()
    else:
        context = document.get("security_context") if isinstance(document, dict) else None
        words = context.get("required_capabilities") if isinstance(context, dict) else None
    return [word for word in words if is_word(word)] if isinstance(words, list) else []


def _held(token: str, *, tenant: Tenant, wanted: Iterable[str], now: datetime) -> Capability:
    try:
        return capability_of(read(token, tenant=tenant.identifier), tenant=tenant, required=wanted, now=now)
    except CapabilityDenied as denied:
        raise refusal_of(denied) from None


def _issue(action: str, *, tenant: Tenant, by: str, now: datetime, facts: dict[str, Any]) -> Issued:
    key = _signing_key()
    issuer = settings.CAPTOKENS_ISSUER or ISSUER
    claims = claims_of(issuer=issuer, tenant=tenant.identifier, now=now, **facts)
    token = signed(claims, key)
    if len(token) > LONGEST_TOKEN:
        raise InvalidRequest(f"The token would have more than {LONGEST_TOKEN} characters: name fewer words and limits.")
    try:
        capability = granted(claims, tenant=tenant.identifier, required=(), now=now)
    except CapabilityDenied as denied:
        raise InvalidRequest(f"The token would not be a good one: {denied.message}") from None
    with transaction.atomic():
        audit.record(
            action=action, subject=subject_of(capability.token_id), by=by, tenant_id=tenant.pk,
            after=CapabilityValidation.of(capability, now=now).to_json(),
        )  # fmt: skip
    return Issued(token=token, capability=capability)


def _signing_key() -> Any:
    if settings.CAPTOKENS_BASE_URL:
        raise NoSigningKey("Capability tokens come from the CapTokens service here: ask it for one.")
    try:
        return captoken_keys.private_key(settings.CAPTOKENS_SIGNING_KEY_FILE)
    except captoken_keys.UnusableKey:
        raise NoSigningKey from None
