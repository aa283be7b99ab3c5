"""Write down who did what, in the transaction in which it is done; docs/reference/audit.md has every action.

The database gives each entry its place in its tenant's chain when the transaction commits. How an entry is hashed, and how
anybody can check it with the public key alone: docs/reference/audit.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.utils import timezone

from executions.canonical_json import digest
from executions.models.audit import SERVICE, AuditEntry, Source
from orchestrator_project.telemetry import correlation_id


@dataclass(frozen=True)
class Origin:
    """Which way somebody came in, and from which IP address (empty: from this machine)."""

    source: Source = Source.COMMAND
    address: str = ""


_origin: ContextVar[Origin] = ContextVar("origin", default=Origin())  # noqa: B039  immutable


@contextmanager
def coming_from(source: Source, address: str = "") -> Iterator[None]:
    """Write whatever is done in the block down as done this way."""
    token = _origin.set(Origin(source, address))
    try:
        yield
    finally:
        _origin.reset(token)


def record(
    *,
    action: str,
    subject: str,
    by: str,
    tenant_id: UUID = SERVICE,
    reason: str = "",
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> AuditEntry:
    """Write one entry. `before` and `after`: what changed, in JSON types, without any secret. Needs the caller's transaction."""
    entry = AuditEntry(
        tenant_id=tenant_id, at=timezone.now(), actor=by, source=_origin.get().source, action=action, subject=subject,
        reason=reason, correlation_id=correlation_id(), address=_origin.get().address, before=before, after=after,
    )  # fmt: skip
    entry.digest = digest(content_of(entry))
    entry.save(force_insert=True)
    return entry


def content_of(entry: AuditEntry) -> dict[str, Any]:
    """What the digest of an entry covers: all of it, in JSON types."""
    return {
        "id": str(entry.pk),
        "tenant_id": str(entry.tenant_id),
        "at": written(entry.at),
        "actor": entry.actor,
        "source": str(entry.source),
        "action": entry.action,
        "subject": entry.subject,
        "reason": entry.reason,
        "correlation_id": entry.correlation_id,
        "address": entry.address,
        "before": entry.before,
        "after": entry.after,
    }


def written(moment: datetime) -> str:
    """A moment as it stands in the log: UTC with microseconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
