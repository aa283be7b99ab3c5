"""The only task that is ever queued: drain one kind of work until nothing of it is due.

1. A job whose slot has been taken by somebody else since (django-q2 delivers twice after a crash) does nothing.
2. While it works, a thread renews the slot, so that a slow remote does not look like a dead worker.
3. It drains batch by batch; when the next item is due within a moment it waits for it, and hears of new ones meanwhile.
4. It frees the slot. An error rests the slot for 1, 2, 4 .. 30 seconds, so that a poisonous item cannot spin.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from django.conf import settings
from django.db import DatabaseError, connection

from orchestrator_project.jobs import WORK_CHANNEL
from orchestrator_project.jobs.kinds import JobKind, job_kind
from orchestrator_project.jobs.listen import Listener
from orchestrator_project.models import JobSlot
from orchestrator_project.origin import Source, coming_from

logger = logging.getLogger(__name__)

LINGER = 0.25  # seconds; what is due sooner is waited for in the worker
LONGEST_REST = 30.0  # seconds
STUCK_AFTER = 3  # times in a row that something was due and nothing could be claimed


def _never() -> bool:
    return False


# The cluster puts its own question here, so that jobs end early when it is told to stop.
is_stopping: Callable[[], bool] = _never


def run(slot_id: int, generation: int) -> None:
    """Drain the slot's kind of work for about JOBS_KICK_BUDGET seconds at most; harmless when called twice."""
    slot = JobSlot.objects.held(slot_id, generation)
    if slot is None:
        return
    try:
        with coming_from(Source.JOB), _kept(slot) as lost:
            rest = _drain_until_dry(job_kind(slot.kind), lost)
    except Exception as error:
        logger.exception("Job %r failed; it rests for %s s", slot.kind, _rest_after(slot.failures))
        _free(slot, rest=_rest_after(slot.failures), error=type(error).__name__)
    except BaseException as error:  # django-q2's timeout: it may have struck in the middle of a statement
        connection.close()
        _free(slot, rest=_rest_after(slot.failures), error=type(error).__name__)
        raise
    else:
        _free(slot, rest=rest)


def _drain_until_dry(kind: JobKind, lost: threading.Event) -> float:
    """Work until nothing is due soon, the time is up or the slot is lost; return how long the slot should rest."""
    ends_at = monotonic() + settings.JOBS_KICK_BUDGET
    listener, stuck = Listener(WORK_CHANNEL), 0
    try:
        while True:
            worked = kind.drain()
            wait = kind.due()
            if wait is None or wait > LINGER or monotonic() > ends_at or lost.is_set() or is_stopping():
                return 0.0
            stuck = stuck + 1 if wait <= 0 and not worked else 0
            if stuck == STUCK_AFTER:
                return float(settings.JOBS_TICK)
            if stuck or wait > 0:
                listener.wait_for(kind.name, max(wait, 0.01))
    finally:
        listener.stop()


@contextmanager
def _kept(slot: JobSlot) -> Iterator[threading.Event]:
    """Renew the slot during the block; gives an event that is set when the slot is lost to somebody else."""
    lost, done = threading.Event(), threading.Event()
    keeper = threading.Thread(target=_keep, args=(slot, lost, done), name=f"keeper of {slot}", daemon=True)
    keeper.start()
    try:
        yield lost
    finally:
        done.set()
        keeper.join()


def _keep(slot: JobSlot, lost: threading.Event, done: threading.Event) -> None:
    ttl = settings.JOBS_SLOT_TTL
    try:
        while not done.wait(ttl / 3):
            try:
                if not slot.renew(ttl):
                    lost.set()
                    return
            except DatabaseError:
                connection.close()  # the job itself will find out; a slot that cannot be renewed frees itself
    finally:
        connection.close()


def _free(slot: JobSlot, *, rest: float, error: str = "") -> None:
    try:
        slot.free(rest=rest, error=error)
    except DatabaseError:
        connection.close()
        logger.warning(
            "Slot %s could not be freed (no database); it frees itself in %s s", slot, settings.JOBS_SLOT_TTL
        )


def _rest_after(failures: int) -> float:
    return min(LONGEST_REST, 2.0 ** min(failures, 5))
