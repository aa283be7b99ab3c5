"""Those who wait for a run to change (long polling): woken by the listener's notifications, bounded in number."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Watchers:
    """A bounded crowd of waiting requests."""

    def __init__(self, limit: int) -> None:
        self.is_open = True
        self._limit = limit
        self._lock = threading.Lock()
        self._waiting: dict[str, set[threading.Event]] = defaultdict(set)

    @contextmanager
    def watching(self, run_id: str) -> Iterator[threading.Event | None]:
        """An event that is set when the run may have changed; nothing when too many wait already."""
        changed = threading.Event()
        with self._lock:
            is_full = sum(map(len, self._waiting.values())) >= self._limit
            if not is_full:
                self._waiting[run_id].add(changed)
        try:
            yield None if is_full else changed
        finally:
            with self._lock:
                self._waiting[run_id].discard(changed)
                if not self._waiting[run_id]:
                    del self._waiting[run_id]

    def wake(self, run_id: str) -> None:
        """The run has changed."""
        with self._lock:
            for changed in self._waiting.get(run_id, ()):
                changed.set()

    def close(self) -> None:
        """Let nobody wait any longer: the server is about to stop."""
        self.is_open = False
        self.wake_all()

    def wake_all(self) -> None:
        """Anything may have changed."""
        with self._lock:
            for waiting in self._waiting.values():
                for changed in waiting:
                    changed.set()
