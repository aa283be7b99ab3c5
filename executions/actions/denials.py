"""What becomes of a denial: an audit entry, and where there is a run, an event and the run's end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from django.db import transaction

from executions import audit, events
from executions.actions import plans
from executions.actions.captokens import subject_of
from executions.admission import check_not_revoked, check_still_admitted
from executions.errors import CapabilityRefused, InvalidPlan
from executions.models import Kind, Run, RunReason, RunStatus, Tenant, Work
from executions.portia.client import portia
from executions.portia.errors import InvalidState, RunNotFound

ACTION = "capability.denied"
TOLD = ("reason", "missing_capabilities", "missing_tools")
ENDED_HERE = (RunReason.CAPABILITY_DENIED, RunReason.PLAN_REFUSED)


@contextmanager
def recorded(*, tenant: Tenant, by: str) -> Iterator[None]:
    """Write a refusal in the block into the audit log, in a transaction of its own: that of the work is taken back.

    Must be outside of any transaction.
    """
    try:
        yield
    except CapabilityRefused as refused:
        record(tenant=tenant, by=by, message=str(refused), facts=refused.extra)
        raise


def record(*, tenant: Tenant, by: str, message: str, facts: dict[str, Any]) -> None:
    """Write a denial into the audit log: `facts` has the reason, and what was missing."""
    with transaction.atomic():
        audit.record(
            action=ACTION, subject=subject_of(facts.get("token_id")), by=by, tenant_id=tenant.pk, reason=message,
            after={name: facts[name] for name in TOLD if facts.get(name)},
        )  # fmt: skip


def end(run: Run, refused: CapabilityRefused, *, also: tuple[str, ...] = ()) -> None:
    """End a run that may not go on, and write down why; saves the fields named in `also`, too.

    Needs the caller's transaction and a locked run that has not ended. Portia hears nothing of it here.
    """
    _record_of_run(run, refused)
    run.capability = run.capability | {"valid": False, "error": str(refused), "reason": refused.extra.get("reason")}
    error = {"code": refused.code, "message": str(refused)}
    denied = (RunStatus.FAILED, RunReason.CAPABILITY_DENIED)
    run.transition(*denied, by="orchestrator", error=error, also=("capability", *also))
    Work.objects.filter(run=run, kind=Kind.SYNC).delete()
    if run.portia_run_id:
        Work.objects.schedule(run.pk, Kind.CLARIFICATIONS)


def stop(run: Run) -> str:
    """End a live run that may no longer go on; returns a sentence, empty where it may.

    First here, then at Portia, so that no look at Portia in between can tell the run another end; a repeat does the same again.
    Talks HTTP: must be outside a transaction. Raises PortiaError where Portia could not be told.
    """
    if not is_over_here(run):
        refused = refusal(run)
        if refused is None:
            return ""
        _end(run, refused)
    with suppress(InvalidState, RunNotFound):  # it has ended there
        portia().cancel_run(str(run.portia_run_id), tenant=run.tenant.identifier)
    return "The run may no longer go on: its capability was denied."


def is_over_here(run: Run) -> bool:
    """Whether the run was ended here for what it is, whatever becomes of it at Portia."""
    return run.reason in ENDED_HERE


def refusal(run: Run) -> CapabilityRefused | None:
    """Why a run that Portia has may not go on; the plan and what its token allowed are as they were at the launch."""
    try:
        check_not_revoked(tenant=run.tenant, capability=run.capability)
        if run.tenant.allowed_tools is not None or not run.tenant.is_active:
            plan = plans.parsed(run.plan_id)
            check_still_admitted(plan=plan, tenant=run.tenant, capability=run.capability, tools=run.allowed_tools)
    except CapabilityRefused as refused:
        return refused
    except InvalidPlan:  # stored under older rules, and already running
        return None
    return None


def _record_of_run(run: Run, refused: CapabilityRefused) -> None:
    facts = {name: refused.extra[name] for name in TOLD if refused.extra.get(name)}
    events.record(run=run, kind=events.CAPABILITY_DENIED, by="orchestrator", data={"message": str(refused), **facts})
    audit.record(
        action=ACTION, subject=f"execution/{run.pk}", by="orchestrator", tenant_id=run.tenant_id, reason=str(refused),
        after={"token_id": run.capability.get("token_id"), **facts}, correlation=run.correlation_id,
    )  # fmt: skip


def _end(run: Run, refused: CapabilityRefused) -> None:
    with transaction.atomic():
        locked = Run.objects.select_for_update().get(pk=run.pk)
        if not locked.is_terminal:
            end(locked, refused)
