"""Sign a capability token with the key of `create_signing_key`: for development and trials."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from executions.capabilities import LONGEST_LIFETIME, issue
from executions.management.commands.create_signing_key import private_key_file


class Command(BaseCommand):
    """Prints the token alone on a line, ready for `X-Capability-Token`."""

    help = "Print a signed capability token."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--tenant", required=True, help="identifier of the tenant the token is for")
        parser.add_argument("--subject", required=True, help="on whose behalf the plan runs")
        parser.add_argument("--cap", action="append", required=True, help="a capability, e.g. payments:*; repeatable")
        parser.add_argument("--tool", action="append", help="an allowed tool; repeatable; without: no restriction")
        parser.add_argument("--ttl", type=int, default=LONGEST_LIFETIME, help="seconds, default and limit %(default)s")
        parser.add_argument("--key", type=Path, default=private_key_file(), help="private JWK, default: %(default)s")

    def handle(
        self, *, tenant: str, subject: str, cap: list[str], tool: list[str] | None, ttl: int, key: Path, **_: Any
    ) -> None:
        try:
            token = issue(
                key=private_key(key),
                issuer=settings.CAPTOKENS_ISSUER or "captokens",
                tenant=tenant,
                subject=subject,
                capabilities=cap,
                tools=tool,
                lifetime=ttl,
                now=datetime.now(UTC),
            )
        except ValueError as error:
            raise CommandError(f"--ttl: {error}") from None
        self.stdout.write(token)


def private_key(path: Path) -> OKPKey:
    """The signing key in the file; CommandError when there is none."""
    if not path.exists():
        raise CommandError(f"{path} is not there: run `manage.py create_signing_key` first or name a file with --key.")
    try:
        key = OKPKey.import_key(json.loads(path.read_text()))
    except (JoseError, ValueError, TypeError, KeyError):
        raise CommandError(f"{path} is not an Ed25519 JWK.") from None
    if not key.is_private or key.curve_name != "Ed25519":
        raise CommandError(f"{path} is not a private Ed25519 JWK.")
    return key
