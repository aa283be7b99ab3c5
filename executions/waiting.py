"""How many requests of one process may wait at once: each holds a thread, and waiting must never starve the API.

A request that finds no place does not wait: it is answered at once with what there is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST_WAIT = 60  # seconds
PLACES = threading.BoundedSemaphore(3)  # of the web process's 8 threads


@contextmanager
def place(*, seconds: float) -> Iterator[float]:
    """Give the seconds that may be waited, LONGEST_WAIT at most; 0 where every place is taken or none was asked for."""
    if seconds <= 0 or not PLACES.acquire(blocking=False):
        yield 0.0
        return
    try:
        yield min(seconds, LONGEST_WAIT)
    finally:
        PLACES.release()
