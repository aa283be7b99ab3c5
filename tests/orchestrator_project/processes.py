"""Looking at processes, and waiting for what they do."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, urlencode

from django.conf import settings
from django.db import connection


def living() -> Iterator[tuple[int, str, int, int]]:
    """Every process that is not a zombie: its number, name, parent and group."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name, rest = (folder / "stat").read_text().split("(", 1)[1].rsplit(") ", 1)
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, parent, group = rest.split()[:3]
        if state != "Z":
            yield int(folder.name), name, int(parent), int(group)


def is_alive(pid: int) -> bool:
    return any(pid == other for other, *_ in living())


def descendants_of(pid: int) -> set[int]:
    children = {child for child, _, parent, _ in living() if parent == pid}
    return children.union(*map(descendants_of, children))


def wait_until(holds: Callable[[], object], seconds: float = 15) -> float:
    """Wait for it; return how long it took."""
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < seconds, "it did not happen in time"
        time.sleep(0.02)
    return time.monotonic() - started


def on_the_test_database() -> dict[str, str]:
    """The environment of processes that are to work on the database of the test."""
    there = connection.get_connection_params()
    options = {key: str(there[key]) for key in ("host", "port", "user", "password") if there.get(key)}
    query = urlencode(options, quote_via=quote)  # libpq takes a plus for a plus
    return {
        "DATABASE_URL": f"postgresql:///{quote(there['dbname'])}?{query}",
        "DATA_DIR": str(settings.DATA_DIR),
        "ANUMATE_ENV": "development",
    }
