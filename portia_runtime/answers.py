"""Answers to questions: checked by category with strict types, recorded once, and the run goes on (contract section 6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db import transaction
from django.utils import timezone
from jsonschema import ValidationError

from portia_runtime.clarifications import CHOICE, CUSTOM, INPUT, VALUE, VERIFICATION
from portia_runtime.documents import JSON
from portia_runtime.models import Clarification, ClarificationStatus, PausedReason, Resolution, Run, RunStatus
from portia_runtime.problems import Problem
from portia_runtime.signals import change, wake
from safe_json_schema import UnusableSchema, misfits


@dataclass(frozen=True, kw_only=True)
class Decision:
    """An answer as it was sent; `approved` may be open when there is a response."""

    approved: bool | None
    approver_id: str
    has_response: bool
    response: Any
    reason: str | None
    metadata: JSON
    action_digest: str | None


def respond(*, tenant: str, clarification_id: str, decision: Decision) -> tuple[Clarification, bool]:
    """Record the one decision and let the run go on; gives the clarification and whether it is a repeat.

    Raises Problem: clarification_not_found, invalid_response, stale_subject, clarification_already_resolved.
    """
    with transaction.atomic():
        run_id = (
            Clarification.objects.filter(pk=clarification_id, tenant=tenant).values_list("run_id", flat=True).first()
        )
        if run_id is None:
            raise Problem("clarification_not_found", f"there is no clarification {clarification_id!r}")
        run = Run.objects.select_for_update().get(pk=run_id)
        asked = Clarification.objects.get(pk=clarification_id)
        approved, response = _checked(asked, decision)
        if asked.status != ClarificationStatus.PENDING:
            return _repeated(asked, approved=approved, response=response), True
        _check_time(asked)
        _record(asked, decision, approved=approved, response=response)
        _continue(run, rejected=not approved)
    return asked, False


def _checked(asked: Clarification, decision: Decision) -> tuple[bool, Any]:
    """The decision and the value it stands for. Raises Problem stale_subject or invalid_response."""
    if decision.action_digest is not None and decision.action_digest != asked.action_digest:
        raise Problem("stale_subject", "the action to approve is not the one this decision was made for")
    if decision.approved is False:
        return False, decision.response
    checks = {CHOICE: _checked_choice, INPUT: _checked_input, CUSTOM: _checked_input, VALUE: _checked_value}
    check = checks.get(asked.category, _checked_yes)
    return True, check(asked, decision)


def _checked_yes(asked: Clarification, decision: Decision) -> Any:
    if decision.approved is None:
        raise Problem("invalid_response", "approved must be true or false")
    default = True if asked.category == VERIFICATION else "complete"
    if asked.category == VERIFICATION and decision.has_response and decision.response is not True:
        raise Problem("invalid_response", "an approval takes no other response than true; send approved instead")
    return decision.response if decision.has_response else default


def _checked_choice(asked: Clarification, decision: Decision) -> Any:
    options = asked.details["options"]
    if not decision.has_response or not any(_same(decision.response, option) for option in options):
        raise Problem("invalid_response", "response must be one of the options, of the same JSON type", options=options)
    return decision.response


def _checked_input(asked: Clarification, decision: Decision) -> Any:
    if not decision.has_response:
        raise Problem("invalid_response", "response is missing")
    error = _misfit(asked.details.get("data", {}).get("schema"), decision.response)
    if error:
        loc = "response" + error.json_path.removeprefix("$")
        raise Problem("invalid_response", f"response does not fit: {error.message[:300]}", errors=[
            {"loc": loc, "msg": error.message[:300]}
        ])  # fmt: skip
    return decision.response


def _misfit(schema: Any, response: Any) -> ValidationError | None:
    try:
        return next(iter(misfits(schema, response, most=1)), None) if schema else None
    except UnusableSchema as error:
        raise Problem("invalid_response", f"the schema of the question cannot be applied: {error}") from None


def _checked_value(asked: Clarification, decision: Decision) -> Any:
    return decision.response if decision.has_response else asked.details["data"]["value"]


def _same(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same, true and 1 being different."""
    if isinstance(one, bool) is not isinstance(other, bool):
        return False
    return bool(one == other)


def _repeated(asked: Clarification, *, approved: bool, response: Any) -> Clarification:
    """The same decision again is fine; anything else comes too late."""
    same_outcome = asked.resolution == (Resolution.APPROVED if approved else Resolution.REJECTED)
    if same_outcome and (not approved or _same(asked.response, response)):
        return asked
    raise Problem(
        "clarification_already_resolved",
        f"the clarification is {asked.resolution} already",
        resolution=asked.resolution,
    )


def _check_time(asked: Clarification) -> None:
    if asked.timeout_at and asked.timeout_at <= timezone.now():
        raise Problem("clarification_already_resolved", "the time to answer is over", resolution=Resolution.TIMEOUT)


def _record(asked: Clarification, decision: Decision, *, approved: bool, response: Any) -> None:
    asked.status = ClarificationStatus.APPROVED if approved else ClarificationStatus.REJECTED
    asked.resolution = Resolution.APPROVED if approved else Resolution.REJECTED
    asked.response, asked.approver_id = response, decision.approver_id
    asked.response_reason, asked.response_metadata = decision.reason, decision.metadata
    asked.responded_at = timezone.now()
    asked.save()


def _continue(run: Run, *, rejected: bool) -> None:
    """Have the engine look at the run, unless it is to be held until somebody resumes it."""
    waiting = run.status == RunStatus.PAUSED and run.paused_reason == PausedReason.CLARIFICATION
    others = Clarification.objects.filter(run=run, status=ClarificationStatus.PENDING).exists()
    if rejected or not waiting or others:
        wake(run)
    elif run.pause_requested:
        hold = {"paused_reason": PausedReason.REQUESTED, "pause_requested": False}
        change(run, status=RunStatus.PAUSED, due_at=None, **hold)
    elif not run.auto_resume:
        change(run, status=RunStatus.PAUSED, due_at=None, paused_reason=PausedReason.READY_TO_RESUME)
    else:
        wake(run, status=RunStatus.RUNNING, paused_reason=None, active_since=timezone.now())
