"""Rows as the JSON of the contract."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from portia_runtime import plans
from portia_runtime.clarifications import TYPES
from portia_runtime.documents import JSON
from portia_runtime.models import (
    Clarification,
    ClarificationStatus,
    PausedReason,
    Plan,
    Run,
    RunStatus,
    Step,
    StepStatus,
)
from portia_runtime.plan_document import PlanSpec, StepSpec

STATES = {
    RunStatus.PENDING: "NOT_STARTED",
    RunStatus.RUNNING: "IN_PROGRESS",
    RunStatus.COMPLETED: "COMPLETE",
    RunStatus.FAILED: "FAILED",
    RunStatus.CANCELLED: "FAILED",
}
FINISHED = {
    StepStatus.COMPLETED, StepStatus.FAILED, StepStatus.FAILED_IGNORED, StepStatus.SKIPPED, StepStatus.TIMED_OUT,
}  # fmt: skip
NOW_AT = (StepStatus.RUNNING, StepStatus.WAITING)


def plan(row: Plan) -> JSON:
    """A stored plan: as it was sent, with what the runtime adds."""
    return {
        **row.document,
        "created_at": row.document.get("created_at") or time(row.created_at),
        "fingerprint": row.fingerprint,
        "portia_plan_id": row.portia_plan_id,
    }


def runs(rows: Sequence[Run]) -> list[JSON]:
    """Runs in the order given, with two queries for all of them."""
    ids = [row.run_id for row in rows]
    steps: dict[str, list[Step]] = defaultdict(list)
    for step in Step.objects.filter(run_id__in=ids).order_by("position"):
        steps[step.run_id].append(step)
    pending: dict[str, list[str]] = defaultdict(list)
    asked = Clarification.objects.filter(run_id__in=ids, status=ClarificationStatus.PENDING).order_by("requested_at")
    for run_id, clarification_id in asked.values_list("run_id", "clarification_id"):
        pending[run_id].append(clarification_id)
    return [_run(row, steps[row.run_id], pending[row.run_id]) for row in rows]


def run(row: Run) -> JSON:
    """One run."""
    return runs([row])[0]


def new_run(row: Run) -> JSON:
    """A run nothing has happened to yet: needs no query."""
    return _run(row, [], [])


def _run(row: Run, steps: list[Step], pending: list[str]) -> JSON:
    spec = plans.spec(row.plan_id)
    by_path = {step.path: step for step in steps}
    current = _current(row, spec, by_path)
    return {
        "run_id": row.run_id,
        "plan_id": spec.document.plan_id,
        "status": row.status,
        "state": _state(row),
        "paused_reason": row.paused_reason,
        "started_at": time(row.started_at),
        "completed_at": time(row.completed_at),
        "created_at": time(row.created_at),
        "updated_at": time(row.updated_at),
        "triggered_by": row.triggered_by or None,
        "end_user_id": row.end_user_id or None,
        "parameters": row.parameters,
        "variables": row.variables,
        "results": _results(spec, by_path),
        "final_output": row.final_output,
        "progress": _progress(row, spec, by_path),
        "current_step": current,
        "current_step_index": spec.position[current] if current else None,
        "error_message": row.error_message,
        "error_details": row.error_details,
        "steps": _steps(row, spec, steps, by_path),
        "pending_clarifications": pending,
        "pause_requested": row.pause_requested,
        "cancel_requested": row.cancel_requested,
        "rollback": row.rollback,
        "metadata": row.metadata,
        "correlation_id": row.correlation_id or None,
        "version": row.version,
    }


def _state(row: Run) -> str:
    if row.status != RunStatus.PAUSED:
        return STATES[RunStatus(row.status)]
    if row.paused_reason == PausedReason.CLARIFICATION:
        return "NEED_CLARIFICATION"
    return "READY_TO_RESUME" if row.started_at else "NOT_STARTED"


def _results(spec: PlanSpec, by_path: dict[str, Step]) -> JSON:
    rows = [by_path[step.id] for step in spec.steps if step.id in by_path]
    return {row.path: row.output for row in rows if row.status == StepStatus.COMPLETED}


def _progress(row: Run, spec: PlanSpec, by_path: dict[str, Step]) -> float:
    """Finished of all top-level steps; rollback steps do not count."""
    if row.status == RunStatus.COMPLETED:
        return 1.0
    finished = sum(step.id in by_path and by_path[step.id].status in FINISHED for step in spec.flow)
    return round(finished / len(spec.flow), 4) if spec.flow else 0.0


def _current(row: Run, spec: PlanSpec, by_path: dict[str, Step]) -> str | None:
    """The top-level step the run is at: one that is under way, else the first that has not ended."""
    if row.has_ended:
        return None
    steps = spec.rollback if row.is_rolling_back else spec.flow
    under_way = [step.id for step in steps if step.id in by_path and by_path[step.id].status in NOW_AT]
    to_come = [step.id for step in steps if step.id not in by_path or by_path[step.id].is_open]
    return next(iter(under_way or to_come), None)


def _steps(row: Run, spec: PlanSpec, steps: list[Step], by_path: dict[str, Step]) -> list[JSON]:
    """Every top-level step in the plan's order, each followed by what happened inside it."""
    nested: dict[str, list[Step]] = defaultdict(list)
    for step in steps:
        top = step.path.partition(".")[0].partition("[")[0]
        if step.path != top:
            nested[top].append(step)
    found = []
    for planned in spec.steps:
        known = by_path.get(planned.id)
        found.append(_step(known) if known else _untouched(row, spec, planned))
        found += [_step(inner) for inner in nested[planned.id]]
    return found


def _step(row: Step) -> JSON:
    return {
        "id": row.path,
        "step_id": row.path,
        "name": row.name,
        "type": row.type,
        "status": row.status,
        "attempts": row.attempts,
        "started_at": time(row.started_at),
        "completed_at": time(row.completed_at),
        "next_attempt_at": time(row.next_attempt_at),
        "output": row.output,
        "error": row.error,
        "reason": row.reason,
    }


def _untouched(row: Run, spec: PlanSpec, planned: StepSpec) -> JSON:
    """A step nothing happened to: still to come, or passed over by the end of the run."""
    status, reason = StepStatus.PENDING, None
    if row.has_ended and planned.id in spec.undo:
        status, reason = StepStatus.SKIPPED, "there was nothing to roll back"
    elif row.has_ended:
        is_done = row.status == RunStatus.COMPLETED
        status = StepStatus.SKIPPED if is_done else StepStatus.CANCELLED
        reason = "the run ended before"
    return _step(Step(path=planned.id, name=planned.name, type=planned.type, status=status, reason=reason))


def clarification(row: Clarification) -> JSON:
    """A question and, once given, its answer."""
    return {
        "clarification_id": row.clarification_id,
        "id": row.clarification_id,
        "run_id": row.run_id,
        "plan_run_id": row.run_id,
        "title": row.title,
        "description": row.guidance,
        "user_guidance": row.guidance,
        "clarification_type": TYPES[row.category],
        "category": row.category,
        "required_approvers": row.required_approvers,
        "approval_rules": row.approval_rules,
        "status": row.status,
        "resolution": row.resolution,
        "resolved": row.status != ClarificationStatus.PENDING,
        "response": row.response,
        "step": row.step_index,
        "step_id": row.step_id,
        "source": f"step:{row.step_id}",
        "requested_at": time(row.requested_at),
        "responded_at": time(row.responded_at),
        "timeout_at": time(row.timeout_at),
        "approver_id": row.approver_id,
        "response_reason": row.response_reason,
        "response_metadata": row.response_metadata,
        "action": row.action,
        "action_digest": row.action_digest or None,
        **row.details,
    }


def clarifications(rows: Iterable[Clarification]) -> JSON:
    """The envelope of a list of questions."""
    found = [clarification(row) for row in rows]
    return {"clarifications": found, "count": len(found)}


def time(value: Any) -> str | None:
    """RFC 3339 in UTC."""
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else None
