"""Add a tenant."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from executions.actions.tenants import create_tenant
from executions.errors import OrchestratorError


class Command(BaseCommand):
    """`manage.py create_tenant acme --name "Acme Ltd"`."""

    help = "Add a tenant: an organisation or team whose plans, runs and keys nobody else sees."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("identifier", help="lower-case letters, digits and hyphens, as in X-Tenant-ID")
        parser.add_argument("--name", default="", help="the name people read (default: the identifier)")
        parser.add_argument("--rate-limit", type=int, metavar="N", help="API requests per minute (default: unlimited)")
        parser.add_argument(
            "--concurrency-limit", type=int, metavar="N", help="runs that have not ended, at once (default: unlimited)"
        )

    def handle(self, *args: Any, identifier: str, name: str, **options: Any) -> None:
        limits = {limit: options[limit] for limit in ("rate_limit", "concurrency_limit")}
        try:
            tenant = create_tenant(identifier=identifier, name=name, **limits)
        except OrchestratorError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"Tenant {tenant.identifier} is there. Next: manage.py create_api_key {tenant.identifier} …")
