"""Changes made by hand in the admin, written into the audit log: which fields, from what to what."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

from django.db.models import Model, QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin

from executions import audit
from executions.models import SERVICE

Facts = dict[str, Any]


class AuditedAdmin(ModelAdmin):
    """Records `<audited_as>.created`, `.changed` and `.deleted`; of the fields only those in `audited_fields` are told."""

    audited_as: ClassVar[str]
    audited_name: ClassVar[str]  # the field by which the log names an object
    audited_fields: ClassVar[tuple[str, ...]]

    def audited_tenant(self, obj: Any) -> UUID:
        """In whose log it stands."""
        return SERVICE

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Remember what it was before."""
        form.audited_before = self._facts(self.model.objects.get(pk=obj.pk)) if change else {}
        super().save_model(request, obj, form, change)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """Record the change, now that all of it is saved."""
        super().save_related(request, form, formsets, change)
        before, after = form.audited_before, self._facts(form.instance)
        changed = [name for name, value in after.items() if before.get(name) != value]
        if changed or not change:
            was, is_now = ({name: facts.get(name) for name in changed} for facts in (before, after))
            self.record(
                request, form.instance, "changed" if change else "created", before=was if change else None, after=is_now
            )

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        """Record what is deleted."""
        self.record(request, obj, "deleted", before=self._facts(obj))
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Record each that is deleted."""
        for obj in queryset:
            self.record(request, obj, "deleted", before=self._facts(obj))
        super().delete_queryset(request, queryset)

    def record(self, request: HttpRequest, obj: Any, deed: str, **facts: Any) -> None:
        """Write down what the person of the request did to an object."""
        audit.record(
            action=f"{self.audited_as}.{deed}",
            subject=f"{self.audited_as}/{getattr(obj, self.audited_name)}",
            by=request.user.get_username(),
            tenant_id=self.audited_tenant(obj),
            **facts,
        )

    def _facts(self, obj: Model) -> Facts:
        return {name: _plain(obj, name) for name in self.audited_fields}


def _plain(obj: Model, name: str) -> Any:
    """A field in JSON types; of several related objects their names, in order."""
    value = getattr(obj, name)
    return sorted(map(str, value.all())) if obj._meta.get_field(name).many_to_many else value
