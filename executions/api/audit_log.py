"""GET /v1/audit: who did what in a tenant, newest first."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db.models import OuterRef, QuerySet, Subquery
from rest_framework import serializers

from executions.api.fields import JSONObjectField
from executions.api.filters import AnyOf, Exactly, key_range
from executions.api.lists import ListView, described
from executions.api.sparse import SparseSerializer
from executions.models import AuditEntry, AuditLink, Scope, Source

LONGEST_SUBJECT = 200
LONGEST_ACTOR = 150
ACTION = r"[a-z_]+\.[a-z_]+"
SAME_CLOCK = timedelta(minutes=1)  # an entry's key and its time are made microseconds apart, on one machine


class AuditEntrySerializer(SparseSerializer):
    """Something that somebody did, and its place in the tenant's chain."""

    needs = {"sequence": (), "hash": ()}

    sequence = serializers.IntegerField(help_text="Its place in the tenant's chain.")
    hash = serializers.CharField(help_text="The hash of that link.")
    before = JSONObjectField(allow_null=True, help_text="What it was, where something changed.")
    after = JSONObjectField(allow_null=True, help_text="What it is since.")

    class Meta:
        model = AuditEntry
        fields = [
            "id", "at", "actor", "source", "action", "subject", "reason", "correlation_id", "address", "before", "after",
            "digest", "sequence", "hash",
        ]  # fmt: skip


@described(operation_id="list_audit_entries", summary="Look into the audit log, newest first")
class AuditLogView(ListView):
    """GET /v1/audit."""

    scopes = {"GET": Scope.ADMIN}
    serializer_class = AuditEntrySerializer
    queryset = AuditEntry.objects.none()
    filters = (
        Exactly(
            "actor",
            "actor",
            "Who did it: a principal, a person, or a part of the service.",
            in_order=True,
            longest=LONGEST_ACTOR,
        ),
        Exactly("action", "action", "A name such as execution.cancel_requested.", in_order=True, pattern=ACTION),
        Exactly(
            "subject",
            "subject",
            "To what it was done: execution/<run_id>, for example.",
            in_order=True,
            longest=LONGEST_SUBJECT,
        ),
        AnyOf("source", "source", "Any of these.", words=tuple(Source.values)),
        *key_range("at", "at", leeway=SAME_CLOCK),
    )

    def rows(self) -> QuerySet[Any]:
        """The tenant's entries, with their places."""
        link = AuditLink.objects.filter(entry_id=OuterRef("pk"))
        place = {name: Subquery(link.values(name)) for name in ("sequence", "hash")}
        return AuditEntry.objects.filter(tenant_id=self.principal.tenant.pk).annotate(**place)
