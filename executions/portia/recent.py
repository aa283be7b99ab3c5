"""An answer of the Portia Runtime that may be some seconds old, for callers who cannot wait for a fresh one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from executions.portia.errors import PortiaError

AGE = 15.0  # seconds
T = TypeVar("T")


class Recent(Generic[T]):
    """One caller in 15 seconds asks anew; the others get the last answer meanwhile. Safe to share between threads.

    Where asking fails with a PortiaError, `otherwise` is the answer, for as long.
    """

    def __init__(self, ask: Callable[[], T], *, otherwise: T) -> None:
        self._ask = ask
        self._otherwise = self._answer = otherwise
        self._asked_at = float("-inf")
        self._lock = threading.Lock()

    def get(self) -> T:
        """The answer; for the caller whose turn it is this takes as long as asking."""
        with self._lock:
            if time.monotonic() - self._asked_at < AGE:
                return self._answer
            self._asked_at = time.monotonic()
        try:
            self._answer = self._ask()
        except PortiaError:
            self._answer = self._otherwise
        self._asked_at = time.monotonic()
        return self._answer
