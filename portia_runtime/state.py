"""A run in the memory of the worker that holds it: its rows, and what a name means at each place of the plan."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, auto
from typing import Any

from portia_runtime.documents import JSON
from portia_runtime.expressions import Expression
from portia_runtime.models import Clarification, ClarificationStatus, Run, RunStatus, Step, StepStatus
from portia_runtime.plan_document import PlanSpec, StepSpec
from portia_runtime.templates import MissingPathError, descend, segments
from portia_runtime.tools import Tool, ToolCall

FATAL = {"clarification_rejected", "clarification_timeout", "run_timeout", "interrupted", "exit"}


class Flow(Enum):
    """How far a list of steps is."""

    OPEN = auto()
    DONE = auto()
    FAILED = auto()


@dataclass(frozen=True, kw_only=True)
class Start:
    """A tool to call now; `limit` in seconds."""

    step: StepSpec
    tool: Tool
    call: ToolCall
    limit: float | None


@dataclass
class RunState:
    """Everything the engine knows of a run. What is changed here is stored by the next commit of the journal."""

    run: Run
    plan: PlanSpec
    rows: dict[str, Step] = field(default_factory=dict)
    clarifications: dict[str, Clarification] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    raised: list[Clarification] = field(default_factory=list)
    closed: list[Clarification] = field(default_factory=list)
    cursors: dict[str, int] = field(default_factory=dict)
    fatal: Step | None = None
    exited: Step | None = None

    def __post_init__(self) -> None:
        for row in self.rows.values():
            self.note(row)

    def row(self, node: Node) -> Step:
        """The row of a step; one that was never touched gets a row in memory only."""
        row = self.rows.get(node.path)
        if row is None:
            step = node.step
            row = Step(
                run_id=self.run.run_id,
                path=node.path,
                position=len(self.rows),
                name=step.name,
                type=step.type,
                state={},
            )
            self.rows[node.path] = row
        return row

    def touch(self, row: Step) -> None:
        """Have the row stored by the next commit."""
        self.changed.add(row.path)

    def note(self, row: Step) -> None:
        """Remember the row if it ends the run before its last step."""
        if self.run.is_rolling_back:
            return
        if row.has_failed and row.failure.get("code") in FATAL and self.fatal is None:
            self.fatal = row
        if row.type == "exit" and row.status == StepStatus.COMPLETED:
            self.exited = row

    def below(self, path: str) -> Iterable[Step]:
        """The rows of the steps inside the one at this path."""
        inside = (f"{path}.", f"{path}[")
        return [row for row in self.rows.values() if row.path.startswith(inside)]

    @property
    def is_changed(self) -> bool:
        """Whether there is something to store."""
        return bool(self.changed or self.raised or self.closed)

    def pending_clarifications(self) -> list[Clarification]:
        """The questions nobody answered yet."""
        return [one for one in self.clarifications.values() if one.status == ClarificationStatus.PENDING]

    def active_seconds(self, now: datetime) -> float:
        """How long the run has been running, without the time it waited for people or was paused."""
        since = self.run.active_since
        return self.run.active_seconds + ((now - since).total_seconds() if since else 0.0)

    def set_status(self, status: RunStatus, now: datetime, *, reason: str | None = None) -> None:
        """Change the run's status, keeping the account of its active time."""
        run = self.run
        run.active_seconds = self.active_seconds(now)
        run.active_since = now if status == RunStatus.RUNNING else None
        run.status, run.paused_reason = status, reason
        if status != RunStatus.PENDING and run.started_at is None:
            run.started_at = now


@dataclass(frozen=True)
class Scope:
    """What names mean at one place: `siblings` are step ids with their paths, `local` the names of a loop."""

    state: RunState
    siblings: dict[str, str]
    local: JSON = field(default_factory=dict)
    outer: Scope | None = None

    def lookup(self, path: str) -> Any:
        """The value at a path of the contract. Raises MissingPathError."""
        first, *rest = segments(path)
        found, value = self._named(str(first), whole=not rest)
        if not found:
            raise MissingPathError(path)
        return descend(value, path, rest)

    def knows(self, name: str) -> bool:
        """Whether the name is one of a step, a loop or a root, even where it has no value yet."""
        return name in ("steps", "variables", "parameters") or any(
            name in scope.siblings or name in scope.local for scope in self._outward()
        )

    def values(self, expression: Expression) -> JSON:
        """The values of the names an expression uses; a name without a value is left out."""
        found = {name: self._named(name) for name in expression.names}
        return {name: value for name, (exists, value) in found.items() if exists}

    def _outward(self) -> Iterable[Scope]:
        scope: Scope | None = self
        while scope:
            yield scope
            scope = scope.outer

    def _named(self, name: str, *, whole: bool = False) -> tuple[bool, Any]:
        for scope in self._outward():
            if name in scope.local:
                return True, scope.local[name]
            if name in scope.siblings:
                return self._step(scope.siblings[name], whole=whole)
        run = self.state.run
        roots = {"variables": run.variables, "parameters": run.parameters}
        if name == "steps":
            return True, self._all_steps()
        for values in (roots, run.variables, run.parameters):
            if name in values:
                return True, values[name]
        return False, None

    def _step(self, path: str, *, whole: bool) -> tuple[bool, Any]:
        row = self.state.rows.get(path)
        if whole:
            return bool(row and row.status == StepStatus.COMPLETED), row.output if row else None
        return True, facts(row)

    def _all_steps(self) -> JSON:
        paths: dict[str, str] = {}
        for scope in self._outward():
            paths = {**scope.siblings, **paths}
        return {step_id: facts(self.state.rows.get(path)) for step_id, path in paths.items()}


def facts(row: Step | None) -> JSON:
    """What others may ask about a step; the fields of its output win over the names of the facts."""
    if row is None:
        return {"status": "pending", "success": False, "error": None, "attempts": 0}
    known = {
        "status": str(row.status),
        "success": row.status == StepStatus.COMPLETED,
        "error": row.error,
        "attempts": row.attempts,
    }
    if row.status != StepStatus.COMPLETED:
        return known
    return {**known, "output": row.output, **(row.output if isinstance(row.output, dict) else {})}


@dataclass(frozen=True)
class Node:
    """A step at its place in a run."""

    step: StepSpec
    path: str
    scope: Scope


def top_level(state: RunState) -> Scope:
    """The scope of the plan's own steps."""
    return Scope(state, {step.id: step.id for step in state.plan.steps})


def inside(
    node: Node, steps: Iterable[StepSpec], *, prefix: str | None = None, local: JSON | None = None
) -> list[Node]:
    """The nodes of steps inside another one; `prefix` where it differs from the outer step's path."""
    steps = list(steps)
    paths = {step.id: f"{prefix or node.path}.{step.id}" for step in steps}
    scope = Scope(node.scope.state, paths, local or {}, node.scope)
    return [Node(step, paths[step.id], scope) for step in steps]
