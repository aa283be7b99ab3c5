"""Refuse a capability token from now on, and stop the runs it let in at their next check."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from executions.actions import captokens
from executions.errors import InvalidRequest
from executions.management.keys import add_by
from executions.models import Tenant

LONGEST_REASON = 500


class Command(BaseCommand):
    """`manage.py revoke_captoken --tenant demo --reason "The laptop is gone." <token id>`."""

    help = "Revoke a capability token by its id (jti), and with it those that were made from it."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("token_id", help="the token's jti, as the run's `capability` shows it")
        parser.add_argument("--tenant", required=True, help="identifier of the tenant the token is for")
        parser.add_argument("--reason", required=True, help="why, for the audit log")
        add_by(parser)

    def handle(self, *, token_id: str, tenant: str, reason: str, by: str, **_: Any) -> None:
        found = Tenant.objects.filter(identifier=tenant).first()
        if found is None:
            raise CommandError(f"--tenant: there is no tenant {tenant!r}.")
        if not 3 <= len(reason.strip()) <= LONGEST_REASON:
            raise CommandError(f"--reason: say why in 3 to {LONGEST_REASON} characters.")
        try:
            revoked = captokens.revoke(tenant=found, token_id=token_id, by=by, reason=reason.strip())
        except InvalidRequest as refused:
            raise CommandError(str(refused)) from None
        self.stdout.write(f"{revoked.token_id} is refused since {revoked.revoked_at:%Y-%m-%d %H:%M:%S} UTC.")
