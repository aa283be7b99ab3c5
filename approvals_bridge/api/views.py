"""Clarifications over HTTP: list, look, decide. Only a personal API key decides: approval is a person's word."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.http import HttpResponseBase
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from approvals_bridge import actions
from approvals_bridge.api.serializers import AnswerSerializer, ClarificationSerializer, DecisionSerializer
from approvals_bridge.models import Category, Clarification, ClarificationStatus, Decision
from executions.api.authentication import Principal
from executions.api.filters import AnyOf, OneId, time_range
from executions.api.lists import ListView, described
from executions.api.tenant_view import IDEMPOTENCY_KEY, TenantView, answer_once
from executions.errors import Conflict, Forbidden, Gone, NotFound, StaleSubject
from executions.models import Scope

PORTIAS_CLOCK = timedelta(hours=1)  # it says when it asked; the key is made here, later


@described(operation_id="list_approvals", summary="List clarifications, newest first")
class ClarificationListView(ListView):
    """GET /v1/approvals: those that wait, unless another status or a run is asked for."""

    serializer_class = ClarificationSerializer
    queryset = Clarification.objects.none()
    filters = (
        AnyOf(
            "status", "status", "Any of these; without it, and without run_id, pending.",
            in_order=True, words=tuple(ClarificationStatus.values),
        ),
        AnyOf("category", "category", "Any of these.", words=tuple(Category.values)),
        OneId("run_id", "run_id", "Of this run.", in_order=True),
        *time_range("requested", "requested_at", not_after_key=PORTIAS_CLOCK),
        *time_range("deadline", "deadline"),
    )  # fmt: skip

    def rows(self) -> Any:
        """The tenant's clarifications, with their votes where those are shown."""
        found = Clarification.objects.filter(tenant=self.principal.tenant)
        if not {"status", "run_id"} & set(self.request.query_params):
            found = found.pending()
        return found.prefetch_related("votes__voter") if self.shows("votes") else found


class ClarificationView(TenantView):
    """GET /v1/approvals/{clarification_id}."""

    scopes = {"GET": Scope.READ}

    @extend_schema(operation_id="get_approval", summary="Look at a clarification", responses=ClarificationSerializer)
    def get(self, request: Request, clarification_id: UUID) -> Response:
        """Return what is asked, what would run, and what people said."""
        return Response(ClarificationSerializer(find(self.principal, clarification_id)).data)


class DecisionView(TenantView):
    """POST /v1/approvals/{clarification_id}/approve|reject|answer."""

    scopes = {"POST": Scope.DECIDE}
    refusals = {"POST": (Forbidden, Conflict, StaleSubject, Gone)}
    decision: Decision
    serializer: type[DecisionSerializer] = DecisionSerializer

    def decide(self, request: Request, clarification_id: UUID) -> HttpResponseBase:
        """Take the decision in the name of the person the key belongs to."""
        if self.principal.user is None:
            raise Forbidden("A service cannot decide; use the API key of a person.")
        serializer = self.serializer(data=request.data)
        serializer.is_valid(raise_exception=True)

        def work() -> tuple[int, Any, dict[str, str]]:
            find(self.principal, clarification_id)
            actions.decide(
                clarification_id=clarification_id,
                user=self.principal.user,
                decision=self.decision,
                source="api",
                **serializer.validated_data,
            )
            return 200, ClarificationSerializer(find(self.principal, clarification_id)).data, {}

        return answer_once(request, work)


class ApproveView(DecisionView):
    """Say yes."""

    decision = Decision.APPROVE

    @extend_schema(
        operation_id="approve", summary="Approve", request=DecisionSerializer, responses=ClarificationSerializer,
        parameters=[IDEMPOTENCY_KEY],
    )  # fmt: skip
    def post(self, request: Request, clarification_id: UUID) -> HttpResponseBase:
        """Approve the sealed action, confirm the proposed value, or say that the thing is done."""
        return self.decide(request, clarification_id)


class RejectView(DecisionView):
    """Say no."""

    decision = Decision.REJECT

    @extend_schema(
        operation_id="reject", summary="Reject", request=DecisionSerializer, responses=ClarificationSerializer,
        parameters=[IDEMPOTENCY_KEY],
    )  # fmt: skip
    def post(self, request: Request, clarification_id: UUID) -> HttpResponseBase:
        """Reject, with a reason; the run fails."""
        return self.decide(request, clarification_id)


class AnswerView(DecisionView):
    """Give a value."""

    decision = Decision.ANSWER
    serializer = AnswerSerializer

    @extend_schema(
        operation_id="answer", summary="Answer", request=AnswerSerializer, responses=ClarificationSerializer,
        parameters=[IDEMPOTENCY_KEY],
    )  # fmt: skip
    def post(self, request: Request, clarification_id: UUID) -> HttpResponseBase:
        """Answer with a value of the kind that was asked for."""
        return self.decide(request, clarification_id)


def of_tenant(principal: Principal) -> Any:
    """Return the clarifications of the caller's tenant, with what their description needs."""
    found = Clarification.objects.filter(tenant=principal.tenant)
    return found.select_related("run__plan").prefetch_related("votes__voter")


def find(principal: Principal, clarification_id: UUID) -> Clarification:
    """Return a clarification of the caller's tenant. Raises NotFound; another tenant's does not exist."""
    clarification = of_tenant(principal).filter(pk=clarification_id).first()
    if clarification is None:
        raise NotFound(f"There is no approval {clarification_id}.")
    return clarification
