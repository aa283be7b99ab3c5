"""Plans: store a document under its hash, find it again."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from executions.errors import InvalidPlan, InvalidRequest, NotFound
from executions.models import Plan, Tenant
from executions.plan_document import ExecutablePlan, PlanInvalid, parse

REMEMBERED = 256  # parsed plans per process
_parsed: dict[UUID, ExecutablePlan] = {}


def resolve(
    *, tenant: Tenant, document: Any | None, plan_hash: str | None, by: str, user: Any = None
) -> tuple[Plan, ExecutablePlan]:
    """Return the plan of a request: the document it carries, stored if new, or the one known by its hash.

    Needs the caller's transaction. Raises InvalidPlan with every error, NotFound for an unknown hash.
    """
    if document is None:
        return known(tenant=tenant, plan_hash=plan_hash or "")
    parsed = check(tenant=tenant, document=document)
    if plan_hash and plan_hash != parsed.plan_hash:
        raise InvalidRequest(
            "plan_hash is not the hash of executable_plan.",
            errors=[
                {
                    "pointer": "/plan_hash",
                    "code": "plan_hash_mismatch",
                    "detail": f"The document's hash is {parsed.plan_hash}. Send that one, or leave plan_hash out.",
                }
            ],
        )
    return store(tenant=tenant, document=document, parsed=parsed, by=by, user=user), parsed


def check(*, tenant: Tenant, document: Any) -> ExecutablePlan:
    """Validate a document for a tenant. Raises InvalidPlan with a JSON Pointer per error (RFC 6901)."""
    parsed = _parse(document)
    if parsed.tenant_id and parsed.tenant_id not in (tenant.identifier, str(tenant.pk)):
        raise InvalidPlan(
            "The plan belongs to another tenant.",
            errors=[
                {
                    "pointer": "/executable_plan/tenant_id",
                    "code": "foreign_tenant",
                    "detail": f"Your tenant is {tenant.identifier}; leave tenant_id out or set it to that.",
                }
            ],
        )
    return parsed


def store(*, tenant: Tenant, document: dict[str, Any], parsed: ExecutablePlan, by: str, user: Any = None) -> Plan:
    """Keep a validated document; the same hash is the same plan. Needs the caller's transaction."""
    same = Plan.objects.filter(tenant=tenant, plan_hash=parsed.plan_hash).defer("document")
    plan = same.first()
    if plan is None:
        new = Plan(
            tenant=tenant,
            plan_hash=parsed.plan_hash,
            name=parsed.name,
            version=parsed.version or "",
            description=parsed.description or "",
            document=document,
            created_by=by,
            created_by_user=user,
        )
        Plan.objects.bulk_create([new], ignore_conflicts=True)
        plan = same.get()
    _remember(plan.pk, parsed)
    return plan


def known(*, tenant: Tenant, plan_hash: str) -> tuple[Plan, ExecutablePlan]:
    """Find a stored plan. Raises NotFound for a hash this tenant has not stored."""
    plan = Plan.objects.filter(tenant=tenant, plan_hash=plan_hash).defer("document").first()
    if plan is None:
        raise NotFound(f"No plan with the hash {plan_hash} is stored here; send executable_plan with it.")
    return plan, parsed(plan.pk)


def parsed(plan_id: UUID) -> ExecutablePlan:
    """Return the parsed document of a stored plan; rows never change, so the latest ones are kept in memory.

    Raises InvalidPlan for one that was stored under older rules and does not pass today's.
    """
    document = _parsed.get(plan_id)
    if document is None:
        document = _parse(Plan.objects.values_list("document", flat=True).get(pk=plan_id))
        _remember(plan_id, document)
    return document


def _parse(document: Any) -> ExecutablePlan:
    try:
        return parse(document)
    except PlanInvalid as invalid:
        count = len(invalid.errors)
        raise InvalidPlan(
            f"The plan has {count} error{'s' if count > 1 else ''}.",
            errors=[
                {"pointer": f"/executable_plan{e.pointer}", "code": e.code, "detail": e.message} for e in invalid.errors
            ],
        ) from None


def _remember(plan_id: UUID, document: ExecutablePlan) -> None:
    if len(_parsed) >= REMEMBERED:
        _parsed.clear()
    _parsed[plan_id] = document
