"""Plans over HTTP: store one, look at it, check what would become of it."""

from __future__ import annotations

import re
from typing import Any, cast

from django.db.models import QuerySet
from django.http import HttpResponseBase
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from executions.actions import plans
from executions.api.conditional import conditional
from executions.api.filters import Exactly, key_range
from executions.api.headers import sends
from executions.api.lists import IF_NONE_MATCH, ListView, described
from executions.api.plan_schema import PLAN_SCHEMA
from executions.api.run_list import SAME_CLOCK
from executions.api.serializers import JSONObjectField
from executions.api.sparse import SparseSerializer
from executions.api.tenant_view import IDEMPOTENCY_KEY, TenantView, answer_once
from executions.canonical_json import DIGEST_PATTERN
from executions.errors import InvalidPlan, NotFound
from executions.models import Plan, Scope
from executions.plan_parts import LONGEST_TITLE

PLAN_HASH = OpenApiParameter(
    "plan_hash", {"type": "string", "pattern": f"^{DIGEST_PATTERN}$"}, OpenApiParameter.PATH, description="Hex SHA-256."
)


class PlanSummarySerializer(SparseSerializer):
    """A stored plan as it stands in a list."""

    needs = {"links": ("plan_hash",)}

    links = serializers.SerializerMethodField()

    class Meta:
        model = Plan
        fields = ["plan_hash", "name", "version", "description", "created_at", "created_by", "links"]

    def get_links(self, plan: Plan) -> dict[str, str]:
        """Where to go from here."""
        base = f"/v1/plans/{plan.plan_hash}"
        return {
            "self": base,
            "validate": f"{base}/validate",
            "executions": f"/v1/executions?plan_hash={plan.plan_hash}",
        }


class PlanSerializer(PlanSummarySerializer):
    """A stored plan with its document."""

    executable_plan = JSONObjectField(source="document")

    class Meta(PlanSummarySerializer.Meta):
        fields = [*PlanSummarySerializer.Meta.fields, "executable_plan"]


@described(operation_id="list_plans", summary="List stored plans, newest first")
class PlanListView(ListView):
    """GET and POST /v1/plans."""

    scopes = {"GET": Scope.READ, "POST": Scope.EXECUTE}
    refusals = {"POST": (InvalidPlan,)}
    serializer_class = PlanSummarySerializer
    queryset = Plan.objects.none()
    filters = (
        Exactly("name", "name", "Exactly this name.", in_order=True, longest=LONGEST_TITLE),
        *key_range("created", "created_at", leeway=SAME_CLOCK),
    )

    def rows(self) -> QuerySet[Plan]:
        """The tenant's plans."""
        return Plan.objects.filter(tenant=self.principal.tenant)

    @extend_schema(
        operation_id="store_plan", summary="Store a plan",
        description="The body is the ExecutablePlan itself. The same content again is the same plan, and answers 200.",
        request={"application/json": PLAN_SCHEMA},
        responses={201: PlanSummarySerializer, 200: PlanSummarySerializer},
        parameters=[IDEMPOTENCY_KEY, sends("Location", 200, 201)],
    )  # fmt: skip
    def post(self, request: Request) -> HttpResponseBase:
        """Validate a plan and keep it under its hash, to be run by that alone."""

        def work() -> tuple[int, Any, dict[str, str]]:
            caller = self.principal
            parsed = plans.check(tenant=caller.tenant, document=request.data, at="")
            plan, is_new = plans.store(
                tenant=caller.tenant,
                document=cast("dict[str, Any]", request.data),
                parsed=parsed,
                by=caller.name,
                user=caller.user,
            )
            return 201 if is_new else 200, PlanSummarySerializer(plan).data, {"Location": f"/v1/plans/{plan.plan_hash}"}

        return answer_once(request, work)


class PlanView(TenantView):
    """GET /v1/plans/{plan_hash}."""

    scopes = {"GET": Scope.READ}

    @extend_schema(
        operation_id="get_plan",
        summary="Look at a stored plan",
        responses=PlanSerializer,
        parameters=[PLAN_HASH, IF_NONE_MATCH],
    )
    def get(self, request: Request, plan_hash: str) -> HttpResponseBase:
        """Return the plan; it never changes."""
        plan = find_plan(self.principal.tenant, plan_hash)
        return conditional(request, Response(PlanSerializer(plan).data), f'"{plan.plan_hash}"')


def find_plan(tenant: Any, plan_hash: str) -> Plan:
    """Return a stored plan of the tenant with its document. Raises NotFound; another tenant's plan does not exist."""
    check_hash(plan_hash)
    plan = Plan.objects.filter(tenant=tenant, plan_hash=plan_hash).first()
    if plan is None:
        raise NotFound(f"No plan with the hash {plan_hash} is stored here.")
    return plan


def check_hash(plan_hash: str) -> None:
    """Raise NotFound for what can be no plan's hash."""
    if not re.fullmatch(DIGEST_PATTERN, plan_hash):
        raise NotFound("There is no such plan: a plan_hash is 64 lower-case hex digits.")
