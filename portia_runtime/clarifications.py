"""Questions to people: raising them, sealed to what they are asked about, and what their end means (contract section 6)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from portia_runtime.documents import JSON, digest
from portia_runtime.models import (
    Clarification,
    ClarificationStatus,
)
from portia_runtime.plan_document import ApprovalParameters, Document, QuestionParameters
from portia_runtime.state import Node, RunState
from portia_runtime.templates import MissingPathError, as_text, expand
from safe_json_schema import flaws

VERIFICATION, ACTION, INPUT = "User Verification", "Action", "Input"
CHOICE, VALUE, CUSTOM = "Multiple Choice", "Value Confirmation", "Custom"
TYPES = {
    VERIFICATION: "approval",
    ACTION: "action",
    INPUT: "input",
    CHOICE: "multiple_choice",
    VALUE: "value_confirmation",
    CUSTOM: "custom",
}

# -- raising


def sealed_call(state: RunState, node: Node, arguments: JSON) -> JSON:
    """What an approval is given for: this tool, these arguments, this step of this plan."""
    document = node.step.document
    return {
        "tool": document.tool or None,
        "action": document.action or None,
        "arguments": arguments,
        "step_id": node.path,
        "plan_hash": plan_hash(state),
    }


def plan_hash(state: RunState) -> str:
    """The hash the plan names in its metadata, else what its plan_id ends in."""
    named = state.plan.document.metadata.get("plan_hash")
    return named if isinstance(named, str) else state.plan.document.plan_id.rpartition("-")[2]


def seal(action: JSON) -> str:
    """Hex SHA-256 of the action's canonical JSON."""
    return digest(action)


def for_call(state: RunState, node: Node, action: JSON, now: datetime) -> Clarification:
    """The question before a tool is called. The plan's step has an `approval` block."""
    block = node.step.document.approval
    if block is None:
        raise ValueError(f"the step {node.path} has no approval block")
    title = _said(node, block.title) or f"Approve {node.step.name}"
    guidance = (
        _said(node, block.message) or node.step.document.description or f"May {node.step.document.tool} be called?"
    )
    return Clarification(
        **_common(state, node, now, block.timeout),
        category=VERIFICATION,
        title=title,
        guidance=guidance,
        required_approvers=block.required_approvers,
        approval_rules=block.approval_rules,
        action=action,
        action_digest=seal(action),
    )


def _said(node: Node, text: str | None) -> str:
    """The text with its templates filled in; as it stands where one names nothing: a person has to be asked all the same."""
    try:
        return as_text(expand(text, node.scope.lookup))
    except MissingPathError:
        return text or ""


def resolved_settings(node: Node) -> Any:
    """The question's parameters with their templates expanded. Raises MissingPathError or ValueError."""
    settings: Document = node.step.settings
    expanded = expand(node.step.document.parameters, node.scope.lookup)
    block = node.step.document.approval
    if block is not None and isinstance(settings, ApprovalParameters):
        expanded = {**expanded, **expand(block.model_dump(exclude_defaults=True), node.scope.lookup)}
    resolved = type(settings).model_validate(expanded)
    for place, schema in resolved.schemas.items() if isinstance(resolved, QuestionParameters) else ():
        for _, message in flaws(schema):
            raise ValueError(f"{place} cannot be used: {message}")
    return resolved


def for_approval(state: RunState, node: Node, settings: ApprovalParameters, now: datetime) -> Clarification:
    """The question of an approval step: sealed to the parameters as they are shown."""
    action = sealed_call(state, node, expand(node.step.document.parameters, node.scope.lookup))
    return Clarification(
        **_common(state, node, now, settings.timeout),
        category=VERIFICATION,
        title=settings.title or node.step.name,
        guidance=settings.message or node.step.document.description or node.step.name,
        required_approvers=_words(settings.required_approvers),
        approval_rules=_words(settings.approval_rules),
        action=action,
        action_digest=seal(action),
    )


def for_input(state: RunState, node: Node, settings: QuestionParameters, now: datetime) -> Clarification:
    """The question of a user_input step, of any category. Raises ValueError when its options are no list."""
    category = settings.category or (CHOICE if settings.options else INPUT)
    return Clarification(
        **_common(state, node, now, settings.timeout),
        category=category,
        title=settings.title or node.step.name,
        guidance=settings.message or node.step.document.description or node.step.name,
        required_approvers=_words(settings.required_approvers),
        approval_rules=_words(settings.approval_rules),
        details=_details(node, category, settings),
    )


def _details(node: Node, category: str, settings: QuestionParameters) -> JSON:
    argument_name = settings.argument_name or node.step.id
    schema = {"schema": settings.schema_} if settings.schema_ else {}
    by_category: dict[str, JSON] = {
        VERIFICATION: {},
        ACTION: {"action_url": settings.action_url, "require_confirmation": settings.require_confirmation},
        INPUT: {"argument_name": argument_name, "data": {**settings.data, **schema}},
        CHOICE: {"argument_name": argument_name, "options": list(settings.options), "data": settings.data},
        VALUE: {"argument_name": argument_name, "data": {**settings.data, "value": settings.value}},
        CUSTOM: {"name": settings.argument_name or node.step.name, "data": {**settings.data, **schema}},
    }
    return by_category[category]


def _common(state: RunState, node: Node, now: datetime, timeout: float | None) -> JSON:
    top = node.path.partition(".")[0].partition("[")[0]
    if timeout is None and node.step.type != "action":
        timeout = node.step.document.timeout
    return {
        "run_id": state.run.run_id,
        "tenant": state.run.tenant,
        "step_id": node.path,
        "step_index": state.plan.position[top],
        "requested_at": now,
        "timeout_at": now + timedelta(seconds=timeout) if timeout else None,
    }


def _words(value: list[str] | str) -> list[str]:
    return [value] if isinstance(value, str) else value


# -- what an ended question means for its step


def refusal(asked: Clarification) -> JSON | None:
    """The error of a step whose question was rejected or timed out."""
    if asked.status == ClarificationStatus.TIMEOUT:
        return {"code": "clarification_timeout", "message": f"nobody answered {asked.title!r} in time"}
    if asked.status != ClarificationStatus.REJECTED:
        return None
    why = f": {asked.response_reason}" if asked.response_reason else ""
    message = f"{asked.title!r} was rejected by {asked.approver_id}{why}"
    return {"code": "clarification_rejected", "message": message, "approver_id": asked.approver_id}


def output(asked: Clarification) -> JSON:
    """What a step gives whose question was answered."""
    return {
        "approved": True,
        "response": asked.response,
        "approver_id": asked.approver_id,
        "reason": asked.response_reason,
    }
