"""NOTIFY and what it means: a run is due (for workers), a run has changed (for those who watch it).

Notifications are sent after the commit they speak of, not within it: PostgreSQL lets only one transaction at a time commit
with a notification, which would line up all commits behind each other. One that gets lost costs half a second, the
workers' poll.
"""

from __future__ import annotations

from typing import Any

from django.db import connection, transaction
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone

from portia_runtime.models import Run

DUE = "portia_due"
CHANGED = "portia_changed"


def notify(run_id: str, *channels: str) -> None:
    """Tell every process about the run, once the surrounding transaction, if any, has committed."""

    def send() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_notify(channel, %s) FROM unnest(%s::text[]) AS channel", [run_id, list(channels)])

    transaction.on_commit(send, robust=True)


def change(run: Run, **changes: Any) -> None:
    """Change a locked run from outside; a worker that has it decides anew. Needs a transaction."""
    Run.objects.filter(pk=run.pk).update(
        **changes, version=F("version") + 1, kicks=F("kicks") + 1, updated_at=timezone.now()
    )
    notify(run.run_id, CHANGED, DUE)


def wake(run: Run, **changes: Any) -> None:
    """Change a locked run from outside and have a worker look at it now. Needs a transaction."""
    change(run, due_at=Now(), **changes)
