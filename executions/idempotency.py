"""Answer a repeated request with the first answer instead of doing it again.

By draft-ietf-httpapi-idempotency-key-header; docs/reference/idempotency.md has every case. One durable transaction:

1. Look: is there an answer under this key? Then that is it.
2. Take two advisory locks: the *request* (key and fingerprint), then the *key*. They end with the transaction, so that a crash
   leaves nothing behind, and others see them before anything is committed: whoever holds the key is in flight, with the request
   it holds too. That is the same one or another.
3. Do the work and store the answer.
"""

from __future__ import annotations

import hashlib
import json
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

from executions import audit
from executions.canonical_json import NotCanonical, canonical_json, digest, flaws
from executions.errors import IdempotencyKeyReused, InvalidRequest, NotFound, RequestInProgress
from executions.locks import lock_number
from executions.models import IdempotencyRecord, KeyOrigin, Tenant
from executions.plan_parts import escaped
from executions.waiting import place

LONGEST_KEY = 255
KEY = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\]){1,255})"|([!#-+\--~]{1,255})')
KEY_PATTERN = r'^("([ !#-\[\]-~]|\\["\\]){1,255}"|[!#-+\--~]{1,255})$'  # the same, in the words of JSON Schema
LONGEST_REASON = 500
CREDENTIALS = frozenset({"capability_token"})  # say who may, not what is asked: a repeat may bring a fresh one
VOLATILE = CREDENTIALS | {"correlation_id", "timestamp", "request_id", "deduplicate"}
CONTENT_PREFIX = "sha256:"
RELEASES_KEPT = timedelta(days=90)
RELEASES_SHOWN = 20
LOCK_TIMEOUT = "5s"  # for the rows the work locks: a request never hangs on a frozen one
MOST_FLAWS = 100  # told of a body that has no canonical form
RETRY_AFTER = 1  # seconds
CLEANUP_DELAY = 60.0  # seconds

HOLDER = """
    holder AS (
        SELECT pid, classid::bigint << 32 | objid::bigint AS lock FROM pg_locks
        WHERE locktype = 'advisory' AND objsubid = 1 AND granted
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    )
"""
LIVE = """
    SELECT fingerprint, response_status, response_body, response_headers, expires_at
    FROM executions_idempotencyrecord
    WHERE tenant_id = %(tenant)s AND principal = %(principal)s AND key = %(key)s
      AND released_at IS NULL AND expires_at > now()
"""
TURN = f"""
    WITH stored AS MATERIALIZED ({LIVE}), {HOLDER}
    SELECT set_config('lock_timeout', %(lock_timeout)s, true), CASE
        WHEN EXISTS (SELECT FROM stored) THEN 'answered'
        WHEN pg_try_advisory_xact_lock(%(request_lock)s) THEN
            CASE WHEN pg_try_advisory_xact_lock(%(key_lock)s) THEN 'ours' ELSE 'other in flight' END
        WHEN EXISTS (
            SELECT FROM holder WHERE lock = %(key_lock)s
              AND pid NOT IN (SELECT pid FROM holder WHERE lock = %(request_lock)s)
        ) THEN 'other in flight'
        ELSE 'same in flight'
    END, stored.* FROM (SELECT) AS one LEFT JOIN stored ON true
"""  # noqa: S608  made of constants
STORE = """
    INSERT INTO executions_idempotencyrecord
        (tenant_id, principal, key, origin, route, fingerprint, response_status, response_headers, response_body,
         created_at, expires_at, released_by, release_reason)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, now(), now() + %s, '', '')
    ON CONFLICT (tenant_id, principal, key) WHERE released_at IS NULL DO UPDATE SET
        origin = EXCLUDED.origin, route = EXCLUDED.route, fingerprint = EXCLUDED.fingerprint,
        response_status = EXCLUDED.response_status, response_headers = EXCLUDED.response_headers,
        response_body = EXCLUDED.response_body, created_at = now(), expires_at = EXCLUDED.expires_at
    WHERE executions_idempotencyrecord.expires_at <= now()
    RETURNING expires_at
"""
IN_FLIGHT = f"WITH {HOLDER} SELECT EXISTS (SELECT FROM holder WHERE lock = %s AND pid <> pg_backend_pid())"  # noqa: S608
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
        content = self.key if self.origin == KeyOrigin.CONTENT else without(self.body, CREDENTIALS)
        asked = [self.route, str(self.tenant.pk), self.principal, content]
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
            f"Idempotency-Key: send one, of 1 to {LONGEST_KEY} printable ASCII characters, best in quotes: "
            '"8e03978e". Only in quotes may it hold spaces and commas, and quotes and backslashes behind a backslash.'
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
            _bound_waits(LOCK_TIMEOUT)
            return work()
    ends_at = time.monotonic() + wait
    while (answer := _attempt(request, work)) is None:  # the same request is in flight
        with place(seconds=ends_at - time.monotonic()) as seconds:
            _await_other(request, seconds=seconds)
    return answer


def answered(request: Request) -> Answer | None:
    """The stored answer of this request, for a caller whose work has something to fetch first; None where there is none.

    Raises IdempotencyKeyReused where it is the answer to another one.
    """
    if request.key is None:
        return None
    with connection.cursor() as cursor:
        cursor.execute(LIVE, _whose(request))
        stored = cursor.fetchone()
    return _replayed(request, *stored) if stored else None


def look(*, tenant: Tenant, principal: str, key: str) -> IdempotencyRecord | None:
    """The record of a key: the live one, else the one released or expired last; None where there is none."""
    records = IdempotencyRecord.objects.filter(tenant=tenant, principal=principal, key=key)
    live = records.live().first()
    return live or records.order_by("-created_at", "-id").first()


def releases(*, tenant: Tenant, principal: str, key: str) -> list[IdempotencyRecord]:
    """When this key was released, the last time first, RELEASES_SHOWN times at most."""
    records = IdempotencyRecord.objects.filter(tenant=tenant, principal=principal, key=key, released_at__isnull=False)
    return list(records.order_by("-released_at", "-id")[:RELEASES_SHOWN])


def state_of(record: IdempotencyRecord) -> str:
    """Whether a record still answers repeats."""
    if record.released_at is not None:
        return "released"
    return "completed" if record.expires_at > timezone.now() else "expired"


def is_in_flight(*, tenant: Tenant, principal: str, key: str) -> bool:
    """Whether somebody else works on a request under this key just now; looks only, takes no lock."""
    with connection.cursor() as cursor:
        cursor.execute(IN_FLIGHT, [_key_lock(tenant, principal, key)])
        (found,) = cursor.fetchone()
    return bool(found)


def release(*, tenant: Tenant, principal: str, key: str, by: str, reason: str) -> IdempotencyRecord:
    """Forget the answer of a key, so that its next use is a first one; who, when and why stay on the record for 90 days.

    Needs the caller's transaction. Raises NotFound where nothing is stored, RequestInProgress while it is worked on.
    """
    live = IdempotencyRecord.objects.live().select_for_update()
    record = live.filter(tenant=tenant, principal=principal, key=key).first()
    if record is None:
        if is_in_flight(tenant=tenant, principal=principal, key=key):
            raise RequestInProgress(retry_after=RETRY_AFTER)
        raise NotFound(f"No answer of {principal} is stored under the key {write_key(key)}.")
    record.released_at = timezone.now()
    record.released_by, record.release_reason = by, reason
    record.response_body, record.expires_at = b"", record.released_at + RELEASES_KEPT
    record.save(update_fields=["released_at", "released_by", "release_reason", "response_body", "expires_at"])
    audit.record(
        action="idempotency_key.released", subject=f"idempotency_key/{record.pk}", by=by, tenant_id=tenant.pk, reason=reason,
        before={"key": key, "principal": principal, "route": record.route, "response_status": record.response_status},
    )  # fmt: skip
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
            turn, stored = _turn(request)
            if turn == "ours":
                return _store(request, work())
    except _AnsweredMeanwhile:
        return _attempt(request, work)
    if turn == "answered":
        return _replayed(request, *stored)
    if turn == "other in flight":
        raise IdempotencyKeyReused()
    return None


def _turn(request: Request) -> tuple[str, list[Any]]:
    """Whose turn it is, and the stored answer if that is known; takes the locks if they are free."""
    values = _whose(request) | {
        "lock_timeout": LOCK_TIMEOUT,
        "request_lock": _request_lock(request),
        "key_lock": _key_lock(request.tenant, request.principal, str(request.key)),
    }
    with connection.cursor() as cursor:
        cursor.execute(TURN, values)
        _, turn, *stored = cursor.fetchone()
    return turn, stored


def _store(request: Request, answer: Answer) -> Answer:
    values: list[Any] = [
        request.tenant.pk, request.principal, request.key, request.origin, request.route, request.fingerprint,
        answer.status, Jsonb(answer.headers), answer.body, request.lifetime,
    ]  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(STORE, values)
        stored = cursor.fetchone()
    if stored is None:
        raise _AnsweredMeanwhile
    return replace(answer, expires_at=stored[0])


def _replayed(
    request: Request, fingerprint: str, status: int, body: bytes, headers: str, expires_at: datetime
) -> Answer:
    """The answer in this row of LIVE. Raises IdempotencyKeyReused where it was given to another request."""
    if fingerprint != request.fingerprint:
        raise IdempotencyKeyReused()
    return Answer(status, bytes(body), json.loads(headers), replayed=True, expires_at=expires_at)


def _await_other(request: Request, *, seconds: float) -> None:
    """Wait until the same request in flight has ended. Raises RequestInProgress when it has not after these seconds."""
    if seconds <= 0:
        raise _in_progress(request)
    try:
        with transaction.atomic(durable=True), connection.cursor() as cursor:
            _bound_waits(f"{max(1, int(seconds * 1000))}ms")
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_request_lock(request)])
    except OperationalError as error:
        if isinstance(error.__cause__, LockNotAvailable):
            raise _in_progress(request) from None
        raise


def _in_progress(request: Request) -> RequestInProgress:
    sentence = "The same request, sent without a key, is being worked on; send it again in a moment."
    return RequestInProgress(sentence if request.origin == KeyOrigin.CONTENT else "", retry_after=RETRY_AFTER)


def _bound_waits(limit: str) -> None:
    """Let no statement of this transaction wait longer than this for a lock."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", [limit])


def _whose(request: Request) -> dict[str, Any]:
    return {"tenant": request.tenant.pk, "principal": request.principal, "key": request.key}


def _key_lock(tenant: Tenant, principal: str, key: str) -> int:
    return lock_number("idempotency", str(tenant.pk), principal, key)


def _request_lock(request: Request) -> int:
    return lock_number("idempotency", str(request.tenant.pk), request.principal, str(request.key), request.fingerprint)
