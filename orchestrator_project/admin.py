"""Background jobs for operators, to look at.

django-q2's own pages are taken out: its schedule form runs any Python function that a member of staff names, and its task pages
unpickle what they show.
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django_q import admin as stock  # registers its pages, which are taken out below
from django_q.models import Failure, OrmQ, Schedule, Success

from executions.admin.base import ListAdmin
from orchestrator_project.login_throttle import unlock
from orchestrator_project.models import JobSlot, LoginAttempts, WorkerNode

for model in (Schedule, Success, Failure, OrmQ):
    stock.admin.site.unregister(model)


class ReadOnlyAdmin(ListAdmin):
    """A page that shows and changes nothing."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody adds."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody changes."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody deletes."""
        return False


@admin.register(JobSlot)
class JobSlotAdmin(ReadOnlyAdmin):
    """Which kinds of work are being drained, and which rest after an error."""

    list_display = ["kind", "number", "generation", "free_at", "failures", "last_error"]
    list_filter = ["kind"]


@admin.register(WorkerNode)
class WorkerNodeAdmin(ReadOnlyAdmin):
    """Worker clusters and when they were last at work."""

    list_display = ["host", "pid", "started_at", "beat_at"]


@admin.register(LoginAttempts)
class LoginAttemptsAdmin(ReadOnlyAdmin):
    """Who, and which addresses, failed to sign in of late; to delete is to unlock. Superusers only."""

    list_display = ["__str__", "kind", "failures", "last_at", "free_at"]
    list_filter = ["kind"]

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Superusers."""
        return request.user.is_superuser

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Superusers."""
        return request.user.is_superuser

    def delete_model(self, request: HttpRequest, obj: LoginAttempts) -> None:
        """Unlock it."""
        unlock([obj], by=request.user.get_username())

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[LoginAttempts]) -> None:
        """Unlock them."""
        unlock(queryset, by=request.user.get_username())
