"""What Portia says about a run, written down: a snapshot onto a locked run, its steps and its status.

A snapshot no newer than what is known writes nothing, so that a repeat, or two answers in the wrong order, change nothing.
"""

from __future__ import annotations

from typing import Any

from executions import events
from executions.actions import renewals
from executions.models import Kind, Run, RunReason, RunStatus, RunStep, Work
from executions.models.run import TERMINAL
from executions.portia.wire import PortiaPlanRun, StepState

LONGEST_ID = 1024  # characters of a nested step's id
NESTED = ".["  # what the ids of nested steps have: `group.child`, `loop[2].child`
SNAPSHOT = (
    "portia_version", "portia_missing_since", "progress", "current_step", "pause_pending", "results", "rollback",
    "pending_clarifications",
)  # fmt: skip
STATUS_OF_REMOTE = {
    "pending": (RunStatus.RUNNING, RunReason.EXECUTING),
    "running": (RunStatus.RUNNING, RunReason.EXECUTING),
    "completed": (RunStatus.COMPLETED, RunReason.OK),
    "failed": (RunStatus.FAILED, RunReason.STEP_FAILED),
    "cancelled": (RunStatus.CANCELLED, RunReason.CANCEL_REQUESTED),
}
REASON_OF_ERROR = {
    "clarification_rejected": RunReason.REJECTED,
    "clarification_timeout": RunReason.CLARIFICATION_EXPIRED,
    "run_timeout": RunReason.TIMED_OUT,
    "tool_not_allowed": RunReason.CAPABILITY_DENIED,
}


def apply(run: Run, remote: PortiaPlanRun) -> bool:
    """Write a snapshot of Portia's onto a locked run; False where it is no newer than what is known.

    Needs the caller's transaction.
    """
    if remote.version <= run.portia_version or run.is_terminal:
        return False
    questions_before = run.pending_clarifications
    finished = _store_steps(run, remote.steps)
    run.portia_version, run.portia_missing_since = remote.version, None
    run.progress = min(max(remote.progress, 0.0), 1.0)
    run.current_step = (remote.current_step or "")[:LONGEST_ID]
    run.pause_pending = remote.pause_requested
    run.results, run.rollback = remote.results, remote.rollback
    run.pending_clarifications = remote.pending_clarifications
    for step in finished:
        events.record(run=run, kind=events.STEP_COMPLETED, by="portia", data=_step_facts(step), subject=step.step_id)
    _follow(run, remote, also=SNAPSHOT)
    ended_with_questions = run.is_terminal and (questions_before or run.pending_clarifications)
    if run.pending_clarifications != questions_before or ended_with_questions:
        Work.objects.schedule(run.pk, Kind.CLARIFICATIONS)
    return True


def _follow(run: Run, remote: PortiaPlanRun, *, also: tuple[str, ...]) -> None:
    """Move the run to where the snapshot says it is and save it; a status word we do not know moves nothing."""
    status, reason = _meaning(remote) or (run.status, run.reason)
    if renewals.is_held(run) and remote.pending_clarifications and status not in TERMINAL:
        status, reason = run.status, run.reason  # kept back here, whatever else goes on there
    error = None
    if status == RunStatus.FAILED:
        error = {"code": "failed", **remote.error_details, "message": remote.error_message or ""}
    if status in TERMINAL and remote.rollback and remote.rollback.get("status") == "completed":
        events.record(run=run, kind=events.ROLLED_BACK, by="portia", data={"steps": remote.rollback.get("steps", [])})
    run.transition(status, reason, error=error, also=also)


def _meaning(remote: PortiaPlanRun) -> tuple[str, str] | None:
    rollback = str(remote.rollback.get("status", ""))
    if remote.status == "paused":
        waits = remote.paused_reason == "clarification"
        return RunStatus.PAUSED, RunReason.AWAITING_CLARIFICATION if waits else RunReason.PAUSE_REQUESTED
    if remote.status == "running" and rollback == "running":
        return RunStatus.RUNNING, RunReason.ROLLING_BACK
    if remote.status == "failed" and rollback == "failed":
        return RunStatus.FAILED, RunReason.ROLLBACK_FAILED
    if remote.status == "failed":
        return RunStatus.FAILED, REASON_OF_ERROR.get(str(remote.error_details.get("code")), RunReason.STEP_FAILED)
    return STATUS_OF_REMOTE.get(remote.status)


def _store_steps(run: Run, states: list[StepState]) -> list[RunStep]:
    """Write the steps that changed; returns the top-level ones that completed since the last snapshot."""
    known = {step.step_id: step for step in RunStep.objects.filter(run=run)}
    named = {state.id[:LONGEST_ID]: state for state in states}
    fresh = [_run_step(run, position, state) for position, state in enumerate(named.values())]
    changed = [step for step in fresh if _differs(known.get(step.step_id), step)]
    RunStep.objects.bulk_create(
        changed,
        update_conflicts=True,
        unique_fields=["run", "step_id"],
        update_fields=[
            "position", "name", "step_type", "status", "attempts", "output", "error", "reason", "started_at",
            "completed_at", "next_attempt_at",
        ],
    )  # fmt: skip
    was_completed = {step_id for step_id, step in known.items() if step.status == "completed"}
    completed = [step for step in changed if step.status == "completed" and step.step_id not in was_completed]
    return [step for step in completed if not set(step.step_id) & set(NESTED)]


def _run_step(run: Run, position: int, state: StepState) -> RunStep:
    return RunStep(
        run=run,
        step_id=state.id[:LONGEST_ID],
        position=position,
        name=state.name[:256],
        step_type=state.type[:32],
        status=state.status[:32],
        attempts=state.attempts,
        output=state.output,
        error=state.error,
        reason=state.reason or "",
        started_at=state.started_at,
        completed_at=state.completed_at,
        next_attempt_at=state.next_attempt_at,
    )


def _differs(known: RunStep | None, fresh: RunStep) -> bool:
    compared = ("position", "status", "attempts", "output", "error", "reason", "completed_at", "next_attempt_at")
    return known is None or any(getattr(known, name) != getattr(fresh, name) for name in compared)


def _step_facts(step: RunStep) -> dict[str, Any]:
    return {"step_id": step.step_id, "type": step.step_type, "attempts": step.attempts}
