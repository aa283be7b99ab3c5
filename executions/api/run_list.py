"""GET /v1/executions: the runs of a tenant, newest first, by what they are and when they were."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import generics

from executions.api.lists import NewestFirst, check_filters
from executions.api.serializers import RunSummarySerializer
from executions.api.tenant_view import TenantView
from executions.errors import InvalidRequest
from executions.models import Run, RunReason, RunStatus, Scope

RUN_FILTERS = ("status", "reason", "plan_hash", "correlation_id", "triggered_by")


@extend_schema_view(
    get=extend_schema(
        operation_id="list_executions",
        summary="List runs, newest first",
        parameters=[
            OpenApiParameter("status", enum=RunStatus.values),
            OpenApiParameter("reason", enum=RunReason.values),
            OpenApiParameter("plan_hash"),
            OpenApiParameter("correlation_id"),
            OpenApiParameter("triggered_by"),
        ],
    )
)
class RunListView(TenantView, generics.ListAPIView[Run]):
    """GET /v1/executions."""

    scopes = {"GET": Scope.READ}
    serializer_class = RunSummarySerializer
    pagination_class = NewestFirst
    queryset = Run.objects.none()

    def get_queryset(self) -> Any:
        """Return the tenant's runs that fit the filters; an unknown status or reason is refused."""
        query = self.request.query_params
        check_filters(self.request, RUN_FILTERS)
        for name, allowed in (("status", RunStatus.values), ("reason", RunReason.values)):
            if query.get(name) and query[name] not in allowed:
                raise InvalidRequest(f"{name}: one of {', '.join(allowed)}.")
        columns = {"status": "status", "reason": "reason", "plan_hash": "plan__plan_hash"}
        columns |= {"correlation_id": "correlation_id", "triggered_by": "triggered_by"}
        wanted = {column: query[name] for name, column in columns.items() if query.get(name)}
        if any("\x00" in value for value in wanted.values()):
            raise InvalidRequest("A filter holds a NUL character.")
        return Run.objects.filter(tenant=self.principal.tenant, **wanted).select_related("plan").defer("plan__document")
