"""The drains and due times that settings.JOBS names; each calls one action."""

from __future__ import annotations

from functools import partial

from executions import idempotency
from executions.actions import remote_runs
from executions.models import Kind, Work

launch = remote_runs.launch
sync = remote_runs.sync
deliver_commands = remote_runs.deliver_commands
cleanup = idempotency.delete_some_expired

launch_due = partial(Work.objects.due_in, Kind.LAUNCH)
sync_due = partial(Work.objects.due_in, Kind.SYNC)
commands_due = partial(Work.objects.due_in, Kind.COMMAND)
cleanup_due = idempotency.cleanup_due_in
