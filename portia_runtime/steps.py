"""What each type of step does when the walk comes by; a handler never blocks and never calls a tool itself."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from portia_runtime import arguments, clarifications, containers, tools
from portia_runtime.documents import JSON
from portia_runtime.models import Step, StepStatus
from portia_runtime.plan_document import ApprovalParameters, QuestionParameters, StepSpec
from portia_runtime.state import Node, Start
from portia_runtime.templates import MissingPathError, expand

if TYPE_CHECKING:
    from portia_runtime.walk import Walk


# -- action


def advance_action(walk: Walk, node: Node, row: Step) -> None:
    """Start the tool when its time has come, its arguments are right and, where asked for, somebody approved them."""
    if row.status == StepStatus.RUNNING or walk.is_full:
        return
    if row.next_attempt_at and row.next_attempt_at > walk.now:
        walk.due.append(row.next_attempt_at)
        return
    try:
        given = arguments.resolved(node)
    except MissingPathError as error:
        walk.fail(node.step, row, "invalid_arguments", str(error))
        return
    refusal = _refusal(walk, node, given)
    if refusal:
        walk.fail(node.step, row, *refusal)
    elif _is_approved(walk, node, row, given):
        _start(walk, node, row, given)


def _refusal(walk: Walk, node: Node, given: JSON) -> tuple[str, str] | None:
    """Why the call may not be made, as (code, sentence)."""
    name = node.step.document.tool
    tool = tools.find(name)
    allowed = walk.state.plan.document.allowed_tools
    if tool is None:
        return "tool_not_found", f"there is no tool {name!r}"
    if allowed and name not in allowed:
        return "tool_not_allowed", f"the tool {name!r} is not among the plan's allowed_tools"
    errors = [f"{place.lstrip('.') or 'arguments'}: {message}" for place, message in tool.argument_errors(given)]
    return ("invalid_arguments", "; ".join(errors[:5])) if errors else None


def _is_approved(walk: Walk, node: Node, row: Step, given: JSON) -> bool:
    """Whether the step needs no approval, or this very call was approved; else the question is asked (again)."""
    if node.step.document.approval is None:
        return True
    sealed = clarifications.sealed_call(walk.state, node, given)
    asked = walk.state.clarifications.get(row.state.get("clarification", ""))
    if asked is None:
        walk.ask(row, clarifications.for_call(walk.state, node, sealed, walk.now), reason="waiting for approval")
        return False
    if walk.answered(row) and asked.action_digest != clarifications.seal(sealed):
        question = clarifications.for_call(walk.state, node, sealed, walk.now)
        walk.ask(row, question, reason="what was approved has changed: waiting for a new approval")
    return walk.answered(row) is not None


def _start(walk: Walk, node: Node, row: Step, given: JSON) -> None:
    tool = tools.find(node.step.document.tool)
    if tool is None:
        raise LookupError(node.step.document.tool)
    since = row.state.get("since")
    if since is None:
        row.attempts += 1
    limit = node.step.document.timeout or tool.timeout
    began = datetime.fromisoformat(since) if since else walk.now
    row.status, row.next_attempt_at, row.reason = StepStatus.RUNNING, None, None
    walk.state.touch(row)
    call = tools.ToolCall(
        arguments=given,
        tenant=walk.state.run.tenant,
        run_id=walk.state.run.run_id,
        step_id=node.path,
        attempt=row.attempts,
        started_at=began,
        action=node.step.document.action,
        timeout=limit,
    )
    left = max(limit - (walk.now - began).total_seconds(), 0.0) if limit else None
    walk.starts.append(Start(step=node.step, tool=tool, call=call, limit=left))


def postpone(walk: Walk, step: StepSpec, row: Step, call: tools.ToolCall, seconds: float) -> None:
    """The tool wants to be called again later, within the same attempt."""
    until = walk.now + timedelta(seconds=seconds)
    if call.timeout:
        until = min(until, call.started_at + timedelta(seconds=call.timeout))
        if until <= walk.now:
            walk.fail(step, row, "step_timeout", f"no result within {call.timeout:g} s", retryable=True)
            return
    row.state = {**row.state, "since": call.started_at.isoformat()}
    walk.wait(row, until=until, reason="waiting for its time")


# -- people, and the end


def advance_question(walk: Walk, node: Node, row: Step) -> None:
    """Ask; once answered, the answer is the step's output."""
    if row.status == StepStatus.PENDING:
        try:
            settings = clarifications.resolved_settings(node)
        except (MissingPathError, ValueError) as error:
            walk.fail(node.step, row, "invalid_arguments", str(error))
            return
        row.attempts = 1
        walk.ask(row, _question(walk, node, settings), reason="waiting for an answer")
    answer = walk.answered(row)
    if answer:
        walk.complete(node.step, row, clarifications.output(answer))


def _question(walk: Walk, node: Node, settings: ApprovalParameters | QuestionParameters) -> Any:
    if isinstance(settings, ApprovalParameters):
        return clarifications.for_approval(walk.state, node, settings, walk.now)
    return clarifications.for_input(walk.state, node, settings, walk.now)


def advance_exit(walk: Walk, node: Node, row: Step) -> None:
    """End the run here: failed when `error` is true, else completed."""
    row.attempts = 1
    try:
        message = expand(node.step.settings.message, node.scope.lookup)
        is_error = expand(node.step.settings.error, node.scope.lookup)
    except MissingPathError as error:
        walk.fail(node.step, row, "invalid_arguments", str(error))
        return
    if is_error is True or is_error == "true":
        walk.fail(node.step, row, "exit", str(message) or "the plan ended the run as failed")
    else:
        walk.complete(node.step, row, {"message": message})


ADVANCE: dict[str, Callable[[Walk, Node, Step], None]] = {
    "action": advance_action,
    "condition": containers.advance_condition,
    "loop": containers.advance_loop,
    "parallel": containers.advance_group,
    "sequence": containers.advance_group,
    "approval": advance_question,
    "user_input": advance_question,
    "exit": advance_exit,
}
