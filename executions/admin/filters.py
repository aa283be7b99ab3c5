"""How lists are narrowed down in the admin, above all that of runs: filters and a search that stay fast over a million."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone

from executions.labels import labelled
from executions.models import Plan, Tenant
from executions.models.ids import first_uuid7
from executions.models.run import STATUS_OF_REASON

MOST_PLANS = 200  # of the plans a search finds, the newest
PERIODS = {"today": "Today", "7": "Last 7 days", "30": "Last 30 days", "365": "Last 365 days"}


def tenants_of(user: Any) -> QuerySet[Tenant]:
    """The tenants whose objects a person sees."""
    return Tenant.objects.all() if user.is_superuser else Tenant.objects.filter(members=user)


class TenantFilter(admin.RelatedFieldListFilter):
    """The tenants a person sees. Django's own filter would ask every row of the list for its tenant."""

    def field_choices(self, field: Any, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """Keys and names."""
        return [(str(tenant.pk), str(tenant)) for tenant in tenants_of(request.user)]


class ReasonFilter(admin.ChoicesFieldListFilter):
    """Reasons; each belongs to one status, by which the rows are indexed."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        """Ask for the status, too."""
        found = super().queryset(request, queryset)
        statuses = {STATUS_OF_REASON[one] for one in self.lookup_val or () if one in STATUS_OF_REASON}
        return found.filter(status__in=statuses) if found is not None and statuses else found


class SubmittedFilter(admin.SimpleListFilter):
    """Since when, by the key, which grows with time."""

    title = "submitted"
    parameter_name = "submitted"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Some periods."""
        return list(PERIODS.items())

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Those of the period."""
        period = self.value()
        return queryset.filter(pk__gte=first_uuid7(_begin(period))) if period in PERIODS else queryset


class LabelFilter(admin.SimpleListFilter):
    """A label, `name:value` or a name alone, as the links in the list give it; shown only while one is asked for."""

    title = "label"
    parameter_name = "label"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """The one that is asked for."""
        given = request.GET.get(self.parameter_name)
        return [(given, given)] if given else []

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Those that have it."""
        given = self.value()
        if not given:
            return queryset
        condition = labelled(given)
        return queryset.none() if condition is None else queryset.filter(condition)


def found_by(term: str, user: Any) -> Q:
    """Where a run is known by this text: its ids, who asked, a plan's name, or a label `name:value`.

    Ids and names are compared as a whole: an index finds nothing in the middle of a text.
    """
    whole = Q(correlation_id=term) | Q(triggered_by=term) | Q(requested_by=term)
    plans = Plan.objects.filter(tenant__in=tenants_of(user), name__icontains=term).order_by("-id")
    condition = Q(tenant__in=[tenant.pk for tenant in tenants_of(user)]) & whole
    condition |= Q(plan__in=list(plans.values_list("pk", flat=True)[:MOST_PLANS])) | Q(portia_run_id=term)
    if ":" in term and (label := labelled(term)) is not None:
        condition |= label
    try:
        return condition | Q(pk=UUID(term))
    except ValueError:
        return condition


def _begin(period: str) -> datetime:
    now = timezone.now()
    if period == "today":
        return now.replace(hour=0, minute=0, second=0, microsecond=0)
    return now - timedelta(days=int(period))
