"""May this caller run this plan, with these tools and arguments? The one place where the answer is made.

Allowed tools = plan ∩ token ∩ tenant, checked over every step of every flow. A list that is absent does not restrict; in
production the plan's own list must not be empty. The arguments that the plan gives must keep within the token's limits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings

from executions.argument_limits import Limits, violations
from executions.capabilities import Capability, CapabilityDenied, CapabilityValidation, some
from executions.captokens import SignedToken, capability_of, is_revoked
from executions.errors import CapabilityRefused
from executions.models import Tenant
from executions.plan_document import ExecutablePlan

AT = "/executable_plan"
MOST_TOLD = 100  # arguments, tools


@dataclass(frozen=True, kw_only=True)
class Admission:
    """A yes: on what ground, and which tools the runtime may call."""

    validation: CapabilityValidation
    allowed_tools: list[str]


def admit(
    *,
    plan: ExecutablePlan,
    tenant: Tenant,
    token: SignedToken | None,
    now: datetime,
    validate_capabilities: bool = True,
) -> Admission:
    """Check token, required capabilities, tools and arguments. Raises CapabilityRefused, naming what is missing."""
    capability = _capability(plan=plan, tenant=tenant, token=token, now=now, required=validate_capabilities)
    tools = allowed_tools(plan=plan, tenant=tenant, token_tools=capability.tools if capability else None)
    _check_arguments(plan, limits=capability.limits if capability else {}, tools=tools)
    return Admission(validation=CapabilityValidation.of(capability, now=now), allowed_tools=tools)


def check_still_admitted(
    *, plan: ExecutablePlan, tenant: Tenant, capability: dict[str, Any], tools: Iterable[str]
) -> list[str]:
    """Check once more a run that was let in; returns the tools that are left to it.

    `capability` and `tools` are what was recorded of it then. Its token may have been revoked since, the tenant be inactive, or
    its tools be others; that the token has expired is no matter. Raises CapabilityRefused.
    """
    if not tenant.is_active:
        raise CapabilityRefused("The tenant of this run is inactive.", reason="tenant_inactive")
    check_not_revoked(tenant=tenant, capability=capability)
    allowed = allowed_tools(plan=plan, tenant=tenant, token_tools=tools)
    _check_arguments(plan, limits=capability.get("limits", {}), tools=allowed)
    return allowed


def check_not_revoked(*, tenant: Tenant, capability: dict[str, Any]) -> None:
    """Raise CapabilityRefused where the token of this record, or one it was made from, was revoked."""
    lineage = [one for one in (capability.get("token_id"), *capability.get("parents", ())) if one]
    if lineage and is_revoked(lineage, tenant=tenant):
        raise CapabilityRefused("The capability token that let this run in was revoked.", reason="revoked")


def allowed_tools(*, plan: ExecutablePlan, tenant: Tenant, token_tools: Iterable[str] | None) -> list[str]:
    """Return what the plan, the tenant and the token all allow, sorted. Raises CapabilityRefused when a step needs more."""
    used = plan.tools()
    named = plan.security_context.allowed_tools
    if settings.IS_PRODUCTION and used and not named:
        raise CapabilityRefused(
            "The plan names no allowed tools; in production security_context.allowed_tools must list them.",
            missing_tools=sorted(used)[:MOST_TOLD],
        )
    lists = {"plan": named or None, "tenant": tenant.allowed_tools, "capability token": token_tools}
    allowed = set(named) or used
    for owner, words in lists.items():
        if words is None:
            continue
        missing = sorted(used - set(words))
        if missing:
            raise CapabilityRefused(
                f"The {owner} does not allow these tools: {some(missing)}.", missing_tools=missing[:MOST_TOLD]
            )
        allowed &= set(words)
    return sorted(allowed)


def refusal_of(denied: CapabilityDenied) -> CapabilityRefused:
    """What a caller is told of a token that was denied."""
    known: dict[str, Any] = {"token_id": denied.token_id} if denied.token_id else {}
    return CapabilityRefused(
        denied.message, reason=denied.code, missing_capabilities=list(denied.missing)[:MOST_TOLD], **known
    )


def _check_arguments(plan: ExecutablePlan, *, limits: Limits, tools: list[str]) -> None:
    found = violations(plan, limits=limits, allowed_tools=tools)
    if found:
        raise CapabilityRefused(
            f"The capability token limits the arguments of tools, and the plan does not keep to it: {found[0].detail}",
            reason="argument_limits",
            errors=[{"pointer": AT + one.pointer, "code": one.code, "detail": one.detail} for one in found[:MOST_TOLD]],
        )


def _capability(
    *, plan: ExecutablePlan, tenant: Tenant, token: SignedToken | None, now: datetime, required: bool
) -> Capability | None:
    if token is not None:
        needed = plan.security_context.required_capabilities
        try:
            return capability_of(token, tenant=tenant, required=needed, now=now)
        except CapabilityDenied as denied:
            raise refusal_of(denied) from None
    if settings.IS_PRODUCTION:
        asked_to_skip = "" if required else " validate_capabilities cannot be switched off in production."
        raise CapabilityRefused(f"No run without a capability token: send it as X-Capability-Token.{asked_to_skip}")
    return None
