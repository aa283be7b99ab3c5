"""Sign a capability token with the key of `create_signing_key`: for development and trials."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from executions.argument_limits import BadLimits, check_limits
from executions.capabilities import LONGEST_LIFETIME, issue
from executions.captoken_keys import UnusableKey, private_key


class Command(BaseCommand):
    """Prints the token alone on a line, ready for `X-Capability-Token`."""

    help = "Print a signed capability token."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        default_key = settings.CAPTOKENS_SIGNING_KEY_FILE
        parser.add_argument("--tenant", required=True, help="identifier of the tenant the token is for")
        parser.add_argument("--subject", required=True, help="on whose behalf the plan runs")
        parser.add_argument("--cap", action="append", required=True, help="a capability, e.g. payments:*; repeatable")
        parser.add_argument("--tool", action="append", help="an allowed tool; repeatable; without: no restriction")
        parser.add_argument("--limits", default="{}", help="schemas of arguments by tool, as JSON")
        parser.add_argument("--ttl", type=int, default=LONGEST_LIFETIME, help="seconds, default and limit %(default)s")
        parser.add_argument("--key", type=Path, default=default_key, help="private JWK, default: %(default)s")

    def handle(
        self,
        *,
        tenant: str,
        subject: str,
        cap: list[str],
        tool: list[str] | None,
        limits: str,
        ttl: int,
        key: Path,
        **_: Any,
    ) -> None:
        try:
            token = issue(
                key=private_key(key),
                issuer=settings.CAPTOKENS_ISSUER or "captokens",
                tenant=tenant,
                subject=subject,
                capabilities=cap,
                tools=tool,
                limits=_limits(limits),
                lifetime=ttl,
                now=datetime.now(UTC),
            )
        except ValueError as error:
            raise CommandError(f"--ttl: {error}") from None
        except UnusableKey as error:
            raise CommandError(str(error)) from None
        self.stdout.write(token)


def _limits(text: str) -> dict[str, Any]:
    try:
        limits: dict[str, Any] = json.loads(text)
        check_limits(limits)
    except (BadLimits, ValueError, RecursionError) as error:
        raise CommandError(f"--limits: {error}") from None
    return limits
