"""Work: what is to be done for a run, and when. The truth of which the queue's jobs are only reminders.

One row per run and kind. A worker *claims* due rows: it moves `due_at` a lease ahead and leaves its token, so that a killed
worker's rows come back by themselves. It ends with `done` or `later`, both of which only take hold while the token is
still the worker's own. `schedule` clears the token, so a wish that arrives while a worker is busy is never lost: the worker's
`done` then finds nothing to delete and the row is due again.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from uuid import UUID, uuid4

from django.db import InterfaceError, OperationalError, connection, models
from django.db.models import Min
from django.db.models.functions import Now

from executions.models.run import Run
from executions.tenancy import only
from orchestrator_project.jobs import kick

logger = logging.getLogger(__name__)


class Kind(models.TextChoices):
    """Kinds of work; each has an entry of the same name in settings.JOBS."""

    LAUNCH = "launch", "Start the run at Portia"
    SYNC = "sync", "Ask Portia how far the run is"
    COMMAND = "command", "Tell Portia to pause, resume or cancel"
    CLARIFICATIONS = "clarifications", "Fetch what Portia asks people"
    ANSWER = "answer", "Bring people's answers to Portia"


CLAIM = """
    UPDATE executions_work SET due_at = now() + make_interval(secs => %s), lease_token = %s, attempts = attempts + 1
    WHERE id IN (SELECT id FROM executions_work WHERE kind = %s AND due_at <= now()
                 ORDER BY due_at LIMIT %s FOR UPDATE SKIP LOCKED)
    RETURNING id, run_id, kind, due_at, attempts, lease_token,
              (SELECT tenant_id FROM executions_run WHERE executions_run.id = run_id) AS tenant_id
"""
SCHEDULE = """
    INSERT INTO executions_work (run_id, kind, due_at, attempts) VALUES (%s, %s, now() + make_interval(secs => %s), 0)
    ON CONFLICT (run_id, kind) DO UPDATE
    SET due_at = LEAST(executions_work.due_at, EXCLUDED.due_at), lease_token = NULL, attempts = 0
"""


SLOWEST_RETRY = 15.0  # seconds


class WorkQuerySet(models.QuerySet["Work"]):
    """Claiming, scheduling and settling; every clock is the database's."""

    def schedule(self, run_id: UUID, kind: str, *, delay: float = 0.0) -> None:
        """Make this work due after `delay` seconds, or earlier if it already was; wake a worker when the caller commits."""
        with connection.cursor() as cursor:
            cursor.execute(SCHEDULE, [run_id, kind, delay])
        kick(kind)

    def claim(self, kind: str, *, limit: int, lease: float) -> list[Work]:
        """Take up to `limit` due rows for `lease` seconds, oldest first, skipping what others are taking."""
        return list(self.raw(CLAIM, [lease, uuid4(), kind, limit]))

    def due_in(self, kind: str) -> float | None:
        """Seconds until the next row of this kind is due (negative: overdue), None where there is none."""
        wait = self.filter(kind=kind).aggregate(wait=Min("due_at") - Now())["wait"]
        return None if wait is None else wait.total_seconds()

    def done(self, works: Iterable[Work]) -> None:
        """Delete these rows, except where somebody has scheduled them anew meanwhile."""
        for token, ids in _by_token(works).items():
            self.filter(id__in=ids, lease_token=token).delete()

    def later(self, work: Work, *, delay: float, attempts: int | None = None) -> None:
        """Give the row back, due after `delay` seconds, except where somebody has scheduled it anew meanwhile."""
        self.filter(id=work.id, lease_token=work.lease_token).update(
            due_at=Now() + timedelta(seconds=delay),
            lease_token=None,
            attempts=work.attempts if attempts is None else attempts,
        )

    @contextmanager
    def attempt(self, work: Work) -> Iterator[None]:
        """Do the block for this claimed row, seeing its run's tenant only.

        An error nobody foresaw is logged and puts off this row alone, not the batch.
        """
        try:
            with only(work.tenant_id):
                yield
        except (OperationalError, InterfaceError):
            raise  # the database is away: that concerns every row
        except Exception:
            logger.exception("work %s of run %s failed; attempt %d", work.kind, work.run_id, work.attempts)
            self.later(work, delay=work.backoff)


def _by_token(works: Iterable[Work]) -> dict[UUID | None, list[int]]:
    grouped: dict[UUID | None, list[int]] = defaultdict(list)
    for work in works:
        grouped[work.lease_token].append(work.id)
    return grouped


class Work(models.Model):
    """One thing to do for one run. `attempts` counts claims, so that a killed attempt counts too."""

    id = models.BigAutoField(primary_key=True)
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="work")
    kind = models.CharField(max_length=16, choices=Kind.choices)
    due_at = models.DateTimeField()
    attempts = models.PositiveIntegerField(default=0)
    lease_token = models.UUIDField(null=True, blank=True)
    tenant_id: UUID  # of the run; known of claimed rows

    objects = WorkQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "work"
        ordering = ["due_at"]
        indexes = [models.Index(fields=["kind", "due_at"], name="work_due")]
        constraints = [models.UniqueConstraint(name="work_once_per_run_and_kind", fields=["run", "kind"])]

    def __str__(self) -> str:
        return f"{self.kind} {self.run_id}"

    @property
    def backoff(self) -> float:
        """Seconds to wait before the next attempt: 1, 2, 4 … 15."""
        return min(SLOWEST_RETRY, 0.5 * 2.0 ** min(self.attempts, 10))
