"""The transition table, its one writer and the database behind it."""

import itertools

import pytest
from django.db import DatabaseError, IntegrityError, transaction

from executions.errors import TransitionRefused
from executions.models import Event, Run, RunStatus
from executions.models.run import REASONS, TERMINAL, TRANSITIONS, RunReason
from tests.factories.models import REASON_OF_STATUS, RunFactory

pytestmark = pytest.mark.django_db

FIRST_VERSION = 1  # a change makes one more, and its event another
PAIRS = list(itertools.permutations(RunStatus.values, 2))


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_a_run_changes_status_only_as_the_table_says(old, new):
    run = RunFactory(status=old)
    if new in TRANSITIONS[old]:
        run.transition(new, REASON_OF_STATUS[new])
        stored = Run.objects.get(pk=run.pk)
        assert (stored.status, stored.finished_at is not None) == (new, new in TERMINAL)
        assert stored.version == run.version == FIRST_VERSION + 2
    else:
        with pytest.raises(TransitionRefused):
            run.transition(new, REASON_OF_STATUS[new])


@pytest.mark.parametrize(("old", "new"), [pair for pair in PAIRS if pair[1] not in TRANSITIONS[pair[0]]])
def test_the_database_refuses_the_same_changes_without_the_writer(old, new):
    run = RunFactory(status=old)
    with pytest.raises(DatabaseError), transaction.atomic():
        Run.objects.filter(pk=run.pk).update(
            status=new, reason=REASON_OF_STATUS[new], finished_at=run.created_at if new in TERMINAL else None
        )


@pytest.mark.parametrize("status", RunStatus.values)
@pytest.mark.parametrize("reason", RunReason.values)
def test_a_reason_belongs_to_its_status(status, reason):
    constraint = next(c for c in Run._meta.constraints if c.name == "run_reason_fits_status")
    assert constraint.condition.check({"status": status, "reason": reason}) is (reason in REASONS[status])


def test_every_reason_belongs_to_exactly_one_status():
    assert sorted(itertools.chain.from_iterable(REASONS.values())) == sorted(RunReason.values)


def test_a_change_is_reported_once_and_a_repeat_changes_nothing():
    run = RunFactory(status="running")
    for _ in range(2):
        run.transition("paused", "awaiting_clarification")
    assert [(e.type, e.sequence) for e in Event.objects.filter(run=run)] == [("io.anumate.execution.paused", 1)]
    assert run.version == FIRST_VERSION + 2


def test_going_on_after_a_pause_is_reported_as_resumed():
    run = RunFactory(status="paused")
    run.transition("running", "executing")
    assert Event.objects.get(run=run).type == "io.anumate.execution.resumed"


def test_a_running_run_has_a_remote_one():
    with pytest.raises(IntegrityError), transaction.atomic():
        RunFactory(status="running", portia_run_id=None)


@pytest.mark.parametrize("change", [{"name": "other"}, {"document": {}}, {"plan_hash": "0" * 64}])
def test_a_plan_never_changes(change):
    plan = RunFactory().plan
    with pytest.raises(DatabaseError), transaction.atomic():
        type(plan).objects.filter(pk=plan.pk).update(**change)


def test_an_event_never_changes():
    run = RunFactory(status="running")
    run.transition("completed", "ok")
    with pytest.raises(DatabaseError), transaction.atomic():
        Event.objects.filter(run=run).update(type="other")
