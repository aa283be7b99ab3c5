"""Receipts: what became of a run, in an envelope that is signed and can be kept without the service."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.conf import settings
from django.utils.module_loading import import_string

from executions.actions.audit import signing_key
from executions.audit import written
from executions.errors import NotEnded
from executions.models import AuditEntry, AuditLink, Run
from executions.signing import RECEIPT, Envelope, sign

OF_THE_CAPABILITY = ("mode", "token_id", "subject", "capabilities", "expires_at")


def receipt(run: Run) -> Envelope:
    """The DSSE envelope of an ended run's receipt; of the same run always the same. Raises NotEnded, UnusableKey."""
    if not run.is_terminal:
        raise NotEnded(f"The run is {run.status}; there is a receipt when it has ended.", current_status=run.status)
    return sign(content_of(run), kind=RECEIPT, key=signing_key())


def content_of(run: Run) -> dict[str, Any]:
    """What a receipt says, in JSON types."""
    return {
        "run_id": str(run.pk),
        "plan_hash": run.plan.plan_hash,
        "tenant": run.tenant.identifier,
        "capability": {name: run.capability.get(name) for name in OF_THE_CAPABILITY},
        "approvals": import_string(settings.APPROVAL_DECISIONS)(run.pk),
        "status": run.status,
        "reason": run.reason,
        "finished_at": written(run.finished_at) if run.finished_at else None,
        "audit": _place(run.tenant_id, f"execution/{run.pk}"),
    }


def _place(tenant_id: UUID, subject: str) -> dict[str, Any] | None:
    """Where the tenant's audit log has the end of the run, which nothing follows; None for a run older than the log."""
    entries = AuditEntry.objects.filter(tenant_id=tenant_id, subject=subject, action="execution.changed").order_by(
        "-id"
    )
    link = AuditLink.objects.filter(entry_id__in=entries.values("pk")[:1]).first()
    return {"sequence": link.sequence, "hash": link.hash} if link else None
