"""The broker of our clusters: django-q2's own queue table, woken by Postgres instead of polled.

`dequeue`, called in a loop by the cluster's pusher process:
1. Looks at each kind of work whose time has come: at a kick, at the moment its next item is due, and every JOBS_TICK anyway.
   Where something is due and a slot is free, it takes the slot and queues one task in the same transaction.
2. Claims queued tasks with one statement that several clusters may run at once.
3. Where there is none, waits for a notification or for the next look, whichever comes first.
A lost database connection costs a fifth of a second per try and nothing else.
"""

from __future__ import annotations

import logging
import socket
import time

import psycopg
from django import db
from django.conf import settings
from django.db import connection, transaction
from django.db.models.functions import Now
from django_q.brokers.orm import ORM
from django_q.conf import Conf
from django_q.tasks import async_task

from orchestrator_project.jobs import QUEUE_CHANNEL, SLOT_CHANNEL, WORK_CHANNEL
from orchestrator_project.jobs.kinds import JobKind, job_kind
from orchestrator_project.jobs.listen import Listener
from orchestrator_project.models import JobSlot, WorkerNode

logger = logging.getLogger(__name__)

TASK = "orchestrator_project.jobs.slots.run"
MAX_TASK = 8_000  # bytes, signed; it has to fit the cluster's internal queue
RETRY_SECONDS = 0.2  # between two tries at a database that does not answer
BEAT_SECONDS = 2.0
LOOK_AGAIN_SECONDS = 5.0  # at a kind of work that cannot even say when it is due

# As with the slots, none of these statements waits for the disk: what a crash of the server undoes is done again.
CLAIM = """
    UPDATE django_q_ormq SET lock = now() + make_interval(secs => %s)
    WHERE id = ANY(ARRAY(SELECT id FROM django_q_ormq WHERE key = %s AND lock <= now()
                         ORDER BY lock LIMIT %s FOR UPDATE SKIP LOCKED))
    RETURNING id, payload, set_config('synchronous_commit', 'off', true)
"""
ACKNOWLEDGE = "DELETE FROM django_q_ormq WHERE id = %s RETURNING set_config('synchronous_commit', 'off', true)"


class WorkBroker(ORM):
    """django-q2's ORM broker on the default database, with LISTEN, SKIP LOCKED and a clock of its own."""

    def __init__(self, list_key: str | None = None) -> None:
        super().__init__(list_key)
        self.cluster_pid: int | None = None  # the main process whose heartbeat this broker is; set by the cluster
        self._listener = Listener(WORK_CHANNEL, SLOT_CHANNEL, QUEUE_CHANNEL)
        self._look_at: dict[str, float] = {}  # kind -> monotonic time of the next look
        self._full: set[str] = set()  # kinds without a free slot at the last look
        self._beat_at = 0.0
        self._is_down = False

    def enqueue(self, task: str) -> int:
        """Queue a signed task for now, by the database's clock; return its id. Raises ValueError when it is too long."""
        if len(task) > MAX_TASK:
            raise ValueError(f"A task of {len(task)} bytes: queue the id of a row instead ({MAX_TASK} bytes at most)")
        return self.get_connection().create(key=self.list_key, payload=task, lock=Now()).pk

    def dequeue(self) -> list[tuple[int, str]] | None:
        """Tasks to run, each as (id, signed task), or None after a wait in which there were none."""
        try:
            tasks = self._next_tasks()
        except (db.Error, psycopg.Error) as error:
            self._database_failed(error)
            return None
        self._is_down = False
        return tasks

    def acknowledge(self, task_id: int) -> None:
        """Remove a finished task, however long the database is away: a task that stays would run again."""
        while True:
            try:
                with connection.cursor() as cursor:
                    cursor.execute(ACKNOWLEDGE, [task_id])
            except (db.Error, psycopg.Error) as error:
                self._database_failed(error)
            else:
                self._is_down = False
                return

    # -- one round

    def _next_tasks(self) -> list[tuple[int, str]] | None:
        self._listener.listen()
        self._beat()
        for name in settings.JOBS:
            if self._look_at.get(name, 0.0) <= time.monotonic():
                self._look(name)
        tasks = self._claim()
        if not tasks:
            self._wait()
        return tasks

    def _look(self, name: str) -> None:
        """Start a job where something of this kind is due; note when to look again."""
        now = time.monotonic()
        self._look_at[name] = next_tick = (now // settings.JOBS_TICK + 1) * settings.JOBS_TICK
        self._full.discard(name)
        try:
            kind = job_kind(name)
            wait = kind.due()
        except (db.OperationalError, db.InterfaceError):
            raise
        except Exception:
            logger.exception("Cannot tell when %r is due; next try in %s s", name, LOOK_AGAIN_SECONDS)
            self._look_at[name] = now + LOOK_AGAIN_SECONDS
            return
        if wait is not None and wait > 0:
            self._look_at[name] = min(next_tick, now + wait)
        elif wait is not None and not self._start(kind):
            self._full.add(name)

    def _start(self, kind: JobKind) -> bool:
        """Take a slot and queue its job, both or neither; False where no slot is free."""
        with transaction.atomic():
            slot = JobSlot.objects.take(kind=kind.name, slots=kind.slots, seconds=settings.JOBS_SLOT_TTL)
            if slot is not None:
                async_task(TASK, slot.id, slot.generation, task_name=f"{slot} #{slot.generation}", broker=self)
        return slot is not None

    def _claim(self) -> list[tuple[int, str]]:
        with connection.cursor() as cursor:
            cursor.execute(CLAIM, [Conf.RETRY, self.list_key, Conf.BULK])
            return [(task_id, payload) for task_id, payload, _ in cursor.fetchall()]

    def _wait(self) -> None:
        """Sleep until the next look or a notification. A kick for a kind without a free slot waits for the slot."""
        next_look = min((self._look_at[name] for name in settings.JOBS), default=time.monotonic() + settings.JOBS_TICK)
        for heard in self._listener.wait(next_look - time.monotonic()):
            if heard.channel == SLOT_CHANNEL:
                self._full.discard(heard.payload)
            if heard.payload not in self._full:
                self._look_at[heard.payload] = 0.0

    def _beat(self) -> None:
        if self.cluster_pid and time.monotonic() >= self._beat_at:
            WorkerNode.objects.beat(host=socket.gethostname(), pid=self.cluster_pid)
            self._beat_at = time.monotonic() + BEAT_SECONDS

    def _database_failed(self, error: Exception) -> None:
        """Drop the connection and what was known; try again at once the first time, after a pause from then on."""
        connection.close()
        self._look_at.clear()
        self._full.clear()
        if self._is_down:
            time.sleep(RETRY_SECONDS)
        else:
            logger.warning("No database (%s); trying again until there is one", type(error).__name__)
        self._is_down = True
