"""`manage.py unlock_login`: let people sign in again who, or whose address, failed too often."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from executions.actions.tenants import COMMAND_LINE
from orchestrator_project.login_throttle import Kind, Subject, subjects_of, unlock
from orchestrator_project.models import LoginAttempts


class Command(BaseCommand):
    """Forgets the failed attempts of a user name, of an address, or all."""

    help = "Let a user name or an address sign in again at once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("name", nargs="?", help="a user name")
        which.add_argument("--address", help="an IP address")
        which.add_argument("--all", action="store_true", help="every user name and address")

    def handle(self, *, name: str | None, address: str | None, all: bool, **_: Any) -> None:  # noqa: A002  the option's name
        rows = LoginAttempts.objects.all()
        if not all:
            subject = _subject(name, address)
            rows = rows.filter(kind=subject.kind, digest=subject.digest)
        self.stdout.write(f"{unlock(rows, by=COMMAND_LINE)} unlocked.")


def _subject(name: str | None, address: str | None) -> Subject:
    if name is not None:
        return Subject(Kind.NAME, subjects_of(name, "")[0].key)
    try:
        return subjects_of("", address or "")[0]
    except ValueError:
        raise CommandError(f"--address: {address!r} is no IP address.") from None
