"""Users and groups, in the admin's look. Superusers only: whoever edits users can give themselves any right."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from django.db import transaction
from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from django.views.decorators.debug import sensitive_post_parameters
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from executions import audit
from executions.admin.audited import AuditedAdmin
from executions.admin.base import ListAdmin
from executions.tenancy import every_tenant

admin.site.unregister(User)
admin.site.unregister(Group)


class SuperusersOnly(AuditedAdmin, ListAdmin):
    """Nobody else sees or changes these."""

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Superusers."""
        return request.user.is_superuser

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Superusers."""
        return request.user.is_superuser

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Superusers."""
        return request.user.is_superuser

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Superusers."""
        return request.user.is_superuser


@admin.register(User)
class UserAdmin(SuperusersOnly, DjangoUserAdmin):
    """People."""

    audited_as, audited_name = "user", "username"
    audited_fields = (
        "username", "email", "first_name", "last_name", "is_active", "is_staff", "is_superuser", "groups", "user_permissions",
    )  # fmt: skip
    add_fieldsets = DjangoUserAdmin.add_fieldsets  # unfold has none, and would ask for no name and no password
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:  # noqa: A002
        """Record that somebody's password was changed or taken away, not to what."""
        with transaction.atomic():
            before = self.get_object(request, unquote(id))
            response = super().user_change_password(request, id, form_url)
            after = self.get_object(request, unquote(id))
            if before and after and before.password != after.password:
                self.record(request, after, "password_changed")
        return response


@every_tenant()  # behind the wall between tenants nobody changes users
@sensitive_post_parameters()
def change_own_password(request: HttpRequest) -> HttpResponse:
    """The admin's page for one's own password; a change is recorded with it, as `user_change_password` does."""
    with transaction.atomic():
        before = getattr(request.user, "password", None)
        response = admin.site.password_change(request)
        if getattr(request.user, "password", None) != before:
            name = request.user.get_username()
            audit.record(action="user.password_changed", subject=f"user/{name}", by=name)
    return response


@admin.register(Group)
class GroupAdmin(SuperusersOnly, DjangoGroupAdmin):
    """Groups of people, named in approval rules."""

    audited_as, audited_name = "group", "name"
    audited_fields = ("name", "permissions")
