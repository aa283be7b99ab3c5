"""The audit log as a whole: seal it by checkpoints, check it, take it out.

Jobs seal it (`sign_due_checkpoints`), commands do all three. The key: AUDIT_SIGNING_KEY_FILE.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import chain
from pathlib import Path
from secrets import token_hex
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from django.conf import settings
from django.db import connection
from django.db.models import Max, Min, QuerySet
from django.utils import timezone

from executions.audit import content_of, written
from executions.audit_chain import Chain
from executions.canonical_json import canonical_json
from executions.models import SERVICE, AuditCheckpoint, AuditEntry, AuditLink, Tenant
from executions.models.ids import first_uuid7
from executions.signing import (
    CHECKPOINT,
    EXPORT,
    PublicKeys,
    by_id,
    key_id,
    opened,
    read_private_key,
    read_public_keys,
    sign,
)

logger = logging.getLogger(__name__)

BATCH = 1000  # links read at once
LOOK_EVERY = 5.0  # seconds; the log is not looked at more often to see whether it has grown
SAME_CLOCK = timedelta(
    minutes=1
)  # an entry's key and its time are made microseconds apart; machines' clocks differ by less

LATE = 3  # intervals; by then what was written has been sealed, unless something keeps it from being

# Whose chains there are is what the links say, whatever has become of the tenants; read by leaps through the index. A checkpoint
# from the future, or of a link there is none of, was not made by the service: it puts nothing off.
UNSEALED = """
    WITH RECURSIVE chain AS (
        (SELECT tenant_id AS id FROM executions_auditlink ORDER BY tenant_id LIMIT 1)
        UNION ALL
        SELECT (SELECT tenant_id FROM executions_auditlink WHERE tenant_id > chain.id ORDER BY tenant_id LIMIT 1)
        FROM chain WHERE chain.id IS NOT NULL
    )
    SELECT chain.id, link.sequence, link.hash,
        CASE WHEN point.signed_at < now() + make_interval(secs => %(skew)s)
            THEN extract(epoch FROM point.signed_at - now()) + %(interval)s ELSE 0 END AS due_in
    FROM chain
    CROSS JOIN LATERAL (
        SELECT sequence, hash FROM executions_auditlink WHERE tenant_id = chain.id ORDER BY sequence DESC LIMIT 1
    ) AS link
    LEFT JOIN LATERAL (
        SELECT sequence, signed_at FROM executions_auditcheckpoint
        WHERE tenant_id = chain.id AND sequence <= link.sequence ORDER BY sequence DESC LIMIT 1
    ) AS point ON true
    WHERE link.sequence > coalesce(point.sequence, 0)
"""
WITHOUT_A_PLACE = """
    SELECT count(*) FROM executions_auditentry AS entry
    WHERE tenant_id = %s AND NOT EXISTS (SELECT FROM executions_auditlink AS link WHERE link.entry_id = entry.id)
"""


# -- keys


def signing_key() -> Ed25519PrivateKey:
    """The key that signs checkpoints and receipts; in development it is made at first use. Raises UnusableKey."""
    path = Path(settings.AUDIT_SIGNING_KEY_FILE)
    if not settings.IS_PRODUCTION and not path.exists():
        _make_key(path)
    return _read_key(path, path.stat().st_mtime_ns if path.exists() else 0)


def public_keys() -> PublicKeys:
    """The keys with which checkpoints and receipts are checked: today's and, from AUDIT_OLD_KEYS_FILE, earlier ones."""
    old = read_public_keys(Path(settings.AUDIT_OLD_KEYS_FILE)) if settings.AUDIT_OLD_KEYS_FILE else {}
    return {**old, **by_id([signing_key().public_key()])}


@lru_cache(maxsize=4)
def _read_key(path: Path, changed_at: int) -> Ed25519PrivateKey:
    return read_private_key(path)


def _make_key(path: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f"{path.name}.{token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
    with suppress(FileExistsError):  # two first starts at once: one of them wins, both read the same
        path.hardlink_to(draft)
    draft.unlink()


# -- checkpoints


def sign_checkpoints(*, tenant_id: UUID | None = None) -> list[AuditCheckpoint]:
    """Seal every chain, or that of one tenant, up to its last link; what is sealed already is left alone."""
    unsealed = _unsealed(interval=0)
    return _sign([one for one in unsealed if tenant_id is None or one[0] == tenant_id])


def sign_due_checkpoints() -> int:
    """Seal the chains that have grown and were not sealed for AUDIT_CHECKPOINT_INTERVAL; returns how many."""
    due = [one for one in _unsealed(interval=settings.AUDIT_CHECKPOINT_INTERVAL) if one[3] <= 0]
    return len(_sign(due))


class CheckpointsDue:
    """Says in how many seconds a chain is to be sealed. Asked twice a second, it looks every LOOK_EVERY seconds."""

    def __init__(self) -> None:
        self._look_at = 0.0

    def __call__(self) -> float | None:
        """Seconds; 0 or less for now."""
        if (rest := self._look_at - time.monotonic()) > 0:
            return rest
        waits = [due_in for *_, due_in in _unsealed(interval=settings.AUDIT_CHECKPOINT_INTERVAL)]
        wait = min([float(one) for one in waits], default=LOOK_EVERY)
        if wait > 0:
            self._look_at = time.monotonic() + min(wait, LOOK_EVERY)
        return wait


checkpoints_due_in = CheckpointsDue()


def _unsealed(*, interval: float) -> list[tuple[UUID, int, str, Any]]:
    """(tenant, last sequence, its hash, seconds until it is due) of every chain with links behind its last checkpoint."""
    with connection.cursor() as cursor:
        cursor.execute(UNSEALED, {"interval": interval, "skew": SAME_CLOCK.total_seconds()})
        return list(cursor.fetchall())


def _sign(unsealed: list[tuple[UUID, int, str, Any]]) -> list[AuditCheckpoint]:
    made = []
    for tenant_id, sequence, last_hash, _ in unsealed:
        key, now = signing_key(), timezone.now()
        statement = {"tenant": str(tenant_id), "sequence": sequence, "hash": last_hash, "at": written(now)}
        checkpoint = AuditCheckpoint(
            tenant_id=tenant_id, sequence=sequence, hash=last_hash, key_id=key_id(key.public_key()),
            envelope=sign(statement, kind=CHECKPOINT, key=key), signed_at=now,
        )  # fmt: skip
        AuditCheckpoint.objects.bulk_create([checkpoint], ignore_conflicts=True)  # somebody else may have sealed it
        logger.info("audit checkpoint %s", canonical_json(checkpoint.envelope).decode())
        made.append(checkpoint)
    return made


# -- check


def logged_tenants() -> set[UUID]:
    """Everybody of whom the log has anything, whether or not there still is such a tenant."""
    tables = (AuditEntry, AuditLink, AuditCheckpoint)
    return {SERVICE}.union(
        *(table.objects.order_by().values_list("tenant_id", flat=True).distinct() for table in tables)
    )


def check_chain(tenant_id: UUID, *, keys: PublicKeys, anchors: list[Any] | None = None) -> Chain:
    """Check what the database has of a tenant's log; `anchors` are envelopes of checkpoints that were kept elsewhere.

    With the service's own log, also whether all is gone of a tenant whom the anchors name: no other one is there to tell.
    """
    found, now = Chain(str(tenant_id), keys), timezone.now()
    checkpoints = list(
        AuditCheckpoint.objects.filter(tenant_id=tenant_id).order_by("sequence")
    )  # first: links only grow
    for link, entry in _linked(AuditLink.objects.filter(tenant_id=tenant_id)):
        content, digest = (content_of(entry), entry.digest) if entry else (None, "")
        found.follow(_link(link), content, digest)
    for checkpoint in checkpoints:
        found.seal(checkpoint.envelope)
        if not _says(checkpoint, keys=keys):
            found.complain("the row of its checkpoint is not what the envelope says", checkpoint.sequence)
    for envelope in anchors or ():
        _check_anchor(found, envelope)
    if tenant_id == SERVICE:
        _miss_tenants(found, anchors or ())
    elif not Tenant.objects.filter(pk=tenant_id).exists():
        found.complain("its tenant is gone: the log has it, the table of tenants has not")
    _miss_a_seal(found, tenant_id, now)
    _count_strays(found, tenant_id)
    return found


def _says(checkpoint: AuditCheckpoint, *, keys: PublicKeys) -> bool:
    try:
        said = opened(checkpoint.envelope, kind=CHECKPOINT, keys=keys)
    except ValueError:
        return True  # which was found already
    row = (checkpoint.sequence, checkpoint.hash, written(checkpoint.signed_at), checkpoint.key_id)
    return row == (said["sequence"], said["hash"], said["at"], checkpoint.envelope["signatures"][0]["keyid"])


def _check_anchor(found: Chain, envelope: Any) -> None:
    """Hold the chain against a checkpoint from elsewhere, if it is one of its tenant's."""
    alone = Chain(found.tenant, found.keys, hashes=found.hashes, last=found.last)
    try:
        is_ours = opened(envelope, kind=CHECKPOINT, keys=found.keys)["tenant"] == found.tenant
    except (ValueError, TypeError, KeyError) as error:
        found.complain(f"a checkpoint kept elsewhere: {error}")
        return
    if is_ours:
        alone.seal(envelope)
        for finding in alone.findings:
            found.complain(finding.sentence, finding.sequence)


def _miss_tenants(found: Chain, anchors: Iterable[Any]) -> None:
    """Complain of tenants whom a checkpoint from elsewhere names, and of whom nothing is left here."""
    named: set[str] = set()
    for envelope in anchors:
        with suppress(ValueError, TypeError, KeyError):  # `_check_anchor` has complained
            named.add(opened(envelope, kind=CHECKPOINT, keys=found.keys)["tenant"])
    left = {str(one) for one in logged_tenants().union(Tenant.objects.values_list("pk", flat=True))}
    for tenant in sorted(named - left):
        found.complain(f"the log of tenant {tenant} is gone, and so is the tenant: a checkpoint kept elsewhere has it")


def _miss_a_seal(found: Chain, tenant_id: UUID, now: datetime) -> None:
    """Complain if the first link behind the last checkpoint should have been sealed long ago."""
    link = AuditLink.objects.filter(tenant_id=tenant_id, sequence=found.checkpoint + 1).first()
    entry = link and AuditEntry.objects.filter(pk=link.entry_id).first()
    late = now - LATE * timedelta(seconds=settings.AUDIT_CHECKPOINT_INTERVAL) - SAME_CLOCK
    if link and entry and entry.at < late:
        found.complain(
            f"it is of {written(entry.at)}, and no checkpoint has sealed it: do the workers run?", link.sequence
        )


def _count_strays(found: Chain, tenant_id: UUID) -> None:
    with connection.cursor() as cursor:
        cursor.execute(WITHOUT_A_PLACE, [tenant_id])
        (strays,) = cursor.fetchone()
    if strays:
        found.complain(f"{strays} entries have no place in the chain: the trigger that gives it was off")


def _linked(links: QuerySet[AuditLink]) -> Iterator[tuple[AuditLink, AuditEntry | None]]:
    """Each link with its entry, in order, a batch at a time."""
    last = 0
    while batch := list(links.filter(sequence__gt=last).order_by("sequence")[:BATCH]):
        entries = AuditEntry.objects.in_bulk([link.entry_id for link in batch])
        yield from ((link, entries.get(link.entry_id)) for link in batch)
        last = batch[-1].sequence


def _link(link: AuditLink) -> dict[str, Any]:
    return {"sequence": link.sequence, "previous": link.previous, "hash": link.hash}


# -- export


def export(tenant_id: UUID, *, since: datetime | None = None, until: datetime | None = None) -> Iterator[bytes]:
    """The lines of an export: entries with their links, checkpoints, and a signed end that says what there was.

    From the first entry at or after `since` to the last one before `until`. Seals the chain first, so that all is sealed.
    """
    sign_checkpoints(tenant_id=tenant_id)
    first, last = _range(tenant_id, since=since, until=until)
    part = {"tenant_id": tenant_id, "sequence__range": (first, last)}
    checkpoints = list(AuditCheckpoint.objects.filter(**part).order_by("sequence").values_list("envelope", flat=True))
    linked = _linked(AuditLink.objects.filter(**part))
    read = hashlib.sha256()
    for line in chain(map(_exported, linked), (_line({"checkpoint": one}) for one in checkpoints)):
        read.update(line)
        yield line
    said = {
        "tenant": str(tenant_id), "first": first, "last": last, "hash": _hash_of(tenant_id, last),
        "checkpoints": len(checkpoints), "sha256": read.hexdigest(), "at": written(timezone.now()),
    }  # fmt: skip
    yield _line({"end": sign(said, kind=EXPORT, key=signing_key())})


def _exported(linked: tuple[AuditLink, AuditEntry | None]) -> bytes:
    link, entry = linked
    content, digest = (content_of(entry), entry.digest) if entry else ({}, "")
    return _line({"entry": content, "digest": digest, "link": _link(link)})


def _hash_of(tenant_id: UUID, sequence: int) -> str:
    return AuditLink.objects.filter(tenant_id=tenant_id, sequence=sequence).values_list("hash", flat=True).first() or ""


def _line(value: dict[str, Any]) -> bytes:
    return canonical_json(value) + b"\n"


def _range(tenant_id: UUID, *, since: datetime | None, until: datetime | None) -> tuple[int, int]:
    """The first and last sequence of the entries in this time; (0, 0) where there are none."""
    entries = AuditEntry.objects.filter(tenant_id=tenant_id)
    if since:
        entries = entries.filter(id__gte=first_uuid7(since - SAME_CLOCK), at__gte=since)
    if until:
        entries = entries.filter(id__lt=first_uuid7(until + SAME_CLOCK), at__lt=until)
    links = AuditLink.objects.filter(tenant_id=tenant_id)
    if since or until:
        links = links.filter(entry_id__in=entries.values("pk"))
    found = links.aggregate(first=Min("sequence"), last=Max("sequence"))
    return found["first"] or 0, found["last"] or 0
