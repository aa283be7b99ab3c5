"""One run in the hands of one worker, from claiming it to letting go.

1. Apply the results of finished calls, look what is to be done, and commit both at once (`outcome`, `journal`).
2. Call the tools that the commit marked as running. No tool is called inside a transaction.
3. Wait for a result, for something to happen from outside, or for a time; then from the beginning.
Nothing in flight and nothing to call: the commit has already let go of the run.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from django.db import InterfaceError, OperationalError, connection
from django.utils import timezone

from portia_runtime import journal, outcome, steps, tools
from portia_runtime.calls import Finished, call_in_pool, call_tool, timed_out
from portia_runtime.models import StepStatus
from portia_runtime.state import RunState, Start
from portia_runtime.walk import Walk

DATABASE_PAUSE = 0.5  # seconds
MAX_PATIENCE = 2.0  # seconds; then the run is read anew, in case a notification was missed

log = logging.getLogger(__name__)


class Execution:
    """Drives one claimed run. `wake` may be called from any thread."""

    def __init__(self, state: RunState, *, pool: ThreadPoolExecutor, stopping: threading.Event) -> None:
        self.state = state
        self.next_due: datetime | None = None
        self._pool = pool
        self._stopping = stopping
        self._inbox: queue.SimpleQueue[Finished | None] = queue.SimpleQueue()
        self._in_flight: dict[str, tuple[Start, float | None]] = {}
        self._is_stale = False
        self._is_fresh = True

    def wake(self) -> None:
        """Something happened to the run from outside: look at it."""
        self._inbox.put(None)

    def run(self) -> None:
        """Take the run as far as it goes now. Raises what the database raises when it stays away."""
        finished: list[Finished] = []
        while True:
            if self._is_stale and not self._reread():
                return
            try:
                starts, released = self._advance(finished)
            except journal.NotCommittedError:
                self._is_stale = True
                continue
            if released:
                return
            finished = self._launch(starts) or self._wait()

    def _advance(self, finished: list[Finished]) -> tuple[list[Start], bool]:
        walk = Walk(self.state, self._in_flight, timezone.now())
        if self._is_fresh:
            self._recover(walk)
        for one in finished:
            _apply(walk, one)
        if self._stopping.is_set():
            verdict = outcome.Verdict(release=not self._in_flight, due_at=walk.now)
        else:
            verdict = outcome.decide(walk)
        if finished or verdict.release or self.state.is_changed:
            self._commit(verdict)
        self._is_fresh = False
        self.next_due = verdict.due_at
        return walk.starts, verdict.release

    def _commit(self, verdict: outcome.Verdict) -> None:
        """Commit, again and again while the database is away: what is in memory stays right as long as the lease is ours."""
        while True:
            try:
                return journal.commit(
                    self.state,
                    release=verdict.release,
                    due_at=verdict.due_at,
                    keep_pause=verdict.keep_pause,
                )
            except (OperationalError, InterfaceError):
                connection.close()
                if self._stopping.wait(DATABASE_PAUSE):
                    raise

    def _reread(self) -> bool:
        """Read the run anew; False once another worker holds it."""
        while True:
            try:
                state = journal.reread(self.state)
                break
            except (OperationalError, InterfaceError):
                connection.close()
                if self._stopping.wait(DATABASE_PAUSE):
                    raise
        if state is None:
            return False
        self.state, self._is_stale = state, False
        return True

    def _recover(self, walk: Walk) -> None:
        """Calls that were under way when a worker died: again where that is harmless, else the step was interrupted."""
        for row in list(self.state.rows.values()):
            if row.status != StepStatus.RUNNING or row.type != "action":
                continue
            step = self.state.plan.at(row.path)
            tool = tools.find(step.document.tool)
            if step.document.metadata.get("idempotent") is True or (tool and tool.idempotent):
                walk.wait(row, until=walk.now, reason="the runtime stopped during this step; it is run again")
            else:
                message = "the runtime stopped during this step; whether it took effect is not known"
                walk.fail(step, row, "interrupted", message)

    def _launch(self, starts: list[Start]) -> list[Finished]:
        """Call the tools; a single quick one is called right here, and its end given back."""
        if len(starts) == 1 and not self._in_flight and starts[0].tool.is_quick:
            return [call_tool(starts[0])]
        for start in starts:
            deadline = None if start.limit is None else time.monotonic() + start.limit
            self._in_flight[start.call.step_id] = (start, deadline)
            call_in_pool(self._pool, start, self._inbox.put)
        return []

    def _wait(self) -> list[Finished]:
        """Block until a call ends, a limit passes, a step is due, or somebody wakes the run; give the ended calls."""
        found: list[Finished] = []
        try:
            self._sort_in(self._inbox.get(timeout=self._patience()), found)
            while True:
                self._sort_in(self._inbox.get_nowait(), found)
        except queue.Empty:
            self._is_stale = self._is_stale or not found
        now = time.monotonic()
        for path, (start, deadline) in list(self._in_flight.items()):
            if deadline is not None and deadline <= now:
                del self._in_flight[path]
                found.append(timed_out(start))
        return found

    def _sort_in(self, news: Finished | None, found: list[Finished]) -> None:
        if news is None:
            self._is_stale = True
            return
        path = news.start.call.step_id
        if path in self._in_flight and self._in_flight[path][0] is news.start:
            del self._in_flight[path]
            found.append(news)

    def _patience(self) -> float:
        times = [MAX_PATIENCE]
        times += [deadline - time.monotonic() for _, deadline in self._in_flight.values() if deadline is not None]
        if self.next_due:
            times.append((self.next_due - timezone.now()).total_seconds())
        return max(min(times), 0.0)


def _apply(walk: Walk, finished: Finished) -> None:
    call, step = finished.start.call, finished.start.step
    row = walk.state.rows.get(call.step_id)
    if row is None or row.status != StepStatus.RUNNING or row.attempts != call.attempt:
        return
    if finished.again is not None:
        steps.postpone(walk, step, row, call, finished.again)
    elif finished.error:
        code, message, retryable = finished.error
        walk.fail(step, row, code, message, retryable=retryable)
    else:
        walk.complete(step, row, finished.output)
