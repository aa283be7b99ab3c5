"""Tenants and their members."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.db.models import ManyToManyField, Model
from django.forms import ModelMultipleChoiceField
from django.http import HttpRequest
from unfold.decorators import display

from executions.admin.audited import AuditedAdmin
from executions.admin.base import ScopedAdmin
from executions.models import Run, Tenant

LIMITS = ("rate_limit", "concurrency_limit")
FOR_SUPERUSERS = ("is_active", "allowed_tools", "members", *LIMITS)  # what holds for the members, and who they are
ABOUT_LIMITS = (
    "How much the tenant's API keys may ask at once; only superusers set them. Beyond the rate a request is answered with 429 "
    "and the time to wait; beyond the runs a submission is. A change holds from the next request on, and ends no run."
)


@admin.register(Tenant)
class TenantAdmin(AuditedAdmin, ScopedAdmin):
    """Tenants: name, allowed tools, members and limits. The identifier stays, because keys and tokens name it.

    A member with the permission to change tenants may give the tenant another name, no more: nobody loosens the rules that hold
    for themselves, and whoever adds a member lets somebody see everything the tenant does.
    """

    audited_as, audited_name = "tenant", "identifier"
    audited_fields = ("identifier", "name", "is_active", "allowed_tools", "members", *LIMITS)
    members_path = "members"
    fieldsets = [
        (None, {"fields": ["identifier", "name", "is_active", "allowed_tools", "members"]}),
        ("Limits", {"fields": [*LIMITS, "runs_now"], "description": ABOUT_LIMITS}),
    ]
    filter_horizontal = ["members"]
    list_display = ["name", "identifier", "is_active", "member_count"]
    search_fields = ["name", "identifier"]

    def audited_tenant(self, obj: Tenant) -> UUID:
        """In the tenant's own."""
        return obj.pk

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> list[str]:
        """The identifier can only be chosen at first; members change nothing that holds for them."""
        return [*(["identifier"] if obj else []), *(() if request.user.is_superuser else FOR_SUPERUSERS), "runs_now"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Superusers only: whoever adds a tenant would not be a member of it."""
        return request.user.is_superuser

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Nobody: a tenant that is not needed any more is set inactive."""
        return False

    def formfield_for_manytomany(
        self, db_field: ManyToManyField, request: HttpRequest, **kwargs: Any
    ) -> ModelMultipleChoiceField | None:
        """Offer staff."""
        people = get_user_model().objects.filter(is_staff=True)
        return super().formfield_for_manytomany(db_field, request, queryset=people, **kwargs)

    @display(description="Runs that have not ended now")
    def runs_now(self, obj: Tenant) -> str:
        """How many, and of how many that may be."""
        count = 0 if obj._state.adding else Run.objects.not_ended().filter(tenant=obj).count()
        return str(count) if obj.concurrency_limit is None else f"{count} of {obj.concurrency_limit}"

    @display(description="Members")
    def member_count(self, obj: Tenant) -> int:
        """How many people see what it does."""
        return obj.members.count()
