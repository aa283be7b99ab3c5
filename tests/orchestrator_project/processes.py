"""Looking at processes, and waiting for what they do."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path


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
