"""Take the audit log of a tenant out, so that it can be kept and checked elsewhere."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils.dateparse import parse_datetime

from executions.actions import audit
from executions.audit_chain import UNUSABLE
from executions.management.tenants import audited
from executions.signing import UnusableKey


class Command(BaseCommand):
    """`manage.py export_audit --tenant acme --output acme.ndjson`."""

    help = "Write a tenant's audit log as NDJSON: entries with their links, checkpoints, and a signed end."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", required=True, help="identifier, or `service` for what concerns no tenant")
        parser.add_argument("--since", metavar="MOMENT", help="RFC 3339, e.g. 2026-11-01T00:00:00Z; included")
        parser.add_argument("--until", metavar="MOMENT", help="not included")
        parser.add_argument("--output", type=Path, metavar="FILE", help="default: standard output")

    def handle(self, *args: Any, tenant: str, output: Path | None, **options: Any) -> None:
        bounds = {name: _moment(name, options[name]) for name in ("since", "until")}
        lines = audit.export(audited(tenant), **bounds)
        try:
            if output is None:
                for line in lines:
                    self.stdout.write(line.decode(), ending="")
            else:
                with output.open("wb") as file:
                    file.writelines(lines)
        except UnusableKey as error:
            raise CommandError(f"AUDIT_SIGNING_KEY_FILE: {error}", returncode=UNUSABLE) from None
        except OSError as error:
            raise CommandError(f"--output: {error}", returncode=UNUSABLE) from None


def _moment(name: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = parse_datetime(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise CommandError(
            f"--{name}: a moment by RFC 3339 with an offset or Z, as in 2026-11-01T00:00:00Z.", returncode=UNUSABLE
        )
    return moment
