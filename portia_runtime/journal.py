"""How a worker takes a run, stores what it did, and lets go: each is one SQL statement, and each names the lease.

A commit is `UPDATE run … WHERE lease_token = mine AND kicks = as I read it` with the step rows hanging on it. Who lost the
lease changes nothing, and neither does who decided before an answer, a pause or a cancel came in: it reads the run anew and
decides again. So no step begins after a cancel was accepted, and no command is overwritten.
"""

from __future__ import annotations

import json
import uuid
from datetime import datetime
from functools import partial
from typing import Any

from django.db import connection, transaction
from django.db.models import F
from django.utils import timezone
from psycopg.types.json import Jsonb

from portia_runtime import plans
from portia_runtime.documents import JSON
from portia_runtime.models import (
    OPEN_STEP,
    Clarification,
    ClarificationStatus,
    Resolution,
    Run,
    RunStatus,
    Step,
    StepStatus,
)
from portia_runtime.signals import CHANGED, notify
from portia_runtime.state import RunState

LEASE_SECONDS = 5.0

# Leases need no wait for the disk: one lost in a crash of the server only means that its worker's next commit is refused.
UNSYNCED = "(SELECT set_config('synchronous_commit', 'off', true)) = 'off'"
CLAIM = f"""
UPDATE portia_run SET lease_token = %(token)s, lease_until = now() + make_interval(secs => %(lease)s)
WHERE {UNSYNCED} AND run_id = (
  SELECT run_id FROM portia_run
  WHERE due_at <= now() AND (lease_until IS NULL OR lease_until < now())
  ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING *
"""  # noqa: S608 - a constant
RENEW = f"""
UPDATE portia_run SET lease_until = now() + make_interval(secs => %(lease)s)
WHERE {UNSYNCED} AND lease_token = ANY(%(tokens)s)
"""  # noqa: S608 - a constant
NEXT_DUE = """
SELECT extract(epoch FROM min(greatest(due_at, coalesce(lease_until, due_at))) - now()) FROM portia_run
WHERE due_at IS NOT NULL
"""

RUN_COLUMNS = (
    "status", "paused_reason", "variables", "started_at", "completed_at", "final_output", "error_message", "error_details",
    "rollback", "active_seconds", "active_since",
)  # fmt: skip
STEP_COLUMNS = {
    "path": "text", "position": "int", "name": "text", "type": "text", "status": "text", "attempts": "int",
    "started_at": "timestamptz", "completed_at": "timestamptz", "next_attempt_at": "timestamptz", "output": "jsonb",
    "error": "jsonb", "reason": "text", "state": "jsonb",
}  # fmt: skip
COMMIT = """
WITH run AS (
  UPDATE portia_run SET {run_columns}, version = version + 1, updated_at = clock_timestamp(),
    pause_requested = pause_requested AND %(keep_pause)s,
    due_at = CASE WHEN %(release)s THEN %(due_at)s ELSE due_at END,
    lease_token = CASE WHEN %(release)s THEN NULL ELSE lease_token END,
    lease_until = CASE WHEN %(release)s THEN NULL ELSE lease_until END
  WHERE run_id = %(run_id)s AND lease_token = %(token)s AND kicks = %(kicks)s
  RETURNING run_id, version
), saved AS (
  INSERT INTO portia_step (run_id, {step_names})
  SELECT run.run_id, {step_names_s} FROM run, jsonb_to_recordset(%(steps)s) AS s({step_types})
  ON CONFLICT (run_id, path) DO UPDATE SET {step_updates}
)
SELECT version FROM run
""".format(  # noqa: S608 - constants
    run_columns=", ".join(f"{column} = %({column})s" for column in RUN_COLUMNS),
    step_names=", ".join(STEP_COLUMNS),
    step_names_s=", ".join(f"s.{column}" for column in STEP_COLUMNS),
    step_types=", ".join(f"{column} {kind}" for column, kind in STEP_COLUMNS.items()),
    step_updates=", ".join(f"{column} = EXCLUDED.{column}" for column in STEP_COLUMNS if column != "path"),
)


class NotCommittedError(Exception):
    """The run changed from outside, or is not ours any more: read it anew."""


def claim() -> Run | None:
    """Take the run that is due for longest."""
    found = list(Run.objects.raw(CLAIM, {"token": uuid.uuid4(), "lease": LEASE_SECONDS}))
    return found[0] if found else None


def take(run: Run) -> RunState:
    """Take this run, which nobody holds and the caller's transaction has locked."""
    run.lease_token, run.lease_until = uuid.uuid4(), timezone.now()
    run.save(update_fields=["lease_token", "lease_until"])
    return read(run)


def give_up(run: Run, message: str) -> None:
    """Fail a run that the engine itself cannot go on with. Changes nothing once the lease is lost."""
    now = timezone.now()
    with transaction.atomic():
        changed = Run.objects.filter(pk=run.pk, lease_token=run.lease_token).update(
            status=RunStatus.FAILED, paused_reason=None, completed_at=now, updated_at=now, version=F("version") + 1,
            error_message=message, error_details={"code": "internal_error", "failed_steps": []}, active_since=None,
            due_at=None, lease_token=None, lease_until=None,
        )  # fmt: skip
        if changed:
            Step.objects.filter(run=run, status__in=OPEN_STEP).update(
                status=StepStatus.CANCELLED, completed_at=now, next_attempt_at=None, reason=message
            )
            Clarification.objects.filter(run=run, status=ClarificationStatus.PENDING).update(
                status=ClarificationStatus.REJECTED, resolution=Resolution.RUN_FAILED, responded_at=now
            )
            notify(run.run_id, CHANGED)


def renew(tokens: list[uuid.UUID]) -> None:
    """Keep the runs with these lease tokens for another five seconds."""
    with connection.cursor() as cursor:
        cursor.execute(RENEW, {"lease": LEASE_SECONDS, "tokens": tokens})


def seconds_to_next_due() -> float | None:
    """When a run can be claimed next: 0 or less means now, nothing means that none is due at any time."""
    with connection.cursor() as cursor:
        cursor.execute(NEXT_DUE)
        seconds = cursor.fetchone()[0]
    return None if seconds is None else float(seconds)


def reread(state: RunState) -> RunState | None:
    """The run as it is stored now, or nothing once another worker holds it."""
    run = Run.objects.filter(pk=state.run.pk, lease_token=state.run.lease_token).first()
    return read(run) if run else None


def read(run: Run) -> RunState:
    """What is known of a run."""
    plan = plans.spec(run.plan_id)
    if run.started_at is None:
        return RunState(run=run, plan=plan)
    rows = {row.path: row for row in Step.objects.filter(run_id=run.run_id).order_by("position")}
    asked = any("clarification" in row.state for row in rows.values())
    found = Clarification.objects.filter(run_id=run.run_id) if asked else []
    return RunState(run=run, plan=plan, rows=rows, clarifications={one.clarification_id: one for one in found})


def commit(state: RunState, *, release: bool = False, due_at: datetime | None = None, keep_pause: bool = True) -> None:
    """Store everything that changed; with `release` let go of the run until `due_at`.

    Raises NotCommittedError, with nothing stored, when the lease is lost or something happened to the run since it was read.
    """
    values = _values(state, release=release, due_at=due_at, keep_pause=keep_pause)
    if state.raised or state.closed:
        with transaction.atomic():
            _execute(state, values)
            _store_clarifications(state)
    else:
        _execute(state, values)
    notify(state.run.run_id, CHANGED)
    state.changed.clear()
    state.raised.clear()
    state.closed.clear()


def _execute(state: RunState, values: JSON) -> None:
    with connection.cursor() as cursor:
        cursor.execute(COMMIT, values)
        stored = cursor.fetchone()
    if stored is None:
        raise NotCommittedError
    state.run.version = stored[0]


def _store_clarifications(state: RunState) -> None:
    """Add the new questions and close the ended ones; one that was answered meanwhile stops the whole commit."""
    Clarification.objects.bulk_create(state.raised)
    for asked in state.closed:
        closed = Clarification.objects.filter(pk=asked.pk, status=ClarificationStatus.PENDING).update(
            status=asked.status, resolution=asked.resolution, responded_at=asked.responded_at
        )
        if not closed and asked not in state.raised:
            raise NotCommittedError


def _values(state: RunState, *, release: bool, due_at: datetime | None, keep_pause: bool) -> JSON:
    run = state.run
    columns = {column: getattr(run, column) for column in RUN_COLUMNS}
    for column in ("variables", "error_details", "final_output", "rollback"):
        columns[column] = _jsonb(columns[column]) if columns[column] is not None else None
    return {
        **columns,
        "run_id": run.run_id,
        "token": run.lease_token,
        "kicks": run.kicks,
        "release": release,
        "due_at": due_at,
        "keep_pause": keep_pause,
        "steps": _jsonb([_step(state.rows[path]) for path in state.changed]),
    }


def _step(row: Step) -> JSON:
    return {column: _plain(getattr(row, column)) for column in STEP_COLUMNS}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, StepStatus) else value


_jsonb = partial(Jsonb, dumps=partial(json.dumps, ensure_ascii=False, separators=(",", ":")))
