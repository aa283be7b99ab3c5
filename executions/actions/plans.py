"""Plans: store a document under its hash, find it again."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from executions import audit, plan_compiler
from executions.errors import InvalidPlan, NotFound
from executions.models import Plan, Tenant
from executions.plan_document import ExecutablePlan, PlanInvalid, parse

AT = "/executable_plan"  # where a submission carries the plan
REMEMBERED = 256  # parsed plans per process
_parsed: dict[UUID, ExecutablePlan] = {}


def check(*, tenant: Tenant, document: Any, at: str = AT) -> ExecutablePlan:
    """Validate a document for a tenant. Raises InvalidPlan with a JSON Pointer per error (RFC 6901), `at` in front."""
    parsed = _parse(document, at=at)
    if parsed.tenant_id and parsed.tenant_id not in (tenant.identifier, str(tenant.pk)):
        raise InvalidPlan(
            "The plan belongs to another tenant.",
            errors=[
                {
                    "pointer": f"{at}/tenant_id",
                    "code": "foreign_tenant",
                    "detail": f"Your tenant is {tenant.identifier}; leave tenant_id out or set it to that.",
                }
            ],
        )
    return parsed


def store(
    *, tenant: Tenant, document: dict[str, Any], parsed: ExecutablePlan, by: str, user: Any = None
) -> tuple[Plan, bool]:
    """Keep a validated document, and tell whether it is new: the same hash is the same plan. Needs the caller's transaction."""
    same = Plan.objects.filter(tenant=tenant, plan_hash=parsed.plan_hash).defer("document")
    plan = same.first()
    is_new = plan is None
    if plan is None:
        plan = Plan(
            tenant=tenant,
            plan_hash=parsed.plan_hash,
            name=parsed.name,
            version=parsed.version or "",
            description=parsed.description or "",
            document=document,
            created_by=by,
            created_by_user=user,
        )
        written = plan
        Plan.objects.bulk_create([written], ignore_conflicts=True)
        plan = same.get()
        is_new = plan.pk == written.pk
        if is_new:
            _record(plan, by=by)
    _remember(plan.pk, parsed)
    return plan, is_new


def _record(plan: Plan, *, by: str) -> None:
    audit.record(
        action="plan.stored", subject=f"plan/{plan.plan_hash}", by=by, tenant_id=plan.tenant_id,
        after={"name": plan.name, "version": plan.version},
    )  # fmt: skip


def fetch_unknown(*, tenant: Tenant, plan_hash: str) -> dict[str, Any] | None:
    """The document of a plan that is not stored here, from the Plan Compiler; None where it is, or nobody has it.

    Talks HTTP: must be outside a transaction. Raises Unavailable, BadPlanCompilerAnswer or InvalidPlan.
    """
    if Plan.objects.filter(tenant=tenant, plan_hash=plan_hash).exists():
        return None
    document = plan_compiler.fetch(plan_hash, tenant=tenant.identifier)
    if document is not None:
        _parse(document, whose="The plan, as the Plan Compiler has it,")
    return document


def known(*, tenant: Tenant, plan_hash: str) -> tuple[Plan, ExecutablePlan]:
    """Find a stored plan. Raises NotFound for a hash this tenant has not stored."""
    plan = Plan.objects.filter(tenant=tenant, plan_hash=plan_hash).defer("document").first()
    if plan is None:
        raise NotFound(f"Nobody here knows a plan with the hash {plan_hash}; send executable_plan, or store it first.")
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


def _parse(document: Any, *, at: str = AT, whose: str = "The plan") -> ExecutablePlan:
    try:
        return parse(document)
    except PlanInvalid as invalid:
        count = len(invalid.errors)
        raise InvalidPlan(
            f"{whose} has {count} error{'s' if count > 1 else ''}.",
            errors=[{"pointer": f"{at}{e.pointer}", "code": e.code, "detail": e.message} for e in invalid.errors],
        ) from None


def _remember(plan_id: UUID, document: ExecutablePlan) -> None:
    if len(_parsed) >= REMEMBERED:
        _parsed.clear()
    _parsed[plan_id] = document
