"""Whose audit log a command is about."""

from __future__ import annotations

from uuid import UUID

from django.core.management.base import CommandError

from executions.actions.audit import logged_tenants
from executions.audit_chain import UNUSABLE
from executions.models import SERVICE, Tenant

OF_THE_SERVICE = "service"  # how the log of what concerns no tenant is named


def audited_tenants() -> list[tuple[str, UUID]]:
    """Everybody who has a log, by name; by id where there is a log and no such tenant any more."""
    known = list(Tenant.objects.order_by("identifier").values_list("identifier", "pk"))
    gone = logged_tenants() - {SERVICE} - {pk for _, pk in known}
    return [(OF_THE_SERVICE, SERVICE), *known, *((str(pk), pk) for pk in sorted(gone))]


def audited(name: str) -> UUID:
    """Whose log this is. Raises CommandError for a name nobody has."""
    known = dict(audited_tenants())
    if name not in known:
        raise CommandError(
            f"--tenant: there is no {name!r} (known: {', '.join(list(known)[:20])}).", returncode=UNUSABLE
        )
    return known[name]
