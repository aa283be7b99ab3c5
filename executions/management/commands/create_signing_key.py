"""Make a key pair that signs capability tokens, for those who have no CapTokens service."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from executions import captoken_keys


class Command(BaseCommand):
    """Writes the private key to a file of its owner's and adds the public key to the key set."""

    help = (
        "Make an Ed25519 key for capability tokens: the private one in a file of its own, the public one in the JWKS."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_file_arguments(parser)

    def handle(self, *, private: Path, jwks: Path, **_: Any) -> None:
        try:
            key = captoken_keys.make(private=private, jwks=jwks)
        except captoken_keys.UnusableKey as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"private key {private}\npublic key  {jwks} (kid {key.kid})")
        if settings.CAPTOKENS_JWKS_FILE is None:
            self.stdout.write(
                f"To check tokens with it, add this line to .env and start anew: CAPTOKENS_JWKS_FILE='{jwks}'"
            )


def add_file_arguments(parser: ArgumentParser) -> None:
    """The options that say where the two keys are."""
    private, jwks = settings.CAPTOKENS_SIGNING_KEY_FILE, captoken_keys.key_set_file()
    parser.add_argument("--private", type=Path, default=private, help="default: %(default)s")
    parser.add_argument("--jwks", type=Path, default=jwks, help="default: %(default)s")
