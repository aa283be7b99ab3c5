"""The work table: leases, lost workers, wishes that arrive while a worker is busy."""

from datetime import timedelta

import pytest
from django.utils import timezone

from executions.models import Kind, Work
from tests.factories.models import RunFactory

pytestmark = pytest.mark.django_db


def due(run, kind=Kind.SYNC, **fields):
    Work.objects.schedule(run.pk, kind, **fields)
    return Work.objects.get(run=run, kind=kind)


def test_due_work_is_claimed_once():
    due(RunFactory())
    assert len(Work.objects.claim(Kind.SYNC, limit=10, lease=5)) == 1
    assert Work.objects.claim(Kind.SYNC, limit=10, lease=5) == []


def test_work_of_a_killed_worker_comes_back_with_the_attempt_counted():
    due(RunFactory())
    Work.objects.claim(Kind.SYNC, limit=10, lease=-1)
    (again,) = Work.objects.claim(Kind.SYNC, limit=10, lease=5)
    assert again.attempts == 2


def test_the_worker_whose_lease_ran_out_cannot_settle_the_row():
    due(RunFactory())
    (late,) = Work.objects.claim(Kind.SYNC, limit=10, lease=-1)
    Work.objects.claim(Kind.SYNC, limit=10, lease=5)
    Work.objects.done([late])
    Work.objects.later(late, delay=100)
    assert Work.objects.get().due_at < timezone.now() + timedelta(seconds=6)


def test_a_wish_that_arrives_while_a_worker_is_busy_is_not_lost():
    run = RunFactory()
    due(run)
    (busy,) = Work.objects.claim(Kind.SYNC, limit=10, lease=5)
    due(run)
    Work.objects.done([busy])
    assert len(Work.objects.claim(Kind.SYNC, limit=10, lease=5)) == 1


def test_scheduling_only_ever_brings_work_forward():
    run = RunFactory()
    due(run, delay=1)
    assert due(run, delay=100).due_at < timezone.now() + timedelta(seconds=2)
    assert due(run).due_at <= timezone.now()


def test_work_says_when_its_kind_is_due_next():
    assert Work.objects.due_in(Kind.SYNC) is None
    due(RunFactory(), delay=10)
    assert 9 < Work.objects.due_in(Kind.SYNC) <= 10
    due(RunFactory())
    assert Work.objects.due_in(Kind.SYNC) <= 0


def test_kinds_do_not_mix():
    due(RunFactory(), Kind.LAUNCH)
    assert Work.objects.claim(Kind.SYNC, limit=10, lease=5) == []


def test_every_kind_has_its_job(settings):
    assert set(settings.JOBS) == {*Kind.values, "cleanup"}
