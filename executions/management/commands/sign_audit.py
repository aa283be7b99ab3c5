"""Seal the audit log now, or show the keys it is checked with."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from executions.actions import audit
from executions.management.tenants import audited, audited_tenants
from executions.signing import UnusableKey, public_jwk


class Command(BaseCommand):
    """`manage.py sign_audit`; `manage.py sign_audit --public-keys > audit.jwks`."""

    help = "Sign a checkpoint of every chain of the audit log that has grown since its last one."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", help="identifier, or `service`; without it, all")
        parser.add_argument("--public-keys", action="store_true", help="sign nothing, print the key set to check with")

    def handle(self, *args: Any, tenant: str | None, public_keys: bool, **options: Any) -> None:
        try:
            if public_keys:
                keys = [public_jwk(key) for key in audit.public_keys().values()]
                self.stdout.write(json.dumps({"keys": keys}, indent=2))
                return
            made = audit.sign_checkpoints(tenant_id=audited(tenant) if tenant else None)
        except UnusableKey as error:
            raise CommandError(f"AUDIT_SIGNING_KEY_FILE: {error}") from None
        names = {pk: name for name, pk in audited_tenants()}
        for one in made:
            self.stdout.write(f"{names.get(one.tenant_id, one.tenant_id)}: sealed up to {one.sequence}.")
        if not made:
            self.stdout.write("Everything is sealed already.")
