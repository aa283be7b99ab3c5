"""The facts the service reports, and the one function that records them.

The envelope is CloudEvents 1.0; a row is written in the caller's transaction, so a fact is reported if and only if it
happened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import connection
from django.utils import timezone

from executions.models.event import Event

if TYPE_CHECKING:
    from executions.models.run import Run

ACCEPTED = "io.anumate.execution.accepted"
STARTED = "io.anumate.execution.started"
STEP_COMPLETED = "io.anumate.execution.step_completed"
PAUSED = "io.anumate.execution.paused"
RESUMED = "io.anumate.execution.resumed"
COMPLETED = "io.anumate.execution.completed"
FAILED = "io.anumate.execution.failed"
CANCELLED = "io.anumate.execution.cancelled"
ROLLED_BACK = "io.anumate.execution.rolled_back"
CAPABILITY_DENIED = "io.anumate.capability.denied"
CAPABILITY_EXPIRED = "io.anumate.capability.expired"
CAPABILITY_RENEWED = "io.anumate.capability.renewed"
CLARIFICATION_REQUESTED = "io.anumate.clarification.requested"
CLARIFICATION_APPROVED = "io.anumate.clarification.approved"
CLARIFICATION_REJECTED = "io.anumate.clarification.rejected"
CLARIFICATION_TIMEOUT = "io.anumate.clarification.timeout"
CLARIFICATION_CANCELLED = "io.anumate.clarification.cancelled"
CLARIFICATION_DELIVERED = "io.anumate.clarification.delivered"

NEXT = """
    UPDATE executions_run SET event_sequence = event_sequence + 1, version = version + 1, updated_at = %s
    WHERE id = %s RETURNING event_sequence, version, updated_at
"""


def record(*, run: Run, kind: str, by: str, data: dict[str, Any], subject: str = "") -> Event:
    """Write one event of a run, which is a new version of it: whoever waits for a change hears of it.

    Needs the caller's transaction; the run's row hands out the sequence and is locked by it.
    """
    with connection.cursor() as cursor:
        cursor.execute(NEXT, [timezone.now(), run.pk])
        run.event_sequence, run.version, run.updated_at = cursor.fetchone()
    return Event.objects.create(
        tenant_id=run.tenant_id,
        run=run,
        sequence=run.event_sequence,
        type=kind,
        subject=subject or f"execution/{run.pk}",
        actor=by,
        data=data,
        correlation_id=run.correlation_id,
        traceparent=run.traceparent,
    )
