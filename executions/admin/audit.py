"""The audit log, to look at: of the person's tenants; to superusers also that of the service."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from unfold.decorators import display

from executions.admin.base import RecordAdmin
from executions.admin.filters import tenants_of
from executions.models import SERVICE, AuditEntry, AuditLink, Tenant
from executions.templatetags.reading import ago, moment, readable

OF_THE_SERVICE = "The service"


class WhoseLogFilter(admin.SimpleListFilter):
    """One of the logs a person may see."""

    title = "tenant"
    parameter_name = "tenant"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """The person's tenants, and for superusers the service."""
        logs = [(str(SERVICE), OF_THE_SERVICE)] if request.user.is_superuser else []
        return logs + [(str(tenant.pk), str(tenant)) for tenant in tenants_of(request.user)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """That log, by a name that was offered."""
        offered = {key for key, _ in self.lookup_choices}
        return queryset.filter(tenant_id=UUID(self.value())) if self.value() in offered else queryset


@admin.register(AuditEntry)
class AuditEntryAdmin(RecordAdmin):
    """Who did what, when, why and from where."""

    list_display = ["action", "subject", "actor", "source", "tenant", "age"]
    list_filter = [WhoseLogFilter, "source"]
    search_fields = ["actor__exact", "subject__exact", "action__exact"]
    search_help_text = "Search by actor, action (execution.cancel_requested) or subject (execution/<run id>), in full"
    ordering = ["-id"]
    fields = [
        "action", "subject", "actor", "source", "address", "reason", "shown_before", "shown_after", "shown_at", "tenant",
        "correlation_id", "id", "digest", "place",
    ]  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[AuditEntry]:
        """The entries of the person's tenants."""
        everything = AuditEntry.objects.order_by("-id")
        if request.user.is_superuser:
            return everything
        tenants = [tenant.pk for tenant in tenants_of(request.user)]
        return (
            everything.filter(tenant_id=tenants[0]) if len(tenants) == 1 else everything.filter(tenant_id__in=tenants)
        )

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """By the permission to view audit entries."""
        return bool(request.user.has_perm("executions.view_auditentry"))

    @display(description="Tenant")
    def tenant(self, obj: AuditEntry) -> str:
        """Whose log it is in."""
        if obj.tenant_id == SERVICE:
            return OF_THE_SERVICE
        found = Tenant.objects.filter(pk=obj.tenant_id).first()
        return found.name if found else str(obj.tenant_id)

    @display(description="When", ordering="-id")
    def age(self, obj: AuditEntry) -> SafeString | str:
        """How long ago."""
        return ago(obj.at)

    @display(description="When")
    def shown_at(self, obj: AuditEntry) -> SafeString | str:
        """The time, in UTC."""
        return moment(obj.at)

    @display(description="Before")
    def shown_before(self, obj: AuditEntry) -> SafeString | str:
        """What it was."""
        return readable(obj.before) if obj.before is not None else "—"

    @display(description="After")
    def shown_after(self, obj: AuditEntry) -> SafeString | str:
        """What it is since."""
        return readable(obj.after) if obj.after is not None else "—"

    @display(description="Place in the chain")
    def place(self, obj: AuditEntry) -> str:
        """Sequence and hash of its link."""
        link = AuditLink.objects.filter(entry_id=obj.pk).first()
        return f"{link.sequence}, {link.hash}" if link else "none: the trigger was off"
