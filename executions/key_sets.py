"""The public Ed25519 keys that sign capability tokens: a JWK Set (RFC 7517) in a file, at a URL, or both.

    key_of(kid)   the key, or None; the file is looked at first

A file is read again when it has changed, and for a kid it does not have. A URL is asked again after FRESH seconds, and for a
kid it did not have, but never twice within PAUSE seconds: whoever sends forged kids makes no more than that of it. While it
does not answer, the keys it gave last are good for KEPT seconds; after that nothing is.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from django.conf import settings
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from executions.bounded_http import ExchangeFailed, Session
from executions.capabilities import ALGORITHM, CapabilityDenied
from executions.errors import Unavailable

FRESH = 300.0  # seconds
PAUSE = 30.0
KEPT = 3600.0
CONNECT_TIMEOUT = 3.0
WHOLE_CALL = 5.0
LARGEST = 262_144  # bytes
UNUSABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, JoseError, RecursionError)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SetKey:
    """A key of a set, and until when it counts: `exp`, seconds since 1970, which a key that was replaced has."""

    key: OKPKey
    ends: float | None

    @property
    def is_over(self) -> bool:
        """Whether its time is over."""
        return self.ends is not None and time.time() >= self.ends


Keys = Mapping[str, SetKey]


def key_of(kid: str) -> OKPKey | None:
    """The key of this id, as CAPTOKENS_JWKS_FILE or CAPTOKENS_JWKS_URL has it.

    Raises CapabilityDenied (no_key_set) where neither is set or the file cannot be used, Unavailable where the URL has given
    no keys. May talk HTTP: call it outside of any transaction.
    """
    if not is_configured():
        raise CapabilityDenied("no_key_set", "No keys to check a token with: set CAPTOKENS_JWKS_FILE.")
    found = _file(Path(settings.CAPTOKENS_JWKS_FILE)).key(kid) if settings.CAPTOKENS_JWKS_FILE else None
    if found is None and settings.CAPTOKENS_JWKS_URL:
        found = _url(settings.CAPTOKENS_JWKS_URL).key(kid)
    return None if found is None or found.is_over else found.key


def is_configured() -> bool:
    """Whether there is a set to look into."""
    return bool(settings.CAPTOKENS_JWKS_FILE or settings.CAPTOKENS_JWKS_URL)


def keys_in(text: bytes) -> dict[str, SetKey]:
    """The Ed25519 keys for signatures in the JSON of a set, by kid. Raises one of UNUSABLE."""
    found = [(public_key(entry), entry.get("exp")) for entry in json.loads(text)["keys"] if is_signing_key(entry)]
    return {key.kid or key.thumbprint(): SetKey(key, None if ends is None else float(ends)) for key, ends in found}


def is_signing_key(entry: Mapping[str, Any]) -> bool:
    """Whether a JWK is an Ed25519 key for signatures."""
    return entry.get("kty") == "OKP" and entry.get("crv") == ALGORITHM and entry.get("use", "sig") == "sig"


def public_key(entry: Mapping[str, Any]) -> OKPKey:
    """The public half of a JWK, whatever else it says."""
    return OKPKey.import_key({name: entry[name] for name in ("kty", "crv", "x", "kid") if name in entry})


class KeySetFile:
    """The keys of a file; read again when it has changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read_at: int | None = None
        self._keys: Keys = {}

    def key(self, kid: str) -> SetKey | None:
        """The key, or None; a kid that is not there makes it look into the file once more."""
        try:
            if self.path.stat().st_mtime_ns != self._read_at or kid not in self._keys:
                self._read()
        except UNUSABLE as error:
            self._read_at, self._keys = None, {}
            raise CapabilityDenied("no_key_set", f"CAPTOKENS_JWKS_FILE {self.path} cannot be used: {error}.") from error
        return self._keys.get(kid)

    def _read(self) -> None:
        read_at = self.path.stat().st_mtime_ns  # before reading: a change in between is then seen next time
        self._keys = keys_in(self.path.read_bytes())
        self._read_at = read_at


class KeySetUrl:
    """The keys at a URL; one thread asks for them at a time. Times in seconds, as above."""

    def __init__(self, url: str, *, fresh: float = FRESH, pause: float = PAUSE, kept: float = KEPT) -> None:
        self.url = url
        self._fresh, self._pause, self._kept = fresh, pause, kept
        self._keys: Keys = {}
        self._fetched_at = self._asked_at = float("-inf")
        self._turn = threading.Lock()

    def key(self, kid: str) -> SetKey | None:
        """The key, or None. Raises Unavailable while there are no keys, or only ones that are too old."""
        if kid not in self._keys or self._age > self._fresh:
            with self._turn:
                self._ask_again(kid)
        if self._age > self._kept:
            wait = math.ceil(self._pause)
            raise Unavailable(
                f"The keys of capability tokens cannot be fetched; try again in {wait} s.", retry_after=wait
            )
        return self._keys.get(kid)

    @property
    def _age(self) -> float:
        return time.monotonic() - self._fetched_at

    def _ask_again(self, kid: str) -> None:
        """Ask, unless another thread has just done so."""
        if time.monotonic() - self._asked_at < self._pause or (kid in self._keys and self._age <= self._fresh):
            return
        self._asked_at = time.monotonic()
        try:
            self._keys = keys_in(self._fetched())
        except (*UNUSABLE, ExchangeFailed) as error:
            log.warning("The key set at %s cannot be used: %s: %s.", self.url, type(error).__name__, str(error)[:200])
        else:
            self._fetched_at = time.monotonic()

    def _fetched(self) -> bytes:
        deadline = time.monotonic() + WHOLE_CALL
        session = Session(pool_size=1)
        with session, session.exchange("GET", self.url, deadline=deadline, connect_timeout=CONNECT_TIMEOUT) as answer:
            if answer.status != 200:
                raise ValueError(f"HTTP {answer.status}")
            return answer.body(at_most=LARGEST)


_file = lru_cache(maxsize=4)(KeySetFile)
_url = lru_cache(maxsize=4)(KeySetUrl)
