"""Who may decide what, and what a decision does."""

from datetime import timedelta

import pytest
from django.db import DatabaseError, transaction
from django.utils import timezone

from approvals_bridge import actions, policy
from approvals_bridge.models import Clarification, Decision, Vote
from executions.actions.tenants import create_api_key
from executions.errors import Conflict, Forbidden, Gone, InvalidRequest, NotFound, StaleSubject
from executions.models import Event, Work, uuid7
from tests.factories.models import ClarificationFactory, RunFactory, staff_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def asked():
    return ClarificationFactory()


@pytest.fixture
def bob(asked):
    return staff_of(asked.tenant, username="bob")


def decide(clarification, user, decision=Decision.APPROVE, **fields):
    digest = {"action_digest": clarification.action_digest}
    return actions.decide(
        clarification_id=clarification.pk, user=user, decision=decision, source="api", **{**digest, **fields}
    )


def test_an_approval_is_a_vote_an_event_and_work(asked, bob):
    decided = decide(asked, bob, reason="checked")
    assert (decided.status, decided.decided_by, decided.response) == ("approved", "bob", True)
    assert Vote.objects.get().action_digest == asked.action_digest
    assert [e.type for e in Event.objects.all()] == ["io.anumate.clarification.approved"]
    assert Work.objects.get().kind == "answer"


def test_a_rejection_needs_a_reason(asked, bob):
    with pytest.raises(InvalidRequest, match="why"):
        decide(asked, bob, Decision.REJECT, reason="  ")
    assert decide(asked, bob, Decision.REJECT, reason="too much").decision_reason == "too much"


def test_the_second_decision_is_told_who_was_first(asked, bob):
    decide(asked, bob)
    carol = staff_of(asked.tenant, username="carol")
    with pytest.raises(Conflict, match="bob has already approved"):
        decide(asked, carol, Decision.REJECT, reason="no")
    assert Vote.objects.count() == 1


@pytest.mark.parametrize("digest", ["", "0" * 64])
def test_a_decision_about_another_action_is_refused(asked, bob, digest):
    with pytest.raises(StaleSubject):
        decide(asked, bob, action_digest=digest)
    assert Vote.objects.count() == 0


@pytest.mark.parametrize("asker", ["triggered_by", "requested_by"])
def test_nobody_approves_what_he_asked_for_himself(asker):
    asked = ClarificationFactory(run=RunFactory(status="paused", **{asker: "bob"}))
    with pytest.raises(Forbidden, match="yourself"):
        decide(asked, staff_of(asked.tenant, username="bob"))


def test_nobody_approves_what_a_service_asked_whose_key_he_made():
    asked = ClarificationFactory(run=RunFactory(status="paused", requested_by="nightly"))
    bob, carol = staff_of(asked.tenant, username="bob"), staff_of(asked.tenant, username="carol")
    create_api_key(tenant=asked.tenant, principal="nightly", scopes=["execute"], by="bob")
    with pytest.raises(Forbidden, match="yourself"):
        decide(asked, bob)
    assert decide(asked, carol).status == "approved"


@pytest.mark.parametrize("name", ["BOB", "Bob@Example.COM", "\uff42ob"])
@pytest.mark.parametrize("as_whom", ["triggered_by", "subject"])
def test_a_name_is_the_same_however_it_is_spelt(name, as_whom):
    fields = {"triggered_by": name} if as_whom == "triggered_by" else {"capability": {"subject": name}}
    asked = ClarificationFactory(run=RunFactory(status="paused", **fields))
    with pytest.raises(Forbidden, match="yourself"):
        decide(asked, staff_of(asked.tenant, username="bob"))


def test_a_key_made_with_a_key_he_made_is_as_good_as_his():
    asked = ClarificationFactory(run=RunFactory(status="paused", requested_by="third"))
    bob, carol = staff_of(asked.tenant, username="bob"), staff_of(asked.tenant, username="carol")
    for maker, principal in (("Bob", "first"), ("first", "second"), ("second", "third"), ("third", "first")):
        create_api_key(tenant=asked.tenant, principal=principal, scopes=["admin"], by=maker)
    with pytest.raises(Forbidden, match="yourself"):
        decide(asked, bob)
    assert decide(asked, carol).status == "approved"


def test_an_outsider_cannot_decide(asked):
    mallory = staff_of(RunFactory().tenant, username="mallory")
    with pytest.raises(Forbidden, match="belong"):
        decide(asked, mallory)


def test_without_the_permission_one_can_only_look(asked):
    with pytest.raises(Forbidden, match="permission"):
        decide(asked, staff_of(asked.tenant, username="dave", permissions=()))


@pytest.mark.parametrize(("named", "allowed"), [(["bob"], True), (["Bob@example.com"], True), (["group:board"], False)])
def test_only_the_named_may_decide(asked, bob, named, allowed):
    Clarification.objects.filter(pk=asked.pk).update(required_approvers=named)
    asked.refresh_from_db()
    assert policy.can_decide(clarification=asked, user=bob, now=timezone.now()) is allowed


def test_after_the_deadline_it_is_too_late(asked, bob):
    Clarification.objects.filter(pk=asked.pk).update(deadline=timezone.now() - timedelta(seconds=1))
    with pytest.raises(Gone):
        decide(asked, bob)


def test_an_unknown_clarification_is_not_found(bob):
    with pytest.raises(NotFound):
        actions.decide(clarification_id=uuid7(), user=bob, decision="approve", source="api")


@pytest.mark.parametrize("status", ["rejected", "pending", "cancelled"])
def test_the_database_lets_nobody_decide_again(asked, bob, status):
    decide(asked, bob)
    with pytest.raises(DatabaseError), transaction.atomic():
        Clarification.objects.filter(pk=asked.pk).update(status=status)


def test_a_vote_never_changes(asked, bob):
    decide(asked, bob)
    with pytest.raises(DatabaseError), transaction.atomic():
        Vote.objects.update(decision="reject")


CHOICE, TYPED, CONFIRM = {"choice": True}, {"typed_input": True}, {"confirmation": True}
TODO, CUSTOM = {"todo": True}, {"custom": True}


@pytest.mark.parametrize(
    ("kind", "value", "sent"),
    [
        (CHOICE, "main", "main"), (CHOICE, 3, 3), (CHOICE, True, True), (TYPED, 12.5, 12.5), (CONFIRM, None, "maria@example.com"),
        (CONFIRM, "other@example.com", "other@example.com"), (TODO, "complete", "complete"), (TODO, None, "complete"),
        (CUSTOM, {"cost_centre": "4711", "amount": 3}, {"cost_centre": "4711", "amount": 3}),
    ],
)  # fmt: skip
def test_an_answer_of_the_right_kind_is_kept(kind, value, sent):
    asked = ClarificationFactory(**kind)
    decided = decide(asked, staff_of(asked.tenant, username="bob"), Decision.ANSWER, value=value)
    assert (decided.status, decided.response) == ("approved", sent)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (CHOICE, "other"), (CHOICE, "3"), (CHOICE, 1), (CHOICE, None), (TYPED, "12"), (TYPED, -1), (TYPED, True), (TYPED, None),
        (CONFIRM, 5), (TODO, "maybe"), (CUSTOM, {}), (CUSTOM, {"cost_centre": 4711}), (CUSTOM, "x" * 30_000),
    ],
)  # fmt: skip
def test_an_answer_of_another_kind_is_refused_and_nothing_changes(kind, value):
    asked = ClarificationFactory(**kind)
    with pytest.raises(InvalidRequest) as refused:
        decide(asked, staff_of(asked.tenant, username="bob"), Decision.ANSWER, value=value)
    assert refused.value.errors[0]["pointer"].startswith("/value")
    assert (Clarification.objects.get().status, Vote.objects.count()) == ("pending", 0)


def test_a_yes_or_no_takes_no_value(asked, bob):
    with pytest.raises(InvalidRequest, match="approve or reject"):
        decide(asked, bob, Decision.ANSWER, value="yes")


def test_a_question_for_a_value_takes_no_bare_yes():
    asked = ClarificationFactory(choice=True)
    with pytest.raises(InvalidRequest, match="answer it"):
        decide(asked, staff_of(asked.tenant, username="bob"))
