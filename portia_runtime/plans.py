"""Plans: kept as they were sent, never changed, parsed once per process."""

from __future__ import annotations

from functools import lru_cache

from django.db import transaction

from portia_runtime import plan_checks
from portia_runtime.documents import JSON, DocumentError, digest
from portia_runtime.models import Plan
from portia_runtime.plan_document import PlanSpec
from portia_runtime.problems import Problem

NOT_CONTENT = {"plan_id", "created_at", "created_by"}


def create(*, tenant: str, document: JSON) -> tuple[Plan, bool]:
    """Store the plan; gives it and whether it is new. Raises Problem invalid_plan, unsupported_step_type, plan_conflict."""
    fingerprint = _fingerprint(document)
    plan_id = document.get("plan_id")
    stored = find(tenant=tenant, plan_id=plan_id) if isinstance(plan_id, str) else None
    if stored is None:
        plan_checks.read(document)
        stored = Plan(tenant=tenant, plan_id=document["plan_id"], fingerprint=fingerprint, document=document)
        with transaction.atomic():
            created = Plan.objects.bulk_create([stored], ignore_conflicts=True)
        found = find(tenant=tenant, plan_id=stored.plan_id)
        if found and created and found.portia_plan_id == stored.portia_plan_id:
            return found, True
        stored = found or stored
    if stored.fingerprint != fingerprint:
        raise Problem("plan_conflict", f"there is a plan {stored.plan_id!r} with other content")
    return stored, False


def find(*, tenant: str, plan_id: str) -> Plan | None:
    """The tenant's plan with this id."""
    if "\x00" in plan_id:
        return None
    return Plan.objects.filter(tenant=tenant, plan_id=plan_id).first()


def get(*, tenant: str, plan_id: str) -> Plan:
    """The tenant's plan with this id. Raises Problem plan_not_found."""
    plan = find(tenant=tenant, plan_id=plan_id)
    if plan is None:
        raise Problem("plan_not_found", f"there is no plan {plan_id!r}")
    return plan


def key(*, tenant: str, plan_id: str) -> int:
    """The primary key of the tenant's plan, without its document. Raises Problem plan_not_found."""
    found = Plan.objects.filter(tenant=tenant, plan_id=plan_id).values_list("pk", flat=True).first()
    if found is None:
        raise Problem("plan_not_found", f"there is no plan {plan_id!r}")
    return found


@lru_cache(maxsize=512)
def spec(primary_key: int) -> PlanSpec:
    """The parsed plan of a row; a row never changes, so neither does this."""
    return plan_checks.read(Plan.objects.get(pk=primary_key).document, is_stored=True)


def _fingerprint(document: JSON) -> str:
    try:
        return digest({key: value for key, value in document.items() if key not in NOT_CONTENT})
    except DocumentError as error:
        raise Problem("invalid_plan", "plan is not valid", errors=[{"loc": "$", "msg": str(error)}]) from None
