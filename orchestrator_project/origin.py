"""Which way somebody came in, and from where: what the audit log writes beside each deed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from django.db import models


class Source(models.TextChoices):
    """Which way somebody came in."""

    API = "api", "API"
    ADMIN = "admin", "Admin"
    LINK = "link", "Mail link"
    COMMAND = "command", "Management command"
    JOB = "job", "Background job"


@dataclass(frozen=True)
class Origin:
    """Which way somebody came in, and from which IP address (empty: from this machine)."""

    source: Source = Source.COMMAND
    address: str = ""


_origin: ContextVar[Origin] = ContextVar("origin", default=Origin())  # noqa: B039  immutable


def origin() -> Origin:
    """Where what is done right now comes from."""
    return _origin.get()


@contextmanager
def coming_from(source: Source, address: str = "") -> Iterator[None]:
    """Write whatever is done in the block down as done this way."""
    token = _origin.set(Origin(source, address))
    try:
        yield
    finally:
        _origin.reset(token)
