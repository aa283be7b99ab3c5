"""Answer a repeated request with the first answer instead of doing it again.

By draft-ietf-httpapi-idempotency-key-header; docs/reference/idempotency.md has every case. One durable transaction:

1. Look: is there an answer under this key?
2. Take two advisory locks: the *request* (key and fingerprint), then the *key*. They end with the transaction, so that a crash
   leaves nothing behind, and others see them before anything is committed: who cannot have the first meets the same request in
   flight; who has the first and cannot have the second meets another request in flight under the same key.
3. Do the work and store the answer.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from itertools import islice
from typing import Any

from django.conf import settings
from django.db import OperationalError, connection, transaction
from django.db.models import Min
from django.db.models.functions import Now
from django.utils import timezone
from psycopg.errors import LockNotAvailable
from psycopg.types.json import Jsonb

from executions.canonical_json import NotCanonical, canonical_json, digest, flaws
from executions.errors import IdempotencyKeyReused, InvalidRequest, NotFound, RequestInProgress
from executions.models import IdempotencyRecord, KeyOrigin, Tenant
from executions.plan_parts import escaped
from executions.waiting import place

LONGEST_KEY = 255
KEY = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\]){1,255})"|([!#-~]{1,255})')
KEY_PATTERN = r'^("([ !#-\[\]-~]|\\["\\]){1,255}"|[!#-~]{1,255})$'  # the same, in the words of JSON Schema
LONGEST_REASON = 500
CREDENTIALS = frozenset({"capability_token"})  # say who may, not what is asked: a repeat may bring a fresh one
VOLATILE = CREDENTIALS | {"correlation_id", "timestamp", "request_id", "deduplicate"}
CONTENT_PREFIX = "sha256:"
RELEASES_KEPT = timedelta(days=90)
LOCK_TIMEOUT = "5s"  # for the rows the work locks: a request never hangs on a frozen one
MOST_FLAWS = 100  # told of a body that has no canonical form
RETRY_AFTER = 1  # seconds
CLEANUP_DELAY = 60.0  # seconds

TURN = """
    SELECT set_config('lock_timeout', %(lock_timeout)s, true), CASE
        WHEN EXISTS (
            SELECT FROM executions_idempotencyrecord
            WHERE tenant_id = %(tenant)s AND principal = %(principal)s AND key = %(key)s
              AND released_at IS NULL AND expires_at > now()
        ) THEN 'answered'
        WHEN NOT pg_try_advisory_xact_lock(%(request_lock)s) THEN 'same in flight'
        WHEN NOT pg_try_advisory_xact_lock(%(key_lock)s) THEN 'other in flight'
        ELSE 'ours'
    END
"""
STORE = """
    INSERT INTO executions_idempotencyrecord
        (tenant_id, principal, key, origin, route, fingerprint, response_status, response_headers, response_body,
         created_at, expires_at, released_by, release_reason)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, now(), %s, '', '')
    ON CONFLICT (tenant_id, principal, key) WHERE released_at IS NULL DO UPDATE SET
        origin = EXCLUDED.origin, route = EXCLUDED.route, fingerprint = EXCLUDED.fingerprint,
        response_status = EXCLUDED.response_status, response_headers = EXCLUDED.response_headers,
        response_body = EXCLUDED.response_body, created_at = now(), expires_at = EXCLUDED.expires_at
    WHERE executions_idempotencyrecord.expires_at <= now()
    RETURNING id
"""
IN_FLIGHT = """
    SELECT EXISTS (
        SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND (classid::bigint << 32 | objid::bigint) = %s
    )
"""
DELETE_SOME = """
    DELETE FROM executions_idempotencyrecord WHERE id = ANY(ARRAY(
        SELECT id FROM executions_idempotencyrecord WHERE expires_at <= now()
        ORDER BY expires_at LIMIT %s FOR UPDATE SKIP LOCKED
    ))
"""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer as it goes out: status, the headers that belong to it, the body's bytes; under a key until when."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    replayed: bool = False
    expires_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked, by whom, under which key (None: no key). `route` is method and path; `body` the decoded JSON."""

    tenant: Tenant
    principal: str
    route: str
    body: Any
    key: str | None = None
    origin: KeyOrigin = KeyOrigin.HEADER

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of route, tenant, principal and body in canonical JSON (RFC 8785), credentials left out.

        Raises InvalidRequest for numbers that have no canonical form.
        """
        left_out = VOLATILE if self.origin == KeyOrigin.CONTENT else CREDENTIALS
        asked = [self.route, str(self.tenant.pk), self.principal, without(self.body, left_out)]
        try:
            return digest(asked)
        except NotCanonical as error:
            raise _not_canonical(self.body, error) from None

    @property
    def lifetime(self) -> timedelta:
        """How long the answer is kept."""
        by_content = self.origin == KeyOrigin.CONTENT
        return timedelta(seconds=settings.DEDUPLICATION_TTL if by_content else settings.IDEMPOTENCY_TTL)


def read_key(header: str | None) -> str | None:
    """Return the key of an `Idempotency-Key` header: a quoted structured-field string (RFC 8941), or bare.

    Raises InvalidRequest for a malformed, empty or too long one.
    """
    if header is None:
        return None
    match = KEY.fullmatch(header.strip())
    if match is None:
        raise InvalidRequest(
            f'Idempotency-Key: send 1 to {LONGEST_KEY} printable ASCII characters, best in quotes: "8e03978e".'
        )
    return match[2] or re.sub(r"\\(.)", r"\1", match[1])


def write_key(key: str) -> str:
    """The key as a structured-field string (RFC 8941, section 3.3.3)."""
    return '"' + re.sub(r'(["\\])', r"\\\1", key) + '"'


def content_key(*, route: str, body: Any) -> str:
    """The key of a request that brings none: the SHA-256 of its canonical JSON without what differs between repeats."""
    try:
        content = canonical_json(without(body, VOLATILE))
    except NotCanonical as error:
        raise _not_canonical(body, error) from None
    return CONTENT_PREFIX + hashlib.sha256(route.encode() + b"\n" + content).hexdigest()


def _not_canonical(body: Any, error: NotCanonical) -> InvalidRequest:
    """The refusal of a body that no key can stand for, with the place of everything that is wrong."""
    places = [
        {"pointer": "".join(f"/{escaped(str(part))}" for part in path), "code": code, "detail": detail}
        for path, code, detail in islice(flaws(body), MOST_FLAWS)
    ]
    return InvalidRequest(f"The body cannot be written as canonical JSON: {error}.", errors=places)


def without(body: Any, names: frozenset[str]) -> Any:
    """The body without these members of its top level."""
    return {name: value for name, value in body.items() if name not in names} if isinstance(body, Mapping) else body


def once(request: Request, work: Callable[[], Answer], *, wait: float = 0.0) -> Answer:
    """Do `work` in one durable transaction, or give the answer it gave under this key before.

    `wait`: seconds to wait for the same request in flight. Raises IdempotencyKeyReused for another request under the key, also
    one in flight, and RequestInProgress while the same one is in flight. What `work` raises is not stored: the key stays free.
    """
    if request.key is None:
        with transaction.atomic(durable=True):
            return work()
    ends_at = time.monotonic() + wait
    answer = _attempt(request, work)
    while answer is None:  # the same request is in flight
        with place(seconds=ends_at - time.monotonic()) as seconds:
            _await_other(request, seconds=seconds)
        answer = _attempt(request, work)
    return answer


def look(*, tenant: Tenant, principal: str, key: str) -> IdempotencyRecord | None:
    """The record of a key: the live one, else the one released or expired last; None where there is none."""
    records = IdempotencyRecord.objects.filter(tenant=tenant, principal=principal, key=key)
    live = records.live(timezone.now()).first()
    return live or records.order_by("-created_at", "-id").first()


def state_of(record: IdempotencyRecord) -> str:
    """Whether a record still answers repeats."""
    if record.released_at is not None:
        return "released"
    return "completed" if record.expires_at > timezone.now() else "expired"


def is_in_flight(*, tenant: Tenant, principal: str, key: str) -> bool:
    """Whether a request under this key is being worked on just now; looks only, takes no lock."""
    with connection.cursor() as cursor:
        cursor.execute(IN_FLIGHT, [_lock(tenant, principal, key)])
        (found,) = cursor.fetchone()
    return bool(found)


def release(*, tenant: Tenant, principal: str, key: str, by: str, reason: str) -> IdempotencyRecord:
    """Forget the answer of a key, so that its next use is a first one; who, when and why stay on the record for 90 days.

    Needs the caller's transaction. Raises NotFound where nothing is stored, RequestInProgress while it is worked on.
    """
    live = IdempotencyRecord.objects.live(timezone.now()).select_for_update()
    record = live.filter(tenant=tenant, principal=principal, key=key).first()
    if record is None:
        if is_in_flight(tenant=tenant, principal=principal, key=key):
            raise RequestInProgress(retry_after=RETRY_AFTER)
        raise NotFound(f"No answer of {principal} is stored under the key {write_key(key)}.")
    record.released_at = timezone.now()
    record.released_by, record.release_reason = by, reason
    record.response_body, record.expires_at = b"", record.released_at + RELEASES_KEPT
    record.save(update_fields=["released_at", "released_by", "release_reason", "response_body", "expires_at"])
    return record


def delete_expired(*, batch: int = 1000) -> int:
    """Delete records past their time, a batch a statement so that no lock is held long; returns how many."""
    deleted = 0
    while some := delete_some_expired(batch=batch):
        deleted += some
    return deleted


def delete_some_expired(*, batch: int = 1000) -> int:
    """Delete one batch of records past their time, leaving out what somebody holds; returns how many."""
    with connection.cursor() as cursor:
        cursor.execute(DELETE_SOME, [batch])
        return int(cursor.rowcount)


def cleanup_due_in() -> float | None:
    """Seconds until records are to be deleted: a minute after the first one's time, so that many go together."""
    wait = IdempotencyRecord.objects.aggregate(wait=Min("expires_at") - Now())["wait"]
    return None if wait is None else wait.total_seconds() + CLEANUP_DELAY


class _AnsweredMeanwhile(Exception):
    """Between the look and the locks somebody else has stored an answer: take back the work and look again."""


def _attempt(request: Request, work: Callable[[], Answer]) -> Answer | None:
    """One try: the stored answer, or the work's; None while the same request is in flight."""
    try:
        with transaction.atomic(durable=True):
            turn = _turn(request)
            if turn == "ours":
                return _store(request, work())
    except _AnsweredMeanwhile:
        turn = "answered"
    if turn == "answered":
        return _replay(request)
    if turn == "other in flight":
        raise IdempotencyKeyReused()
    return None


def _turn(request: Request) -> str:
    values: dict[str, Any] = {
        "lock_timeout": LOCK_TIMEOUT,
        "tenant": request.tenant.pk,
        "principal": request.principal,
        "key": request.key,
        "request_lock": _request_lock(request),
        "key_lock": _lock(request.tenant, request.principal, str(request.key)),
    }
    with connection.cursor() as cursor:
        cursor.execute(TURN, values)
        return str(cursor.fetchone()[1])


def _store(request: Request, answer: Answer) -> Answer:
    expires_at = timezone.now() + request.lifetime
    values: list[Any] = [
        request.tenant.pk, request.principal, request.key, request.origin, request.route, request.fingerprint,
        answer.status, Jsonb(answer.headers), answer.body, expires_at,
    ]  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(STORE, values)
        if cursor.fetchone() is None:
            raise _AnsweredMeanwhile
    return replace(answer, expires_at=expires_at)


def _replay(request: Request) -> Answer | None:
    """The stored answer; None where it has expired or been released since the look."""
    live = IdempotencyRecord.objects.live(timezone.now())
    known = live.filter(tenant=request.tenant, principal=request.principal, key=request.key).first()
    if known is None:
        return None
    if known.fingerprint != request.fingerprint:
        raise IdempotencyKeyReused()
    return Answer(
        known.response_status,
        bytes(known.response_body),
        known.response_headers,
        replayed=True,
        expires_at=known.expires_at,
    )


def _await_other(request: Request, *, seconds: float) -> None:
    """Wait until the same request in flight has ended. Raises RequestInProgress when it has not after these seconds."""
    if seconds <= 0:
        raise RequestInProgress(retry_after=RETRY_AFTER)
    try:
        with transaction.atomic(durable=True), connection.cursor() as cursor:
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", [f"{max(1, int(seconds * 1000))}ms"])
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_request_lock(request)])
    except OperationalError as error:
        if isinstance(error.__cause__, LockNotAvailable):
            raise RequestInProgress(retry_after=RETRY_AFTER) from None
        raise


def _request_lock(request: Request) -> int:
    return _lock(request.tenant, request.principal, str(request.key), request.fingerprint)


def _lock(tenant: Tenant, principal: str, *words: str) -> int:
    """A number for pg_advisory_lock: 64 bits, signed; two of them meet by chance once in 2^64."""
    name = "\n".join(("idempotency", str(tenant.pk), principal, *words))
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)
