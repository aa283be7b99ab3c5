"""Who may decide a clarification, and when. Pure: looks, changes nothing.

Each rule has one sentence for the person it stops. `check_can_decide` raises it, `can_decide` only answers yes or no.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from approvals_bridge.models import Category, Clarification, ClarificationStatus
from executions.errors import Conflict, Forbidden, Gone, OrchestratorError

PERMISSION = "approvals_bridge.decide_clarification"
GROUP_PREFIX = "group:"

CLOSED_SENTENCES = {
    ClarificationStatus.APPROVED: "{who} has already approved this.",
    ClarificationStatus.REJECTED: "{who} has already rejected this.",
    ClarificationStatus.TIMEOUT: "The time to answer this is over.",
    ClarificationStatus.CANCELLED: "This is no longer needed: its run has ended or asks something else now.",
}


def check_can_decide(*, clarification: Clarification, user: Any, now: datetime) -> None:
    """Raise the first reason why this person cannot decide this now: Conflict, Gone or Forbidden."""
    check_open(clarification=clarification, now=now)
    _check_person(clarification, user)


def check_open(*, clarification: Clarification, now: datetime) -> None:
    """Raise Conflict or Gone for a clarification that nobody can decide any more."""
    if clarification.status != ClarificationStatus.PENDING:
        sentence = CLOSED_SENTENCES[ClarificationStatus(clarification.status)]
        raise Conflict(sentence.format(who=clarification.decided_by or "Somebody"), current_status=clarification.status)
    if clarification.run.is_terminal:
        raise Conflict(f"The run is {clarification.run.status}; nothing waits for an answer any more.")
    if clarification.deadline is not None and now >= clarification.deadline:
        raise Gone(f"The time to answer this ended at {clarification.deadline:%Y-%m-%d %H:%M} UTC.")


def can_decide(*, clarification: Clarification, user: Any, now: datetime) -> bool:
    """Whether this person can decide this now; for showing or hiding the buttons."""
    try:
        check_can_decide(clarification=clarification, user=user, now=now)
    except OrchestratorError:
        return False
    return True


def _check_person(clarification: Clarification, user: Any) -> None:
    if not user.is_active or not user.has_perm(PERMISSION):
        raise Forbidden("You may look at approvals, but not decide them. Ask an administrator for the permission.")
    if not user.is_superuser and not clarification.tenant.members.filter(pk=user.pk).exists():
        raise Forbidden("You do not belong to the organisation that asks.")
    if clarification.category == Category.USER_VERIFICATION and _has_asked(clarification, user):
        raise Forbidden("You asked for this yourself; somebody else has to decide it.")
    named = clarification.required_approvers
    if named and not _is_named(user, named):
        raise Forbidden(f"Only these may decide this: {', '.join(named)}.")


def _has_asked(clarification: Clarification, user: Any) -> bool:
    """Four eyes: who triggered or submitted the run, wrote its plan or is named by its token does not decide about it."""
    run = clarification.run
    names = {run.triggered_by, run.requested_by, run.plan.created_by, run.capability.get("subject")}
    return bool(_names(user) & names) or user.pk in (run.requested_by_user_id, run.plan.created_by_user_id)


def _is_named(user: Any, named: list[str]) -> bool:
    groups = {f"{GROUP_PREFIX}{name}" for name in user.groups.values_list("name", flat=True)}
    return bool((_names(user) | groups) & set(named))


def _names(user: Any) -> set[str]:
    return {name for name in (user.get_username(), user.email) if name}
