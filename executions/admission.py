"""May this caller run this plan, with these tools? The one place where the answer is made.

Allowed tools = plan ∩ token ∩ tenant, checked over every step of every flow. A list that is absent does not restrict; in
production the plan's own list must not be empty.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings

from executions.capabilities import Capability, CapabilityDenied, CapabilityValidation, verify
from executions.errors import CapabilityRefused
from executions.models import Tenant
from executions.plan_document import ExecutablePlan


@dataclass(frozen=True, kw_only=True)
class Admission:
    """A yes: on what ground, and which tools the runtime may call."""

    validation: CapabilityValidation
    allowed_tools: list[str]


def admit(
    *, plan: ExecutablePlan, tenant: Tenant, token: str | None, now: datetime, validate_capabilities: bool = True
) -> Admission:
    """Check token, required capabilities and tools. Raises CapabilityRefused, naming what is missing."""
    capability = _capability(plan=plan, tenant=tenant, token=token, now=now, required=validate_capabilities)
    return Admission(
        validation=CapabilityValidation.of(capability),
        allowed_tools=allowed_tools(plan=plan, tenant=tenant, token_tools=capability.tools if capability else None),
    )


def allowed_tools(*, plan: ExecutablePlan, tenant: Tenant, token_tools: Iterable[str] | None) -> list[str]:
    """Return what the plan, the tenant and the token all allow, sorted. Raises CapabilityRefused when a step needs more."""
    used = plan.tools()
    named = plan.security_context.allowed_tools
    if settings.IS_PRODUCTION and used and not named:
        raise CapabilityRefused(
            "The plan names no allowed tools; in production security_context.allowed_tools must list them.",
            missing_tools=sorted(used),
        )
    lists = {"plan": named or None, "tenant": tenant.allowed_tools, "capability token": token_tools}
    allowed = set(named) or used
    for owner, words in lists.items():
        if words is None:
            continue
        missing = sorted(used - set(words))
        if missing:
            raise CapabilityRefused(
                f"The {owner} does not allow these tools: {', '.join(missing)}.", missing_tools=missing
            )
        allowed &= set(words)
    return sorted(allowed)


def _capability(
    *, plan: ExecutablePlan, tenant: Tenant, token: str | None, now: datetime, required: bool
) -> Capability | None:
    if token:
        try:
            return verify(
                token, tenant=tenant.identifier, required=plan.security_context.required_capabilities, now=now
            )
        except CapabilityDenied as denied:
            raise CapabilityRefused(denied.message, reason=denied.code, missing_capabilities=denied.missing) from None
    if settings.IS_PRODUCTION:
        asked_to_skip = "" if required else " validate_capabilities cannot be switched off in production."
        raise CapabilityRefused(f"No run without a capability token: send it as X-Capability-Token.{asked_to_skip}")
    return None
