"""Answer a repeated request with the first answer instead of doing it again.

Claim, work and stored answer are one durable transaction: a crash leaves no key behind, and a concurrent repeat waits at the
unique index until the first one has committed. By draft-ietf-httpapi-idempotency-key-header.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import OperationalError, connection, transaction
from django.utils import timezone
from psycopg.errors import LockNotAvailable

from executions.canonical_json import NotCanonical, canonical_json
from executions.errors import IdempotencyKeyReused, InvalidRequest, RequestInProgress
from executions.models import IdempotencyRecord, Tenant

KEY = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"|([\x21\x23-\x7e]+)')
LONGEST_KEY = 255
LOCK_TIMEOUT = "5s"
CLAIM = """
    INSERT INTO executions_idempotencyrecord
        (tenant_id, principal, route, key, fingerprint, response_headers, response_body, created_at, expires_at)
    VALUES (%s, %s, %s, %s, %s, '{}', '', now(), %s)
    ON CONFLICT (tenant_id, principal, route, key) DO UPDATE
    SET fingerprint = EXCLUDED.fingerprint, response_status = NULL, created_at = now(), expires_at = EXCLUDED.expires_at
    WHERE executions_idempotencyrecord.expires_at <= now()
    RETURNING id
"""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer as it goes out: status, the headers that belong to it, the body's bytes."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    replayed: bool = False


def read_key(header: str | None) -> str | None:
    """Return the key of an `Idempotency-Key` header: a quoted structured-field string (RFC 8941), or bare.

    Raises InvalidRequest for a malformed, empty or too long one.
    """
    if header is None:
        return None
    match = KEY.fullmatch(header.strip())
    key = re.sub(r"\\(.)", r"\1", match[1]) if match and match[1] is not None else match[2] if match else ""
    if not key or len(key) > LONGEST_KEY:
        raise InvalidRequest(
            f'Idempotency-Key: send 1 to {LONGEST_KEY} printable ASCII characters, best in quotes: "8e03978e".'
        )
    return key


def fingerprint(*, route: str, body: Any) -> str:
    """Return the SHA-256 of route and body in canonical JSON (RFC 8785). Raises InvalidRequest for numbers it cannot hold."""
    try:
        return hashlib.sha256(route.encode() + b"\n" + canonical_json(body)).hexdigest()
    except NotCanonical as error:
        raise InvalidRequest(f"The body cannot be written as canonical JSON: {error}.") from None


def once(
    *, tenant: Tenant, principal: str, route: str, key: str | None, body: Any, work: Callable[[], Answer]
) -> Answer:
    """Do `work` in one durable transaction, or give the answer it gave under this key before.

    Raises IdempotencyKeyReused for another body under the key and RequestInProgress when the first request is still at work
    after 5 seconds. What `work` raises is not stored: the key stays free.
    """
    if key is None:
        with transaction.atomic(durable=True):
            return work()
    mark = fingerprint(route=route, body=body)
    try:
        with transaction.atomic(durable=True):
            if record_id := _claim(tenant=tenant, principal=principal, route=route, key=key, mark=mark):
                return _store(record_id, work())
            known = IdempotencyRecord.objects.get(tenant=tenant, principal=principal, route=route, key=key)
    except OperationalError as error:
        if isinstance(error.__cause__, LockNotAvailable):
            raise RequestInProgress(retry_after=1) from None
        raise
    if known.fingerprint != mark:
        raise IdempotencyKeyReused()
    return Answer(int(known.response_status or 0), bytes(known.response_body), known.response_headers, replayed=True)


def delete_expired(*, batch: int = 1000) -> int:
    """Delete records past their time, some at a time so that no lock is held long; returns how many."""
    deleted = 0
    while ids := list(IdempotencyRecord.objects.filter(expires_at__lte=timezone.now()).values_list("pk")[:batch]):
        deleted += IdempotencyRecord.objects.filter(pk__in=[pk for (pk,) in ids]).delete()[0]
    return deleted


def _claim(*, tenant: Tenant, principal: str, route: str, key: str, mark: str) -> int | None:
    expires_at = timezone.now() + timedelta(seconds=settings.IDEMPOTENCY_TTL)
    with connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        cursor.execute(CLAIM, [tenant.pk, principal, route, key, mark, expires_at])
        row = cursor.fetchone()
    return row[0] if row else None


def _store(record_id: int, answer: Answer) -> Answer:
    IdempotencyRecord.objects.filter(pk=record_id).update(
        response_status=answer.status, response_headers=answer.headers, response_body=answer.body
    )
    return answer
