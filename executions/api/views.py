"""Executions over HTTP: submit, look, control."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from executions.actions import runs
from executions.actions.runs import Submission
from executions.api.authentication import Principal
from executions.api.serializers import (
    ExecuteSerializer,
    PreviewSerializer,
    RunSerializer,
)
from executions.api.tenant_view import IDEMPOTENCY_KEY, TenantView, answer_once
from executions.errors import NotFound
from executions.models import Run, Scope
from executions.portia.client import portia
from orchestrator_project.telemetry import correlation_id, traceparent

SYNCHRONOUS_WAIT = 30.0  # seconds

CAPABILITY_TOKEN = OpenApiParameter(
    "X-Capability-Token", OpenApiTypes.STR, OpenApiParameter.HEADER, description="Needed in production."
)


class ExecuteView(TenantView):
    """POST /v1/execute."""

    scopes = {"POST": Scope.EXECUTE}

    @extend_schema(
        operation_id="execute",
        summary="Submit a plan",
        request=ExecuteSerializer,
        responses={202: RunSerializer, 200: PreviewSerializer},
        parameters=[IDEMPOTENCY_KEY, CAPABILITY_TOKEN],
    )
    def post(self, request: Request) -> HttpResponseBase:
        """Accept a run, or with `dry_run` say what would be run."""
        serializer = ExecuteSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        wishes = serializer.validated_data
        known_tools = portia().known_tools(tenant=self.principal.tenant.identifier)
        submission = _submission(request, wishes, known_tools)
        if wishes["dry_run"]:
            return Response(runs.preview(tenant=self.principal.tenant, submission=submission))
        response = answer_once(request, lambda: self._start(submission))
        return response if wishes["async_execution"] else self._when_ended(response)

    def _start(self, submission: Submission) -> tuple[int, Any, dict[str, str]]:
        caller = self.principal
        run = runs.start(tenant=caller.tenant, principal=caller.name, user=caller.user, submission=submission)
        return 202, RunSerializer(run).data, {"Location": f"/v1/executions/{run.pk}"}

    def _when_ended(self, accepted: HttpResponseBase) -> HttpResponseBase:
        run_id = accepted.headers["Location"].rsplit("/", 1)[1]
        run = runs.wait(find_run(self.principal, UUID(run_id)), seconds=SYNCHRONOUS_WAIT)
        if not run.is_terminal:
            return accepted
        return Response(RunSerializer(run).data, headers={"Location": accepted.headers["Location"]})


class RunView(TenantView):
    """GET /v1/executions/{run_id}."""

    scopes = {"GET": Scope.READ}

    @extend_schema(operation_id="get_execution", summary="Look at a run", responses=RunSerializer)
    def get(self, request: Request, run_id: UUID) -> Response:
        """Return the run with steps, results, timings and what it waits for."""
        return Response(RunSerializer(find_run(self.principal, run_id)).data)


class CommandView(TenantView):
    """POST /v1/executions/{run_id}/pause|resume|cancel."""

    scopes = {"POST": Scope.CONTROL}

    def command(self, request: Request, run_id: UUID, action: Any) -> HttpResponseBase:
        """Ask for the command; 202, because Portia is told by a job."""

        def work() -> tuple[int, Any, dict[str, str]]:
            find_run(self.principal, run_id)
            run = action(run_id, by=self.principal.name)
            return 202, RunSerializer(run).data, {"Location": f"/v1/executions/{run_id}"}

        return answer_once(request, work)


class PauseView(CommandView):
    """Hold at the next step boundary."""

    @extend_schema(
        operation_id="pause_execution", summary="Pause a run", request=None, responses={202: RunSerializer},
        parameters=[IDEMPOTENCY_KEY],
    )  # fmt: skip
    def post(self, request: Request, run_id: UUID) -> HttpResponseBase:
        """Pause the run."""
        return self.command(request, run_id, runs.pause)


class ResumeView(CommandView):
    """Go on."""

    @extend_schema(
        operation_id="resume_execution", summary="Resume a run", request=None, responses={202: RunSerializer},
        parameters=[IDEMPOTENCY_KEY],
    )  # fmt: skip
    def post(self, request: Request, run_id: UUID) -> HttpResponseBase:
        """Resume the run."""
        return self.command(request, run_id, runs.resume)


class CancelView(CommandView):
    """Start no further step."""

    @extend_schema(
        operation_id="cancel_execution", summary="Cancel a run", request=None, responses={202: RunSerializer},
        parameters=[IDEMPOTENCY_KEY],
    )  # fmt: skip
    def post(self, request: Request, run_id: UUID) -> HttpResponseBase:
        """Cancel the run."""
        return self.command(request, run_id, runs.cancel)


def find_run(principal: Principal, run_id: UUID) -> Run:
    """Return a run of the caller's tenant. Raises NotFound; another tenant's run does not exist."""
    run = Run.objects.select_related("plan").defer("plan__document").filter(tenant=principal.tenant, pk=run_id).first()
    if run is None:
        raise NotFound(f"There is no execution {run_id}.")
    return run


def _submission(request: Request, wishes: dict[str, Any], known_tools: frozenset[str] | None) -> Submission:
    token = request.headers.get("X-Capability-Token") or wishes.get("capability_token")
    return Submission(
        executable_plan=wishes.get("executable_plan"),
        plan_hash=wishes.get("plan_hash"),
        parameters=wishes["parameters"],
        variables=wishes["variables"],
        validate_capabilities=wishes["validate_capabilities"],
        capability_token=token,
        hooks=wishes["hooks"],
        retry_policy=dict(wishes["retry_policy"]) if wishes.get("retry_policy") else None,
        timeout=wishes.get("timeout"),
        triggered_by=wishes.get("triggered_by", ""),
        correlation_id=wishes.get("correlation_id") or correlation_id(),
        traceparent=traceparent(),
        known_tools=known_tools,
    )
