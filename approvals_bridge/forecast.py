"""Who could decide what a run will ask, by today's people and the rules of policy.py. Reads only."""

from __future__ import annotations

from collections.abc import Iterable

from django.contrib.auth import get_user_model
from django.db.models import Q

from approvals_bridge import policy
from approvals_bridge.models import Clarification
from executions.models import Run, Tenant
from executions.names import made_by
from executions.portia.questions import Question


def forecast(*, run: Run, questions: Iterable[Question]) -> list[list[str]]:
    """For each question of a run, which need not be stored, the sorted usernames of those who could decide it now.

    Asks the database the same few things however many questions there are.
    """
    people = _people(run.tenant)
    known: dict[tuple[str, ...], list[str]] = {}
    found = []
    for question in questions:
        alike = (question.category, *question.required_approvers)
        if alike not in known:
            known[alike] = _deciders(run, question, people)
        found.append(known[alike])
    return found


def _deciders(run: Run, question: Question, people: list[policy.Person]) -> list[str]:
    asked = Clarification(
        run=run, tenant=run.tenant, category=question.category, required_approvers=question.required_approvers
    )
    return [one.username for one in people if policy.objection(asked, one) is None]


def _people(tenant: Tenant) -> list[policy.Person]:
    """Everybody who may decide something of this tenant, by username."""
    users = get_user_model().objects.with_perm(policy.PERMISSION)
    deciders = users.filter(Q(is_superuser=True) | Q(pk__in=tenant.members.values("pk")))
    keys = policy.makers_of_keys(tenant)
    people = [
        policy.Person(
            user_id=user.pk,
            username=user.get_username(),
            names=policy.names_of(user),
            groups=policy.groups_of(group.name for group in user.groups.all()),
            keys_made_for=made_by(policy.names_of(user), keys),
            may_decide=True,
            belongs=True,
        )
        for user in deciders.prefetch_related("groups")
    ]
    return sorted(people, key=lambda one: one.username)
