"""Make a key pair that signs capability tokens: for development and trials, and for a CapTokens service of your own."""

from __future__ import annotations

import json
import os
from argparse import ArgumentParser
from pathlib import Path
from secrets import token_hex
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from joserfc.jwk import OKPKey

from executions.capabilities import ALGORITHM


class Command(BaseCommand):
    """Writes the private key to a file of its owner's and adds the public key to the key set."""

    help = (
        "Make an Ed25519 key for capability tokens: the private one in a file of its own, the public one in the JWKS."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--private", type=Path, default=private_key_file(), help="default: %(default)s")
        parser.add_argument("--jwks", type=Path, default=key_set_file(), help="default: %(default)s")
        parser.add_argument("--rotate", action="store_true", help="replace the private key; old tokens stay valid")

    def handle(self, *, private: Path, jwks: Path, rotate: bool, **_: Any) -> None:
        if private.exists() and not rotate:
            raise CommandError(f"{private} exists. Add --rotate to sign with a new key from now on.")
        key = OKPKey.generate_key("Ed25519", auto_kid=True)
        public = key.as_dict(private=False) | {"use": "sig", "alg": ALGORITHM}
        write(jwks, {"keys": [*keys_of(jwks), public]}, mode=0o644)  # first: nobody may sign with a key nobody knows
        write(private, key.as_dict(private=True), mode=0o600)
        self.stdout.write(f"private key {private}\npublic key  {jwks} (kid {key.kid})")
        if settings.CAPTOKENS_JWKS_FILE is None:
            self.stdout.write(
                f"To check tokens with it, add this line to .env and start anew: CAPTOKENS_JWKS_FILE='{jwks}'"
            )


def private_key_file() -> Path:
    """Where the private key is unless told otherwise."""
    return settings.DATA_DIR / "secrets" / "captokens_private.jwk"


def key_set_file() -> Path:
    """Where the public keys are unless told otherwise."""
    return Path(settings.CAPTOKENS_JWKS_FILE or settings.DATA_DIR / "captokens.jwks.json")


def keys_of(jwks: Path) -> list[dict[str, Any]]:
    """The keys already in the file, none where there is no file; CommandError when it is something else."""
    if not jwks.exists():
        return []
    try:
        return list(json.loads(jwks.read_text())["keys"])
    except (ValueError, KeyError, TypeError):
        raise CommandError(f'{jwks} is not a key set: {{"keys": [...]}} is needed.') from None


def write(path: Path, content: dict[str, Any], *, mode: int) -> None:
    """Put the JSON in place at once, so that no reader sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        json.dump(content, file, indent=2)
    draft.replace(path)
