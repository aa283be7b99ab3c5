"""Steps as a person reads them: what Portia reports about a run, together with what the plan says about each step."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from typing import Any

from executions.models import Plan, Run, RunStep

MOST = 500  # steps on one page; a loop may have made thousands
TEXT_OF_KIND = {
    "action": "uses a tool", "approval": "asks for approval", "user_input": "asks a person", "exit": "ends the run",
    "condition": "decides by a condition", "loop": "repeats steps", "parallel": "runs steps at once",
    "sequence": "runs steps in turn",
}  # fmt: skip
ROUND = re.compile(r"\[\d+\]")  # of a loop, as in loop[2].pay


@dataclass(frozen=True, kw_only=True)
class StepLine:
    """One line of the list of steps."""

    id: str
    name: str
    kind: str
    tool: str
    status: str
    depth: int = 0
    attempts: int = 0
    started_at: datetime | None = None
    completed_at: datetime | None = None
    next_attempt_at: datetime | None = None
    output: Any = None
    error: Any = None
    reason: str = ""

    @property
    def error_text(self) -> str:
        """What went wrong, in a sentence."""
        return error_text(self.error)

    @property
    def icon(self) -> str:
        """The state whose icon fits: a step that waits for its time does not wait for a person."""
        return "pending" if self.next_attempt_at is not None else self.status

    @property
    def round(self) -> int | None:
        """Which round of a loop this is, from 1; None outside a loop."""
        found = re.findall(r"\[(\d+)\]", self.id)
        return int(found[-1]) + 1 if found else None


def main_steps(plan: Plan) -> list[dict[str, Any]]:
    """The steps of the plan's main flow, in the order of the document."""
    flows = plan.document.get("flows") or []
    main = plan.document.get("main_flow")
    flow = next((one for one in flows if one.get("flow_id") == main), flows[0] if flows else {})
    return list(flow.get("steps") or [])


def steps_of(run: Run) -> list[StepLine]:
    """The steps of a run, as reported; steps of the plan that were not reported yet follow as pending."""
    planned = {step["step_id"]: step for step in main_steps(run.plan)}
    reported = list(run.steps.order_by("position")[:MOST])
    seen = {step.step_id for step in reported}
    find = cache(partial(_step_at, run.plan))
    lines = [_reported(step, find(ROUND.sub("", step.step_id))) for step in reported]
    return lines + [_planned(step) for step_id, step in planned.items() if step_id not in seen][: MOST - len(lines)]


def dependents(plan: Plan, step_id: str) -> list[StepLine]:
    """The steps that wait for this step and come next."""
    return [_planned(step) for step in main_steps(plan) if step_id in (step.get("depends_on") or [])]


def error_text(error: Any) -> str:
    """Say what went wrong: the message of an error object, or the text itself."""
    if isinstance(error, dict):
        return str(error.get("message") or error.get("detail") or error.get("code") or "")
    return str(error or "")


def tool_words(tool: Any, action: Any) -> str:
    """Name a tool and what it is asked to do: `email_connector` and `send` give `email connector: send`."""
    return ": ".join(str(part).replace("_", " ") for part in (tool, action) if part)


def _step_at(plan: Plan, path: str) -> dict[str, Any]:
    """What the plan says about a step: `loop.check.pay` is the step `pay` inside `check` inside `loop`."""
    beside, step = main_steps(plan), {}
    for step_id in path.split("."):
        step = next((one for one in beside if one.get("step_id") == step_id), {})
        beside = _inside(plan, step.get("parameters") or {})
    return step


def _inside(plan: Plan, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """The steps a loop, a condition or a sequence is made of, written in it or as a flow of their own."""
    flows = {flow.get("flow_id"): flow.get("steps") or [] for flow in plan.document.get("flows") or []}
    written = [parameters.get(name) for name in ("steps", "then", "else")]
    named = [flows.get(str(parameters.get(name))) for name in ("flow", "then_flow", "else_flow")]
    lists = [one for one in written + named if isinstance(one, list)]
    return [step for steps in lists for step in steps if isinstance(step, dict)]


def _planned(step: dict[str, Any]) -> StepLine:
    return StepLine(
        id=step["step_id"],
        name=step.get("name") or step["step_id"],
        kind=_kind(step.get("step_type") or "action"),
        tool=tool_words(step.get("tool"), step.get("action")),
        status="pending",
    )


def _reported(step: RunStep, plan: dict[str, Any]) -> StepLine:
    return StepLine(
        id=step.step_id,
        name=step.name,
        kind=_kind(step.step_type),
        tool=tool_words(plan.get("tool"), plan.get("action")),
        status=step.status,
        depth=min(len(re.findall(r"\.", step.step_id)), 4),
        attempts=step.attempts,
        started_at=step.started_at,
        completed_at=step.completed_at,
        next_attempt_at=step.next_attempt_at,
        output=step.output,
        error=step.error,
        reason=step.reason,
    )


def _kind(step_type: str) -> str:
    return TEXT_OF_KIND.get(step_type, step_type.replace("_", " "))
