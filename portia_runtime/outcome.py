"""What becomes of a run after a look at its steps: it goes on, waits, is paused, rolls back, or ends."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from portia_runtime.documents import JSON
from portia_runtime.models import PausedReason, Resolution, RunStatus, Step, StepStatus
from portia_runtime.plan_document import StepSpec
from portia_runtime.state import Flow, Node, RunState, top_level
from portia_runtime.walk import Walk


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How to commit: whether to let go of the run, and until when."""

    release: bool = False
    due_at: datetime | None = None
    keep_pause: bool = True


def decide(walk: Walk) -> Verdict:
    """Take the run as far as it goes without a result from outside; `walk.starts` are the calls to make after the commit.

    1. A cancel ends it, once no call is under way.
    2. A refused question, a question past its time or the run's timeout fails it.
    3. A pause holds it, once no call is under way.
    4. Else the steps (or the rollback steps) go on.
    """
    run = walk.state.run
    if run.cancel_requested and not run.is_rolling_back:
        return Verdict() if walk.in_flight else cancel(walk)
    walk.check_questions()
    _check_timeout(walk)
    if run.is_rolling_back:
        return _roll_back(walk)
    if walk.state.fatal:
        return _fail(walk)
    if run.status == RunStatus.PAUSED and run.paused_reason != PausedReason.CLARIFICATION:
        return Verdict(release=True, due_at=_soonest(walk))
    if run.pause_requested:
        return Verdict() if walk.in_flight else _pause(walk)
    return _go_on(walk)


def _go_on(walk: Walk) -> Verdict:
    state = walk.state
    scope = top_level(state)
    nodes = [Node(step, step.id, scope) for step in state.plan.flow]
    document = state.plan.document
    flow = walk.flow(nodes, one_by_one=not document.parallel_execution, keep_going=document.on_failure == "continue")
    failed = any(row.has_failed for row in _top_rows(state))
    if state.fatal or flow is Flow.FAILED or (flow is Flow.DONE and failed):
        return _fail(walk)
    if state.exited or flow is Flow.DONE:
        return _complete(walk)
    return _settle(walk)


def _settle(walk: Walk) -> Verdict:
    """The run is not at its end: it works, waits for a time, or waits for people."""
    state = walk.state
    working = bool(walk.in_flight or walk.starts)
    if not working and state.pending_clarifications() and not _is_sleeping(state):
        state.set_status(RunStatus.PAUSED, walk.now, reason=PausedReason.CLARIFICATION)
        return Verdict(release=True, due_at=_question_times(walk))
    state.set_status(RunStatus.RUNNING, walk.now)
    return Verdict(release=not working, due_at=_soonest(walk))


def _is_sleeping(state: RunState) -> bool:
    return any(row.status == StepStatus.WAITING and row.next_attempt_at for row in state.rows.values())


def _soonest(walk: Walk) -> datetime | None:
    return min(walk.due, default=None)


def _question_times(walk: Walk) -> datetime | None:
    times = [asked.timeout_at for asked in walk.state.pending_clarifications() if asked.timeout_at]
    return min(times, default=None)


def _check_timeout(walk: Walk) -> None:
    """Fail a run that was active for too long; what is under way is abandoned and its result will not count."""
    state = walk.state
    limit = state.plan.document.timeout
    if limit is None or state.run.is_rolling_back or state.run.status == RunStatus.PAUSED or state.fatal:
        return
    left = limit - state.active_seconds(walk.now)
    if left > 0:
        walk.due.append(walk.now + timedelta(seconds=left))
        return
    walk.in_flight.clear()
    step = next((row for row in state.rows.values() if row.is_open and row.type == "action"), None)
    row = step or Step(run_id=state.run.run_id, path="", type="action")
    row.error = {"code": "run_timeout", "message": f"the run was active for more than {limit:g} s", "step_id": row.path}
    row.status, row.completed_at, row.next_attempt_at = StepStatus.TIMED_OUT, walk.now, None
    row.reason = row.failure["message"]
    state.fatal = row
    if step:
        state.touch(step)


# -- held


def _pause(walk: Walk) -> Verdict:
    """Hold the run; while a question is open the hold is kept for after its answer."""
    asking = bool(walk.state.pending_clarifications())
    reason = PausedReason.CLARIFICATION if asking else PausedReason.REQUESTED
    walk.state.set_status(RunStatus.PAUSED, walk.now, reason=reason)
    return Verdict(release=True, due_at=_question_times(walk), keep_pause=asking)


# -- ended


def cancel(walk: Walk) -> Verdict:
    """End the run as cancelled. No call may be under way."""
    for row in _open_rows(walk.state):
        walk.cancel(row, "the run was cancelled", Resolution.RUN_CANCELLED)
    return _end(walk, RunStatus.CANCELLED)


def _complete(walk: Walk) -> Verdict:
    if walk.in_flight or walk.starts:
        return _settle(walk)
    for row in _open_rows(walk.state):
        if row.path in walk.state.rows and row.started_at:
            walk.cancel(row, "the plan ended the run before")
        else:
            walk.skip(row, "the plan ended the run before")
    walk.state.run.final_output = _final_output(walk.state)
    return _end(walk, RunStatus.COMPLETED)


def _final_output(state: RunState) -> Any:
    if state.exited:
        return state.exited.output
    done = [row for row in (state.rows.get(step.id) for step in state.plan.flow) if row]
    return next((row.output for row in reversed(done) if row.status == StepStatus.COMPLETED), None)


def _fail(walk: Walk) -> Verdict:
    """Record why, and roll back where the plan wants it; calls under way are waited for."""
    state = walk.state
    if walk.in_flight or walk.starts:
        return _settle(walk)
    cause = state.fatal or _first_failure(state)
    state.run.error_message = cause.failure["message"]
    state.run.error_details = _details(state, cause)
    for row in _open_rows(state):
        if cause.path.startswith((f"{row.path}.", f"{row.path}[")):
            row.status, row.completed_at, row.error = StepStatus.FAILED, walk.now, cause.error
            state.touch(row)
        else:
            walk.cancel(row, "the run failed before this step ended")
    if state.plan.document.on_failure != "rollback":
        return _end(walk, RunStatus.FAILED)
    state.run.rollback = {"status": "running", "steps": [], "failed_steps": [], "plan_run_id": state.run.run_id}
    state.fatal = state.exited = None
    return _roll_back(walk)


def _first_failure(state: RunState) -> Step:
    failed = [(row.completed_at, row.path, row) for row in _top_rows(state) if row.has_failed and row.completed_at]
    return min(failed)[2]


def _details(state: RunState, cause: Step) -> JSON:
    error = cause.failure
    leaf = state.rows.get(error.get("step_id", ""), cause)
    failed = {row.failure.get("step_id", row.path): None for row in _top_rows(state) if row.has_failed}
    more = {key: error[key] for key in ("clarification_id", "approver_id") if error.get(key)}
    return {
        "code": error["code"],
        "step_id": leaf.path or None,
        "attempts": leaf.attempts,
        "failed_steps": list(failed) or [path for path in [leaf.path] if path],
        **more,
    }


def _end(walk: Walk, status: RunStatus) -> Verdict:
    run = walk.state.run
    walk.state.set_status(status, walk.now)
    run.started_at = run.started_at or walk.now
    run.completed_at = walk.now
    return Verdict(release=True, keep_pause=False)


# -- rollback


def _roll_back(walk: Walk) -> Verdict:
    """Run the rollback steps one by one, going on where one fails; then end the run as failed."""
    state = walk.state
    scope = top_level(state)
    nodes = [Node(step, step.id, scope) for step in _to_undo(state)]
    flow = walk.flow(nodes, one_by_one=True, keep_going=True)
    rows = [row for row in (state.rows.get(node.path) for node in nodes) if row and row.attempts]
    failed = [row.path for row in rows if row.has_failed]
    state.run.rollback = {**(state.run.rollback or {}), "steps": [row.path for row in rows], "failed_steps": failed}
    if flow is Flow.OPEN:
        return _settle(walk)
    state.run.rollback["status"] = "failed" if failed else "completed"
    return _end(walk, RunStatus.FAILED)


def _to_undo(state: RunState) -> list[StepSpec]:
    """The rollback steps whose steps completed, what was done last undone first; those that name no step come last."""
    found = []
    for step in state.plan.rollback:
        needs = [need for need in step.document.depends_on if need not in state.plan.undo]
        rows = [row for row in (state.rows.get(need) for need in needs) if row and row.status == StepStatus.COMPLETED]
        if len(rows) == len(needs):
            found.append((max((row.completed_at.timestamp() for row in rows if row.completed_at), default=0.0), step))
    return [step for _, step in sorted(found, key=lambda one: -one[0])]


def _open_rows(state: RunState) -> list[Step]:
    return [row for row in state.rows.values() if row.is_open]


def _top_rows(state: RunState) -> list[Step]:
    rows = (state.rows.get(step.id) for step in state.plan.flow)
    return [row for row in rows if row]
