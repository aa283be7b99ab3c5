"""The drains and due times that settings.JOBS names; each calls one action."""

from __future__ import annotations

from functools import partial

from executions import idempotency
from executions.actions import audit, remote_runs
from executions.models import Kind, Work

launch = remote_runs.launch
sync = remote_runs.sync
deliver_commands = remote_runs.deliver_commands

launch_due = partial(Work.objects.due_in, Kind.LAUNCH)
sync_due = partial(Work.objects.due_in, Kind.SYNC)
commands_due = partial(Work.objects.due_in, Kind.COMMAND)


def cleanup() -> int:
    """What is done every few minutes: delete answers whose time is over, seal the audit log."""
    return idempotency.delete_some_expired() + audit.sign_due_checkpoints()


def cleanup_due() -> float | None:
    """Seconds until the first of these is due."""
    waits = [idempotency.cleanup_due_in(), audit.checkpoints_due_in()]
    return min((wait for wait in waits if wait is not None), default=None)
