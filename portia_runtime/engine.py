"""The threads that make runs go: workers that claim and drive runs, and one listener that wakes them.

The listener has its own connection. It hears of due and changed runs by NOTIFY, looks at the clock for what is due by
time, polls twice a second in case a notification was missed, and renews the leases of the runs being driven.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from django.db import Error, InterfaceError, OperationalError, connection
from django.utils import timezone

from portia_runtime import journal
from portia_runtime.execution import Execution
from portia_runtime.models import Run
from portia_runtime.signals import CHANGED, DUE, notify
from portia_runtime.watchers import Watchers

POLL_SECONDS = 0.5
RENEW_SECONDS = 1.5
DATABASE_PAUSE = 0.5
TOOL_THREADS = 64

log = logging.getLogger(__name__)


class Engine:
    """`start`, then `stop`; every thread has its own database connection and closes it at its end."""

    def __init__(self, *, workers: int, watchers: Watchers) -> None:
        self._watchers = watchers
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(TOOL_THREADS, thread_name_prefix="tool")
        self._driven: dict[str, Execution] = {}
        self._bell = _Bell(workers)
        self._timer: float | None = None
        self._threads = [
            threading.Thread(target=self._listen, name="listener", daemon=True),
            *(threading.Thread(target=self._work, name=f"worker-{n}", daemon=True) for n in range(workers)),
        ]

    def start(self) -> None:
        """Start the threads and return."""
        for thread in self._threads:
            thread.start()

    def stop(self, *, timeout: float = 4.0) -> bool:
        """Claim nothing more, let the calls under way finish; whether all was quiet within so many seconds."""
        self._stopping.set()
        self._bell.ring_all()
        for execution in list(self._driven.values()):
            execution.wake()
        self._pool.shutdown(wait=False, cancel_futures=False)
        end = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(end - time.monotonic(), 0.0))
        return not any(thread.is_alive() for thread in self._threads)

    # -- workers

    def _work(self) -> None:
        while not self._stopping.is_set():
            self._bell.wait(self._stopping)
            try:
                while not self._stopping.is_set() and self._drive_next():
                    pass
            except (OperationalError, InterfaceError) as error:
                log.warning("a worker lost the database (%s); it tries again", type(error).__name__)
                self._recover_worker()
            except Exception:
                log.exception("a worker failed; it starts again")
                self._recover_worker()
        self._wake_listener()
        connection.close()

    def _wake_listener(self) -> None:
        """End its wait for a notification, that a runtime told to stop stops at once."""
        with suppress(Error):
            notify("", CHANGED)

    def _recover_worker(self) -> None:
        connection.close()
        self._stopping.wait(DATABASE_PAUSE)
        self._bell.ring()

    def _drive_next(self) -> bool:
        run = journal.claim()
        if run is None:
            return False
        try:
            self._drive(run)
        except (OperationalError, InterfaceError):
            raise
        except Exception as error:
            log.exception("run %s cannot go on", run.run_id)
            journal.give_up(run, f"the runtime failed: {type(error).__name__}")
        return True

    def _drive(self, run: Run) -> None:
        execution = Execution(journal.read(run), pool=self._pool, stopping=self._stopping)
        self._driven[run.run_id] = execution
        try:
            execution.run()
        finally:
            self._driven.pop(run.run_id, None)
        if execution.next_due:
            self._wake_at((execution.next_due - timezone.now()).total_seconds(), run)

    def _wake_at(self, seconds: float, run: Run) -> None:
        """Look at the clock in so many seconds; what is due later than the next poll is left to the polls."""
        if seconds < POLL_SECONDS:
            self._set_timer(seconds)
            notify(run.run_id, CHANGED)  # the listener may be asleep until its next poll

    def _set_timer(self, seconds: float) -> None:
        at = time.monotonic() + seconds
        self._timer = at if self._timer is None else min(self._timer, at)

    # -- listener

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen_on_connection()
            except Error as error:
                log.warning("the listener lost the database (%s); it tries again", type(error).__name__)
            except Exception:
                log.exception("the listener failed; it starts again")
            connection.close()
            self._stopping.wait(DATABASE_PAUSE)

    def _listen_on_connection(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"LISTEN {DUE}; LISTEN {CHANGED}")
        self._watchers.wake_all()
        next_poll = next_renewal = 0.0
        while not self._stopping.is_set():
            now = time.monotonic()
            if now >= next_renewal:
                self._renew()
                next_renewal = now + RENEW_SECONDS
            if now >= min(next_poll, self._timer if self._timer is not None else next_poll):
                self._timer = None
                self._look_at_clock()
                next_poll = now + POLL_SECONDS
            until = min(next_poll, next_renewal, self._timer if self._timer is not None else next_poll)
            for channel, run_id in _notifications(max(until - time.monotonic(), 0.0)):
                self._hear(channel, run_id)

    def _hear(self, channel: str, run_id: str) -> None:
        if channel == CHANGED:
            self._watchers.wake(run_id)
        elif run_id in self._driven:
            self._driven[run_id].wake()
        else:
            self._bell.ring()

    def _look_at_clock(self) -> None:
        seconds = journal.seconds_to_next_due()
        if seconds is None:
            return
        if seconds <= 0:
            self._bell.ring_all()
        elif seconds < POLL_SECONDS:
            self._set_timer(seconds)

    def _renew(self) -> None:
        tokens = [one.state.run.lease_token for one in list(self._driven.values())]
        held = [token for token in tokens if token]
        if held:
            journal.renew(held)


def _notifications(timeout: float) -> Iterable[tuple[str, str]]:
    """The notifications that arrive within so many seconds; returns after the first batch."""
    with connection.wrap_database_errors:
        for notification in connection.connection.notifies(timeout=timeout, stop_after=1):
            yield notification.channel, notification.payload


class _Bell:
    """Rung when there is work; wakes as many workers as it was rung, and never more than there are."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._rings = workers
        self._condition = threading.Condition()

    def ring(self) -> None:
        with self._condition:
            self._rings = min(self._rings + 1, self._workers)
            self._condition.notify()

    def ring_all(self) -> None:
        with self._condition:
            self._rings = self._workers
            self._condition.notify_all()

    def wait(self, stopping: threading.Event) -> None:
        with self._condition:
            while not self._rings and not stopping.is_set():
                self._condition.wait()
            self._rings = max(self._rings - 1, 0)
