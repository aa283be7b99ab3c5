"""Revoke an API key."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from executions.actions.tenants import revoke_api_key
from executions.management.keys import NAMED, add_by, find_key


class Command(BaseCommand):
    """`manage.py revoke_api_key orc_4pVt7dKx --reason "The laptop is gone."`."""

    help = "Revoke an API key: the next request that brings it is refused."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("key", help=NAMED)
        parser.add_argument("--reason", default="", help="for the audit log")
        add_by(parser)

    def handle(self, *args: Any, key: str, reason: str, by: str, **options: Any) -> None:
        found = find_key(key)
        revoke_api_key(found, by=by, reason=reason)
        self.stdout.write(f"Key {found.prefix}… of {found.principal} at {found.tenant.identifier} is revoked.")
