"""Make an API key and show it once."""

from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from executions.actions.tenants import create_api_key
from executions.errors import OrchestratorError
from executions.management.keys import add_by
from executions.models import Scope, Tenant

SERVICE_SCOPES = [Scope.EXECUTE, Scope.READ, Scope.CONTROL]


class Command(BaseCommand):
    """`manage.py create_api_key acme billing-agent --days 90`."""

    help = (
        "Make an API key of a tenant. The key is printed once, alone on standard output, and stored as a digest only."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("tenant", help="identifier of the tenant")
        parser.add_argument("principal", help="who calls with this key, as written on runs and events")
        parser.add_argument(
            "--scope",
            action="append",
            choices=Scope.values,
            help=f"may be given several times (default: {', '.join(SERVICE_SCOPES)})",
        )
        parser.add_argument("--user", help="user name of the person the key belongs to; needed for the scope decide")
        parser.add_argument("--days", type=int, help="days until the key expires (default: never)")
        add_by(parser)

    def handle(self, *args: Any, tenant: str, principal: str, **options: Any) -> None:
        try:
            key, secret = create_api_key(
                by=options["by"],
                tenant=self._tenant(tenant),
                principal=principal,
                scopes=options["scope"] or SERVICE_SCOPES,
                user=self._user(options["user"]),
                expires_at=self._end(options["days"]),
            )
        except OrchestratorError as error:
            raise CommandError(str(error)) from None
        self.stderr.write(f"Key {key.prefix}… of {principal} at {tenant}, scopes {', '.join(key.scopes)}. Keep it now:")
        self.stdout.write(secret)

    def _end(self, days: int | None) -> datetime | None:
        try:
            return None if days is None else timezone.now() + timedelta(days=days)
        except OverflowError:
            raise CommandError(
                "--days: so many days are beyond the calendar; leave it out for a key that stays."
            ) from None

    def _tenant(self, identifier: str) -> Tenant:
        found = Tenant.objects.filter(identifier=identifier).first()
        if found is None:
            known = ", ".join(Tenant.objects.values_list("identifier", flat=True)[:20]) or "none yet"
            raise CommandError(f"tenant: there is no {identifier!r} (known: {known}). Add it with create_tenant.")
        return found

    def _user(self, username: str | None) -> Any:
        if username is None:
            return None
        user = get_user_model().objects.filter(username=username).first()
        if user is None:
            raise CommandError(f"--user: there is no user {username!r}. Add one in the admin or with createsuperuser.")
        return user
