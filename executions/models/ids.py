"""Identifiers that sort by the time they were made."""

import os
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def uuid7() -> UUID:
    """A UUID version 7 (RFC 9562, section 5.7): 48 bits of Unix milliseconds, then random bits."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return UUID(int=value)


def first_uuid7(moment: datetime) -> UUID:
    """The smallest UUID that `uuid7` can give at this moment (with a time zone), for a range of keys by time."""
    return UUID(int=max(0, (moment - EPOCH) // timedelta(milliseconds=1)) << 80)
