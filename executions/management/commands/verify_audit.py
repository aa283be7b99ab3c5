"""Prove that the audit log is as it was written, or say where it is not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser

from executions.actions.audit import check_chain
from executions.audit_chain import SOUND, UNUSABLE, WRONG, Unreadable, anchors, verdict
from executions.management.tenants import audited, audited_tenants
from executions.signing import UnusableKey, read_public_keys


class Command(BaseCommand):
    """`manage.py verify_audit --public-key audit.jwks`; with `--file export.ndjson` it needs no database."""

    help = (
        "Check the audit log with the public key: every entry, every link, every checkpoint. "
        "Exit codes: 0 as it was written, 1 not, 2 that cannot be told."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", help="identifier, or `service`; without it, all")
        parser.add_argument(
            "--file", type=Path, metavar="EXPORT.ndjson", help="check an export instead of the database"
        )
        parser.add_argument("--public-key", type=Path, required=True, metavar="FILE", help="PEM, JWK or JWKS")
        parser.add_argument(
            "--log", type=Path, metavar="FILE", help="a log of the service, to hold its checkpoints against"
        )

    def handle(
        self, *args: Any, tenant: str | None, file: Path | None, public_key: Path, log: Path | None, **options: Any
    ) -> None:
        if file is not None:
            if tenant or log:
                raise CommandError(
                    "--file: an export is checked by itself, without --tenant and --log.", returncode=UNUSABLE
                )
            code, report = verdict(file, public_key)
            self._say(report, code)
            sys.exit(code)
        sys.exit(self._check([audited(tenant)] if tenant else [pk for _, pk in audited_tenants()], public_key, log))

    def _check(self, tenants: list[UUID], public_key: Path, log: Path | None) -> int:
        try:
            keys = read_public_keys(public_key)
            kept = list(anchors(log.read_bytes().splitlines())) if log else []
        except UnusableKey as error:
            raise CommandError(f"--public-key: {error}", returncode=UNUSABLE) from None
        except (OSError, Unreadable) as error:
            raise CommandError(f"--log: {error}", returncode=UNUSABLE) from None
        worst = SOUND
        for tenant_id in tenants:
            chain = check_chain(tenant_id, keys=keys, anchors=kept)
            code = WRONG if chain.findings else SOUND
            self._say(chain.report, code)
            worst = max(worst, code)
        return worst

    def _say(self, report: str, code: int) -> None:
        (self.stdout if code == SOUND else self.stderr).write(report)
