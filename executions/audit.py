"""Write down who did what, in the transaction in which it is done; docs/reference/audit.md has every action.

The database gives each entry its place in its tenant's chain when the transaction commits. How an entry is hashed, and how
anybody can check it with the public key alone: docs/reference/audit.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from executions.canonical_json import digest
from executions.models.audit import SERVICE, AuditEntry
from orchestrator_project.origin import Source, coming_from, origin
from orchestrator_project.telemetry import NOTHING, correlation_id


class OriginMiddleware:
    """Writes down what a request does as done over the API or in the admin, from the caller's address."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer the request."""
        source = Source.ADMIN if request.path.startswith("/admin/") else Source.API
        with coming_from(source, address_of(request)):
            return self.get_response(request)


def address_of(request: HttpRequest) -> str:
    """The caller's IP address, empty where there is none (a Unix socket).

    Behind a proxy it is the last one in X-Forwarded-For, which the proxy itself put there; anybody may have written the others.
    """
    sent = request.META.get("REMOTE_ADDR", "")
    if settings.BEHIND_TLS_PROXY and (hops := request.headers.get("X-Forwarded-For")):
        sent = hops.rsplit(",", 1)[-1].strip()
    try:
        return str(ip_address(sent.partition("%")[0]))
    except ValueError:
        return ""


def record(
    *,
    action: str,
    subject: str,
    by: str,
    tenant_id: UUID = SERVICE,
    reason: str = "",
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    correlation: str = "",
) -> AuditEntry:
    """Write one entry. Needs the caller's transaction.

    `before` and `after`: what changed, in JSON types, without any secret. `correlation`: that of the subject, for jobs, which
    work under none of their own.
    """
    came, current = origin(), correlation_id()
    entry = AuditEntry(
        tenant_id=tenant_id,
        at=timezone.now(),
        actor=by,
        source=came.source,
        action=action,
        subject=subject,
        reason=reason,
        correlation_id=correlation if current == NOTHING else current,
        address=came.address,
        before=_plain(before),
        after=_plain(after),
    )
    entry.digest = digest(content_of(entry))
    entry.save(force_insert=True)
    return entry


def _plain(value: Any) -> Any:
    """The value as it comes back from the database: words of an enumeration are texts, tuples are lists."""
    return json.loads(json.dumps(value))


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
