"""Our own key pair, which signs capability tokens: the private key in a file of its own, the public one in a key set.

Where a key is replaced, its public half stays in the set until the last token it has signed has ended: `exp` in its entry.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from secrets import token_hex
from typing import Any

from django.conf import settings
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from executions.capabilities import ALGORITHM, LONGEST_LIFETIME
from executions.key_sets import is_signing_key, public_key

OVERLAP = 2 * LONGEST_LIFETIME  # seconds: the last token's life, and as long again for what is late

JWK = dict[str, Any]


class UnusableKey(Exception):
    """A file of keys cannot be used; the text names it and says what to do."""


def key_set_file() -> Path:
    """Where our public keys are."""
    return Path(settings.CAPTOKENS_JWKS_FILE or settings.DATA_DIR / "captokens.jwks.json")


def private_key(path: Path) -> OKPKey:
    """The signing key in the file. Raises UnusableKey."""
    if not path.exists():
        raise UnusableKey(f"{path} is not there: run `manage.py create_signing_key` first or name a file with --key.")
    try:
        key = OKPKey.import_key(json.loads(path.read_text()))
    except (JoseError, ValueError, TypeError, KeyError, OSError):
        raise UnusableKey(f"{path} is not an Ed25519 JWK.") from None
    if not key.is_private or key.curve_name != ALGORITHM:
        raise UnusableKey(f"{path} is not a private Ed25519 JWK.")
    return key


def published(path: Path) -> list[JWK]:
    """The keys of a set that count now, as anybody may see them; none where there is no file. Raises UnusableKey."""
    return [_shown(entry) for entry in entries(path) if is_signing_key(entry) and not _is_over(entry)]


def _shown(entry: JWK) -> JWK:
    try:
        key = public_key(entry)
    except (JoseError, ValueError, TypeError, KeyError):
        raise UnusableKey("An entry of the key set is no key.") from None
    return {**key.as_dict(private=False), "kid": key.kid or key.thumbprint(), "use": "sig", "alg": ALGORITHM}


def entries(path: Path) -> list[JWK]:
    """Everything in a key set; nothing where there is no file. Raises UnusableKey."""
    if not path.exists():
        return []
    try:
        found = json.loads(path.read_text())["keys"]
    except (ValueError, KeyError, TypeError, OSError):
        found = None
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise UnusableKey(f'{path} is not a key set: {{"keys": [...]}} is needed.')
    return found


def make(*, private: Path, jwks: Path) -> OKPKey:
    """A first key pair; returns the key. Raises UnusableKey where there is one, or the set is none."""
    if private.exists():
        raise UnusableKey(f"{private} exists. `manage.py rotate_signing_key` replaces it.")
    return _put_in_place(entries(jwks), private=private, jwks=jwks)


def rotate(*, private: Path, jwks: Path, at_once: bool = False) -> OKPKey:
    """A new key pair in the place of the old one; returns the new key. Raises UnusableKey.

    The old public key stays for OVERLAP seconds, or with `at_once` not at all: then whatever it has signed is refused.
    """
    old = private_key(private).thumbprint()
    kept = [_ended(entry) if _thumbprint(entry) == old else entry for entry in entries(jwks) if not _is_over(entry)]
    if at_once:
        kept = [entry for entry in kept if _thumbprint(entry) != old]
    return _put_in_place(kept, private=private, jwks=jwks)


def _put_in_place(kept: list[JWK], *, private: Path, jwks: Path) -> OKPKey:
    key = OKPKey.generate_key("Ed25519", auto_kid=True)
    public = key.as_dict(private=False) | {"use": "sig", "alg": ALGORITHM}
    _write(jwks, {"keys": [*kept, public]}, mode=0o644)  # first: nobody may sign with a key nobody knows
    _write(private, key.as_dict(private=True), mode=0o600)
    return key


def _ended(entry: JWK) -> JWK:
    return {**entry, "exp": min(int(time.time()) + OVERLAP, entry.get("exp", float("inf")))}


def _is_over(entry: JWK) -> bool:
    exp = entry.get("exp")
    return isinstance(exp, int | float) and exp <= time.time()


def _thumbprint(entry: JWK) -> str | None:
    try:
        return OKPKey.import_key({name: entry[name] for name in ("kty", "crv", "x")}).thumbprint()
    except (JoseError, KeyError, ValueError, TypeError):
        return None


def _write(path: Path, content: JWK, *, mode: int) -> None:
    """Put the JSON in place at once, so that no reader sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        json.dump(content, file, indent=2)
    draft.replace(path)
