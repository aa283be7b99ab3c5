"""Advisory locks of PostgreSQL, which stand for things that are no rows."""

from __future__ import annotations

import hashlib
import json


def lock_number(*words: str) -> int:
    """The number of the thing these words name, for pg_advisory_lock: 64 bits, signed; two meet by chance once in 2^64."""
    name = json.dumps(words).encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big", signed=True)
