"""What the processes of a cluster share, so made that the death of any of them at any instruction harms no other.

The stock parts (multiprocessing's queues, values and events) are guarded by semaphores, and a process that is killed while it
holds one takes it along: the others then wait for ever. Here the kernel does the guarding, and cleans up after the dead:
- a message queue is a socket pair that keeps message boundaries: each message reaches exactly one reader, whole;
- a flag is an eventfd: once set, it is readable for everybody for ever;
- a worker's timer is one number that only the worker writes.
Linux only. Source: unix(7), eventfd(2), prctl(2).
"""

from __future__ import annotations

import ctypes
import os
import pickle
import select
import signal
import socket
import time
from contextlib import nullcontext
from errno import EMSGSIZE
from multiprocessing.sharedctypes import RawValue
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
MAX_RESULT = 10_000  # characters that are kept of a result that is too long for one message

_libc = ctypes.CDLL(None, use_errno=True)


def die_with(parent_pid: int) -> None:
    """Have this process killed by the kernel when its parent process ends, however that happens."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # it died before we asked
        os._exit(1)


def name_process(name: str) -> None:
    """Show this name (15 bytes at most) in `ps -o comm` and `top`."""
    _libc.prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)


class MessageQueue:
    """The part of `multiprocessing.Queue` that django-q2 uses, without a lock.

    `buffer` (bytes) bounds what may wait in it: `put` blocks until there is room, and refuses a message that could never fit.
    The kernel doubles the number and counts its own overhead, so that 8 KiB hold a dozen small tasks.
    """

    def __init__(self, *, buffer: int) -> None:
        self._reader, self._writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        self._largest = self._writer.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)

    def put(self, item: Any) -> None:
        """Add one item. Of a finished task whose result does not fit only the beginning is kept."""
        try:
            self._writer.sendall(pickle.dumps(item))
        except OSError as error:
            if error.errno != EMSGSIZE or "result" not in item:
                raise
            self._writer.sendall(pickle.dumps({**item, "result": str(item["result"])[:MAX_RESULT]}))

    def get(self) -> Any:
        """Take the oldest item; wait for one if there is none."""
        return pickle.loads(self._reader.recv(self._largest))  # noqa: S301 (only our own processes hold the socket)

    def empty(self) -> bool:
        """Whether no item waits."""
        return not select.select([self._reader], [], [], 0)[0]

    def qsize(self) -> int:
        """How many items wait, as far as django-q2's status page needs to know: 0, or 1 for some."""
        return int(not self.empty())

    def close(self) -> None:
        """Nothing to do: the sockets close with the last process."""

    def join_thread(self) -> None:
        """Nothing to wait for: `put` hands its item to the kernel at once."""


class Flag:
    """The part of `multiprocessing.Event` that django-q2 uses. Setting it is safe in a signal handler."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def set(self) -> None:
        """Raise the flag, for good."""
        os.eventfd_write(self._fd, 1)

    def is_set(self) -> bool:
        """Whether the flag is up."""
        return self.wait(0)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to `timeout` seconds for the flag; tell whether it is up."""
        return bool(select.select([self._fd], [], [], timeout)[0])


class WorkerTimer:
    """What a worker is doing: -1 idle, -2 about to leave, else the seconds it has left for its task (0: none).

    Takes the place of the shared number that django-q2's sentinel counts down under a lock. Only the worker writes here;
    the countdown is left to the clock.
    """

    def __init__(self) -> None:
        self._sentinel_pid = os.getpid()
        self._cell = RawValue(ctypes.c_double, -1.0)  # a deadline on the monotonic clock, which all processes share

    @property
    def value(self) -> float:
        """Seconds left, or a state below zero."""
        deadline = self._cell.value
        return deadline if deadline <= 0 else max(0.0, deadline - time.monotonic())

    @value.setter
    def value(self, seconds: float) -> None:
        if os.getpid() != self._sentinel_pid:
            self._cell.value = time.monotonic() + seconds if seconds > 0 else seconds

    def get_lock(self) -> nullcontext[None]:
        """No lock: there is one writer."""
        return nullcontext()
