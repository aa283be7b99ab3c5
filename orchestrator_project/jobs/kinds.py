"""The kinds of background work, as settings.JOBS names them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.utils.module_loading import import_string


@dataclass(frozen=True, kw_only=True)
class JobKind:
    """One kind of work.

    `drain()` claims one batch, works it, commits and returns how many items it worked; 0 means that it found none.
    `due()` returns the seconds until something of this kind is due: 0 or less for now, None where nothing waits at all.
    `slots` is how many workers may drain this kind at once, over all clusters.
    """

    name: str
    slots: int
    drain: Callable[[], int]
    due: Callable[[], float | None]


def job_kind(name: str) -> JobKind:
    """The kind of that name. Raises KeyError when settings.JOBS has none, ImportError when its functions are missing."""
    entry: dict[str, Any] = settings.JOBS[name]
    return JobKind(
        name=name, slots=entry["slots"], drain=import_string(entry["drain"]), due=import_string(entry["due"])
    )
