"""Job slots and worker nodes: who may drain which kind of work, and which worker clusters are alive.

Every clock here is the database's, so that hosts whose clocks differ agree. A slot is a lease, not a record: losing its last
half second in a crash of the server costs nothing, which is why these statements do not wait for the disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from django.db import connection, models
from django.db.models.functions import Now

from orchestrator_project.jobs import SLOT_CHANNEL

TAKE = """
    UPDATE orchestrator_project_jobslot SET generation = generation + 1, free_at = now() + make_interval(secs => %s)
    WHERE id = (SELECT id FROM orchestrator_project_jobslot WHERE kind = %s AND number < %s AND free_at <= now()
                ORDER BY number LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING *, set_config('synchronous_commit', 'off', true)
"""
FREE = """
    UPDATE orchestrator_project_jobslot SET free_at = now() + make_interval(secs => %s), failures = %s, last_error = %s
    WHERE id = %s AND generation = %s
    RETURNING pg_notify(%s, kind), set_config('synchronous_commit', 'off', true)
"""
BEAT = """
    INSERT INTO orchestrator_project_workernode (host, pid, started_at, beat_at) VALUES (%s, %s, now(), now())
    ON CONFLICT (host, pid) DO UPDATE SET beat_at = now()
"""


class JobSlotQuerySet(models.QuerySet["JobSlot"]):
    """Taking, keeping and freeing slots."""

    def ensure(self, slots: Mapping[str, int]) -> None:
        """Create the slots that are missing: so many of each kind."""
        wanted = [JobSlot(kind=kind, number=number) for kind, count in slots.items() for number in range(count)]
        JobSlot.objects.bulk_create(wanted, ignore_conflicts=True)

    def take(self, *, kind: str, slots: int, seconds: float) -> JobSlot | None:
        """Take one of the first `slots` slots of this kind for `seconds`, under a new generation; None if none is free."""
        return next(iter(self.raw(TAKE, [seconds, kind, slots])), None)

    def held(self, slot_id: int, generation: int) -> JobSlot | None:
        """The slot, if it is still held under this generation."""
        return self.filter(id=slot_id, generation=generation, free_at__gt=Now()).first()


class JobSlot(models.Model):
    """The right to drain one kind of work, held by at most one job at a time until `free_at`.

    Whoever takes the slot raises `generation`; a job that carries an older one does nothing.
    """

    id = models.BigAutoField(primary_key=True)
    kind = models.CharField(max_length=32)
    number = models.PositiveSmallIntegerField()
    generation = models.BigIntegerField(default=0)
    free_at = models.DateTimeField(db_default=Now())
    failures = models.PositiveIntegerField(default=0, help_text="Jobs that ended in an error since the last good one")
    last_error = models.CharField(
        max_length=200, blank=True, help_text="Class of the last error; its text is in the log"
    )

    objects = JobSlotQuerySet.as_manager()

    class Meta:
        ordering = ["kind", "number"]
        constraints = [models.UniqueConstraint(name="job_slot_once", fields=["kind", "number"])]

    def __str__(self) -> str:
        return f"{self.kind} {self.number}"

    def renew(self, seconds: float) -> bool:
        """Keep the slot for another `seconds`; False if it has been taken by somebody else meanwhile."""
        mine = JobSlot.objects.filter(id=self.id, generation=self.generation)
        return bool(mine.update(free_at=Now() + timedelta(seconds=seconds)))

    def free(self, *, rest: float = 0.0, error: str = "") -> None:
        """Give the slot back after `rest` more seconds, unless it is somebody else's by now, and tell the brokers."""
        failures = self.failures + 1 if error else 0
        with connection.cursor() as cursor:
            cursor.execute(FREE, [rest, failures, error[:200], self.id, self.generation, SLOT_CHANNEL])


class WorkerNodeQuerySet(models.QuerySet["WorkerNode"]):
    """Heartbeats."""

    def beat(self, *, host: str, pid: int) -> None:
        """Note that the cluster whose main process is `pid` is at work now."""
        with connection.cursor() as cursor:
            cursor.execute(BEAT, [host, pid])

    def forget_old(self) -> None:
        """Delete the nodes that have not been heard of for a day."""
        self.filter(beat_at__lt=Now() - timedelta(days=1)).delete()


class WorkerNode(models.Model):
    """One worker cluster (`manage.py qcluster`). It beats every two seconds, as long as it can hand out work."""

    id = models.BigAutoField(primary_key=True)
    host = models.CharField(max_length=255)
    pid = models.BigIntegerField()
    started_at = models.DateTimeField()
    beat_at = models.DateTimeField()

    objects = WorkerNodeQuerySet.as_manager()

    class Meta:
        ordering = ["host", "pid"]
        constraints = [models.UniqueConstraint(name="worker_node_once", fields=["host", "pid"])]

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"


class LoginAttempts(models.Model):
    """Logins with one name, or from one address, that have failed of late; orchestrator_project/login_throttle.py counts them.

    No name that somebody typed is kept, since people type passwords there: only a keyed digest, and the name where it is one
    of ours. Deleting a row unlocks.
    """

    class Kind(models.TextChoices):
        """What the attempts have in common."""

        ADDRESS = "address", "Address"
        NAME = "name", "User name"

    id = models.BigAutoField(primary_key=True)
    kind = models.CharField(max_length=8, choices=Kind.choices)
    digest = models.CharField(max_length=64)
    label = models.CharField(max_length=150, blank=True, help_text="The address or the user; empty: no user of ours")
    failures = models.PositiveIntegerField(default=0)
    last_at = models.DateTimeField(db_index=True)
    free_at = models.DateTimeField(help_text="Until then every attempt is refused")

    class Meta:
        ordering = ["-last_at"]
        verbose_name_plural = "login attempts"
        constraints = [models.UniqueConstraint(name="login_attempts_once", fields=["kind", "digest"])]

    def __str__(self) -> str:
        return self.label or "unknown user"
