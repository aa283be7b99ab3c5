"""Sign capability tokens with a new key from now on."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from executions import captoken_keys
from executions.management.commands.create_signing_key import add_file_arguments


class Command(BaseCommand):
    """Publishes the new public key, then replaces the private one; the old public key stays until its tokens have ended."""

    help = f"Replace the key of create_signing_key. Its tokens stay good, for {captoken_keys.OVERLAP} seconds at most."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_file_arguments(parser)
        parser.add_argument("--at-once", action="store_true", help="refuse all tokens of the old key from now on")

    def handle(self, *, private: Path, jwks: Path, at_once: bool, **_: Any) -> None:
        try:
            key = captoken_keys.rotate(private=private, jwks=jwks, at_once=at_once)
        except captoken_keys.UnusableKey as error:
            raise CommandError(str(error)) from None
        old = "is refused from now on" if at_once else f"counts for {captoken_keys.OVERLAP} s more"
        self.stdout.write(f"private key {private}\npublic key  {jwks} (kid {key.kid}); the old one {old}")
