"""One look over a run's steps: what may begin now, what has ended, and when to look again.

The walk changes rows in memory only and calls no tool: it hands back the calls to start. It may be done again at any
time with the same rows and comes to the same result.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from portia_runtime import arguments, clarifications, steps
from portia_runtime.documents import JSON
from portia_runtime.expressions import ExpressionError, MissingReferenceError
from portia_runtime.models import (
    FAILED_STEP,
    Clarification,
    ClarificationStatus,
    Resolution,
    Step,
    StepStatus,
)
from portia_runtime.plan_document import StepSpec
from portia_runtime.state import FATAL, Flow, Node, RunState, Start


@dataclass
class Walk:
    """One look over the steps; `starts` and `due` are its result beside the changed rows."""

    state: RunState
    in_flight: dict[str, Any]
    now: datetime
    starts: list[Start] = field(default_factory=list)
    due: list[datetime] = field(default_factory=list)

    def flow(self, nodes: Iterable[Node], *, one_by_one: bool, keep_going: bool = False) -> Flow:
        """Take a list of steps as far as it goes: one after the other, or all that can be under way."""
        nodes = list(nodes)
        if not keep_going and any(self._has_failed(node.path) for node in nodes):
            return Flow.FAILED
        waiting = False
        for node in nodes:
            row = self.state.row(node)
            if row.is_open:
                self._visit(node, row)
            if row.has_failed and not keep_going:
                return Flow.FAILED
            if row.is_open and one_by_one:
                return Flow.OPEN
            if self.state.exited or self.state.fatal:
                return Flow.OPEN
            waiting = waiting or row.is_open
        return Flow.OPEN if waiting else Flow.DONE

    def _has_failed(self, path: str) -> bool:
        row = self.state.rows.get(path)
        return row is not None and row.has_failed

    def _visit(self, node: Node, row: Step) -> None:
        if row.status == StepStatus.PENDING:
            if not self._may_begin(node, row):
                return
            row.started_at = row.started_at or self.now
        steps.ADVANCE[node.step.type](self, node, row)
        if row.is_open and node.step.children:
            self._check_container_time(node, row)

    def _check_container_time(self, node: Node, row: Step) -> None:
        """A step that holds others is timed as a whole; calls under way inside it are abandoned when its time is over."""
        limit = node.step.document.timeout
        if limit is None or row.started_at is None:
            return
        end = row.started_at + timedelta(seconds=limit)
        if end > self.now:
            self.due.append(end)
            return
        for path in [path for path in self.in_flight if path.startswith((f"{row.path}.", f"{row.path}["))]:
            del self.in_flight[path]
        for open_row in [one for one in self.state.below(row.path) if one.is_open]:
            self.cancel(open_row, "the step around it was over its time")
        self.starts[:] = [start for start in self.starts if not start.call.step_id.startswith(f"{row.path}")]
        self.fail(node.step, row, "step_timeout", f"not done within {limit:g} s")

    # -- may a step begin?

    def _may_begin(self, node: Node, row: Step) -> bool:
        """Whether all it waits for has ended well and its conditions hold; else it stays pending or is skipped."""
        for need in node.step.document.depends_on:
            if need in self.state.plan.undo:
                continue
            before = self.state.rows.get(node.scope.siblings[need])
            if before is None or before.is_open:
                return False
            if before.status in (StepStatus.SKIPPED, *FAILED_STEP, StepStatus.CANCELLED):
                self.skip(row, f"it depends on {need!r}, which is {before.status}")
                return False
        return self._gate_is_open(node, row) and self._conditions_hold(node, row)

    def _gate_is_open(self, node: Node, row: Step) -> bool:
        for condition, branch in node.step.gates:
            decided = self.state.rows.get(node.scope.siblings[condition])
            if decided is None or decided.is_open:
                return False
            if decided.status != StepStatus.COMPLETED:
                self.skip(row, f"the condition {condition!r} is {decided.status}")
                return False
            if (decided.output or {}).get("result") is not branch:
                self.skip(row, f"the condition {condition!r} chose the other branch")
                return False
        return True

    def _conditions_hold(self, node: Node, row: Step) -> bool:
        for condition in node.step.conditions:
            try:
                if not condition.is_true(node.scope.values(condition)):
                    self.skip(row, f"condition not met: {condition.text}")
                    return False
            except MissingReferenceError as error:
                self.skip(row, f"condition not met, it speaks of something that does not exist: {error}")
                return False
            except ExpressionError as error:
                self.fail(node.step, row, "invalid_arguments", f"condition {error}")
                return False
        return True

    # -- how a step ends

    def complete(self, step: StepSpec, row: Step, output: Any, *, reason: str | None = None) -> None:
        """The step is done; its output mapping sets variables of the run."""
        row.status, row.output, row.reason = StepStatus.COMPLETED, output, reason
        row.completed_at, row.next_attempt_at, row.error = self.now, None, None
        self.state.run.variables = {**self.state.run.variables, **arguments.mapped_outputs(step, output)}
        self._ended(row)

    def skip(self, row: Step, reason: str) -> None:
        """The step is not run."""
        row.status, row.reason, row.started_at, row.completed_at = StepStatus.SKIPPED, reason, None, self.now
        self._ended(row)

    def fail(self, step: StepSpec, row: Step, code: str, message: str, *, retryable: bool = False, **more: Any) -> None:
        """The attempt failed: wait for the next one if there is one, else the step failed."""
        row.error = {"code": code, "message": message, "step_id": row.path, **more}
        if retryable and row.attempts < step.retry.max_attempts:
            delay = step.retry.backoff.delay(row.attempts)
            self.wait(
                row, until=self.now + timedelta(seconds=delay), reason=f"attempt {row.attempts} failed: {message}"
            )
            row.state = {key: value for key, value in row.state.items() if key != "since"}
            return
        row.status = self._failed_status(step, code)
        row.completed_at, row.next_attempt_at, row.reason = self.now, None, message
        row.started_at = row.started_at or self.now
        self._ended(row)

    def _failed_status(self, step: StepSpec, code: str) -> StepStatus:
        if step.is_tolerated and code not in FATAL:
            return StepStatus.FAILED_IGNORED
        return StepStatus.TIMED_OUT if code in ("step_timeout", "run_timeout") else StepStatus.FAILED

    def wait(self, row: Step, *, until: datetime, reason: str) -> None:
        """The step goes on at a time."""
        row.status, row.next_attempt_at, row.reason = StepStatus.WAITING, until, reason
        self.state.touch(row)

    def _ended(self, row: Step) -> None:
        self.state.touch(row)
        self.state.note(row)

    def end_container(self, node: Node, row: Step, flow: Flow, output: Any) -> None:
        """End a step that holds others, once they have ended and no call is under way inside it."""
        if flow is Flow.DONE:
            self.complete(node.step, row, output, reason=row.reason)
        elif flow is Flow.FAILED and not self.is_busy(node.path):
            inside = list(self.state.below(node.path))
            cause = next((one for one in inside if one.has_failed), None)
            error: JSON = (cause.error if cause else None) or {
                "code": "internal_error",
                "message": "a step inside failed",
            }
            for open_row in [one for one in inside if one.is_open]:
                self.cancel(open_row, "a step beside it failed")
            more = {key: value for key, value in error.items() if key not in ("code", "message")}
            self.fail(node.step, row, error["code"], error["message"])
            row.error = {**row.failure, **more}

    def cancel(self, row: Step, reason: str, how: Resolution = Resolution.RUN_FAILED) -> None:
        """The step will not be finished; a question it asked is closed."""
        row.status, row.reason, row.completed_at, row.next_attempt_at = (
            StepStatus.CANCELLED, reason, self.now, None,
        )  # fmt: skip
        self.state.touch(row)
        asked = self.state.clarifications.get(row.state.get("clarification", ""))
        if asked:
            self.close(asked, ClarificationStatus.REJECTED, how)

    def close(self, asked: Clarification, status: ClarificationStatus, resolution: Resolution) -> None:
        """End an open question without an answer."""
        if asked.status == ClarificationStatus.PENDING:
            asked.status, asked.resolution, asked.responded_at = status, resolution, self.now
            self.state.closed.append(asked)

    # -- calls and questions

    @property
    def is_full(self) -> bool:
        """Whether as many tools are being called as the plan allows."""
        return len(self.in_flight) + len(self.starts) >= self.state.plan.max_concurrency

    def is_busy(self, path: str) -> bool:
        """Whether a call is under way, or about to be, inside the step at this path."""
        under_way = [*self.in_flight, *(start.call.step_id for start in self.starts)]
        return any(one.startswith((f"{path}.", f"{path}[")) for one in under_way)

    def ask(self, row: Step, question: Clarification, *, reason: str) -> None:
        """Raise a question and have the step wait for its answer."""
        self.state.clarifications[question.clarification_id] = question
        self.state.raised.append(question)
        row.status, row.reason, row.next_attempt_at = StepStatus.WAITING, reason, None
        row.state = {**row.state, "clarification": question.clarification_id}
        self.state.touch(row)

    def answered(self, row: Step) -> Clarification | None:
        """The approved question this step waits for, or nothing."""
        asked = self.state.clarifications.get(row.state.get("clarification", ""))
        return asked if asked and asked.status == ClarificationStatus.APPROVED else None

    def check_questions(self) -> None:
        """Fail the steps whose question was refused or is past its time."""
        for asked in list(self.state.clarifications.values()):
            row = self.state.rows.get(asked.step_id)
            if row and row.status == StepStatus.WAITING and row.state.get("clarification") == asked.clarification_id:
                self._check_question(row, asked)

    def _check_question(self, row: Step, asked: Clarification) -> None:
        if asked.status == ClarificationStatus.PENDING and asked.timeout_at:
            if asked.timeout_at > self.now:
                self.due.append(asked.timeout_at)
            else:
                self.close(asked, ClarificationStatus.TIMEOUT, Resolution.TIMEOUT)
        refusal = clarifications.refusal(asked)
        if refusal:
            row.error = {**refusal, "step_id": row.path, "clarification_id": asked.clarification_id}
            row.status, row.reason, row.completed_at = StepStatus.FAILED, refusal["message"], self.now
            self._ended(row)
