"""Kinds of work on a table of their own: quick ones in batches, slow ones one by one, and some that go wrong."""

import os
import signal
import time
from typing import NoReturn

from django.db import connection

JOBS = {
    "quick": {"drain": f"{__name__}.drain_quick", "due": f"{__name__}.quick_due", "slots": 1},
    "slow": {"drain": f"{__name__}.drain_slow", "due": f"{__name__}.slow_due", "slots": 2},
    "deaf": {"drain": f"{__name__}.drain_deaf", "due": f"{__name__}.deaf_due", "slots": 1},
}

CREATE = """
CREATE TABLE IF NOT EXISTS scratch_job (
    id bigserial PRIMARY KEY, kind text NOT NULL, added_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_at timestamptz NOT NULL DEFAULT now(), seconds float NOT NULL DEFAULT 0, started_at timestamptz,
    starts int NOT NULL DEFAULT 0, pid int, done int NOT NULL DEFAULT 0
)
"""
CLAIM = """
UPDATE scratch_job SET due_at = now() + interval '4 s', starts = starts + 1, started_at = clock_timestamp(), pid = %s
WHERE id IN (SELECT id FROM scratch_job WHERE kind = %s AND done = 0 AND due_at <= now() ORDER BY id LIMIT %s
             FOR UPDATE SKIP LOCKED)
RETURNING id, seconds
"""
DUE = "SELECT extract(epoch FROM min(due_at) - now())::float FROM scratch_job WHERE kind = %s AND done = 0"


def add(kind: str, *, count: int = 1, seconds: float = 0.0, due_in: float = 0.0) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO scratch_job (kind, seconds, due_at) SELECT %s, %s, now() + %s * interval '1 s'"
            " FROM generate_series(1, %s)",
            [kind, seconds, due_in, count],
        )


def rows(columns: str) -> list[tuple]:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {columns} FROM scratch_job ORDER BY 1")
        return cursor.fetchall()


def _drain(kind: str, limit: int) -> int:
    with connection.cursor() as cursor:
        cursor.execute(CLAIM, [os.getpid(), kind, limit])
        rows = cursor.fetchall()
        for _, seconds in rows:
            time.sleep(seconds)
        cursor.execute("UPDATE scratch_job SET done = done + 1 WHERE id = ANY(%s)", [[row[0] for row in rows]])
    return len(rows)


def _due(kind: str) -> float | None:
    with connection.cursor() as cursor:
        cursor.execute(DUE, [kind])
        return cursor.fetchone()[0]


def drain_quick() -> int:
    return _drain("quick", 50)


def quick_due() -> float | None:
    return _due("quick")


def drain_slow() -> int:
    return _drain("slow", 1)


def slow_due() -> float | None:
    return _due("slow")


def drain_deaf() -> int:
    """Like a library that hangs and hears no signal."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    return _drain("deaf", 1)


def deaf_due() -> float | None:
    return _due("deaf")


def drain_one() -> int:
    time.sleep(0.01)
    return 1


def drain_nothing() -> int:
    return 0


def fail() -> NoReturn:
    raise RuntimeError("the password is hunter2")


def always_due() -> float:
    return -100.0
