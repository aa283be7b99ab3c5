"""How much a tenant may ask at once: requests per minute, and runs that have not ended.

The rate is a bucket that holds a minute's requests and refills evenly (GCRA). Of it one moment is kept, `full_at`, at which it
will be full again: a request puts that off by its share of a minute, and is refused where that would be more than a minute
ahead. One statement with the database's clock decides, so it is exact however many processes ask. No limit costs nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from django.db import connection

from executions.errors import TooManyRuns
from executions.locks import lock_number
from executions.models import Run, Tenant

WINDOW = 60  # seconds
SECOND = 1_000_000  # all times below are in microseconds, as in PostgreSQL
RUNS_RETRY_AFTER = 5  # seconds; nobody knows when a run ends

TAKE = """
    INSERT INTO executions_ratestate AS state (tenant_id, full_at)
    VALUES (%(tenant)s, clock_timestamp() + %(share)s * interval '1 microsecond')
    ON CONFLICT (tenant_id) DO UPDATE
    SET full_at = GREATEST(state.full_at, clock_timestamp()) + %(share)s * interval '1 microsecond'
    WHERE state.full_at + %(share)s * interval '1 microsecond' <= clock_timestamp() + %(whole)s * interval '1 microsecond'
    RETURNING (extract(epoch FROM state.full_at - clock_timestamp()) * 1000000)::bigint
"""
LOOK = """
    SELECT (extract(epoch FROM full_at - clock_timestamp()) * 1000000)::bigint
    FROM executions_ratestate WHERE tenant_id = %s
"""


@dataclass(frozen=True, kw_only=True)
class Quota:
    """What a limit leaves: `limit` in all, `left` now; that much comes back in `seconds`, with nothing left a first one."""

    limit: int
    left: int
    seconds: int = 0
    is_exceeded: bool = False


def take_request(tenant: Tenant) -> Quota | None:
    """Count a request against the tenant's rate, or refuse it (`is_exceeded`), which counts nothing; None: unlimited.

    Best outside a transaction: requests of the tenant wait for each other until its end.
    """
    limit = tenant.rate_limit
    if limit is None:
        return None
    share = round(WINDOW * SECOND / limit)
    whole = share * limit
    with connection.cursor() as cursor:
        cursor.execute(TAKE, {"tenant": tenant.pk, "share": share, "whole": whole})
        taken = cursor.fetchone()
        if taken is None:
            cursor.execute(LOOK, [tenant.pk])
        (until_full,) = taken or cursor.fetchone() or (whole,)
    left = min(limit, max(0, (whole - until_full) // share)) if taken else 0
    until_next = until_full - (whole - share)
    seconds = math.ceil((share * left if left else until_next) / SECOND)
    return Quota(limit=limit, left=left, seconds=max(1, seconds), is_exceeded=taken is None)


def runs_left(tenant: Tenant) -> Quota | None:
    """How many more runs the tenant may have that have not ended; None: any number."""
    limit = tenant.concurrency_limit
    if limit is None:
        return None
    running = Run.objects.not_ended().filter(tenant=tenant).count()
    return Quota(limit=limit, left=max(0, limit - running), is_exceeded=running >= limit)


def check_concurrency(tenant: Tenant) -> None:
    """Refuse one run more than the tenant may have; raises TooManyRuns.

    Needs the caller's transaction, which adds the run: the tenant's next submission counts when that has ended.
    """
    if tenant.concurrency_limit is None:
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [lock_number("concurrency", str(tenant.pk))])
    quota = runs_left(tenant)
    if quota and quota.is_exceeded:
        raise TooManyRuns(
            f"{quota.limit} runs have not ended, which is the most this tenant may have; wait until one ends, or cancel one.",
            retry_after=RUNS_RETRY_AFTER,
            limit=quota.limit,
        )
