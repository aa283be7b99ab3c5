"""Who may decide a clarification, and when. Pure: looks, changes nothing.

Each rule has one sentence for the person it stops. `check_can_decide` raises it, `can_decide` only answers yes or no.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from approvals_bridge.models import Category, Clarification, ClarificationStatus
from executions.errors import Conflict, Forbidden, Gone, OrchestratorError
from executions.models import ApiKey, Tenant
from executions.names import fold_all, made_by

PERMISSION = "approvals_bridge.decide_clarification"
GROUP_PREFIX = "group:"

CLOSED_SENTENCES = {
    ClarificationStatus.APPROVED: "{who} has already approved this.",
    ClarificationStatus.REJECTED: "{who} has already rejected this.",
    ClarificationStatus.TIMEOUT: "The time to answer this is over.",
    ClarificationStatus.CANCELLED: "This is no longer needed: its run has ended or asks something else now.",
}


@dataclass(frozen=True, kw_only=True)
class Person:
    """What the rules ask of somebody, with regard to one tenant."""

    user_id: Any
    username: str
    names: frozenset[str]
    groups: frozenset[str]
    keys_made_for: frozenset[str]  # principals: whoever makes a key has seen its secret, and can make others with it
    may_decide: bool
    belongs: bool


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


def objection(clarification: Clarification, person: Person) -> str | None:
    """Why this person may not decide this, as a sentence for the person; None for one who may. Asks the database nothing.

    The clarification need not be stored, nor its run: whoever wants to know beforehand brings what is known of them.
    """
    if not person.may_decide:
        return "You may look at approvals, but not decide them. Ask an administrator for the permission."
    if not person.belongs:
        return "You do not belong to the organisation that asks."
    if clarification.category == Category.USER_VERIFICATION and _has_asked(clarification, person):
        return "You asked for this yourself; somebody else has to decide it."
    named = clarification.required_approvers
    if named and not (person.names & fold_all(named) or person.groups & set(named)):
        return f"Only these may decide this: {', '.join(named)}."
    return None


def names_of(user: Any) -> frozenset[str]:
    """What a user is called where people are named, in required_approvers and as who asked; folded (executions.names)."""
    return fold_all((user.get_username(), user.email))


def groups_of(names: Iterable[str]) -> frozenset[str]:
    """What groups of these names are called in required_approvers."""
    return frozenset(f"{GROUP_PREFIX}{name}" for name in names)


def _check_person(clarification: Clarification, user: Any) -> None:
    sentence = objection(clarification, _looked_up(user, clarification.tenant))
    if sentence:
        raise Forbidden(sentence)


def _looked_up(user: Any, tenant: Tenant) -> Person:
    return Person(
        user_id=user.pk,
        username=user.get_username(),
        names=names_of(user),
        groups=groups_of(user.groups.values_list("name", flat=True)),
        keys_made_for=made_by(names_of(user), makers_of_keys(tenant)),
        may_decide=user.is_active and user.has_perm(PERMISSION),
        belongs=user.is_superuser or tenant.members.filter(pk=user.pk).exists(),
    )


def makers_of_keys(tenant: Tenant) -> list[tuple[str, str]]:
    """(maker, principal) of all keys of a tenant."""
    return list(ApiKey.objects.filter(tenant=tenant).order_by().values_list("created_by", "principal").distinct())


def _has_asked(clarification: Clarification, person: Person) -> bool:
    """Four eyes: who triggered or submitted the run, wrote its plan or is named by a token of it does not decide about it.

    Nor does who made a key for the service that did, and so could have done it in its name.
    """
    run = clarification.run
    subjects = [run.capability.get("subject"), *run.capability.get("former_subjects", ())]
    names = fold_all((run.triggered_by, run.requested_by, run.plan.created_by, *subjects))
    if person.keys_made_for & fold_all((run.requested_by, run.plan.created_by)):
        return True
    return bool(person.names & names) or person.user_id in (run.requested_by_user_id, run.plan.created_by_user_id)
