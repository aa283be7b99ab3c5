"""Executions over HTTP: submit, look, list, control; health."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError, connection
from django.db.models.functions import Now
from django.http import HttpResponse, HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import exceptions, generics
from rest_framework.pagination import CursorPagination
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from executions.actions import runs
from executions.actions.runs import Submission
from executions.api.authentication import Principal
from executions.api.serializers import (
    ExecuteSerializer,
    HealthSerializer,
    PreviewSerializer,
    RunSerializer,
    RunSummarySerializer,
)
from executions.errors import InvalidRequest, NotFound
from executions.idempotency import Answer, once, read_key
from executions.models import Run, RunReason, RunStatus, Scope
from executions.portia.client import portia
from executions.portia.errors import PortiaError
from orchestrator_project import VERSION
from orchestrator_project.models import WorkerNode
from orchestrator_project.telemetry import correlation_id, traceparent

RUN_FILTERS = ("status", "reason", "plan_hash", "correlation_id", "triggered_by")
SYNCHRONOUS_WAIT = 30.0  # seconds
HEARTBEAT_TIMEOUT = timedelta(seconds=10)
HEALTH_AGE = 5.0  # seconds
_portia_seen = (float("-inf"), False)

IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[\\x20-\\x7e]+$"},
    OpenApiParameter.HEADER,
    description="A repeat with the same key and body gets the first answer again, with `Idempotency-Replayed: true`.",
)
CAPABILITY_TOKEN = OpenApiParameter(
    "X-Capability-Token", OpenApiTypes.STR, OpenApiParameter.HEADER, description="Needed in production."
)


class LengthRequired(exceptions.APIException):
    """The body's length is not said (RFC 9110, section 15.5.12)."""

    status_code = 411
    default_code = "length_required"


class TenantView(APIView):
    """A view that sees one tenant: the caller's."""

    scopes: dict[str, Scope] = {}

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Refuse a body of unknown length, which WSGI would show as an empty one."""
        super().initial(request, *args, **kwargs)
        if "transfer-encoding" in request.headers:
            raise LengthRequired("Send the body with a Content-Length; a chunked one is not read.")

    @property
    def principal(self) -> Principal:
        """The caller, as authentication left it."""
        return cast("Principal", self.request.user)


def answer_once(request: Request, work: Any) -> HttpResponseBase:
    """Run `work` (no arguments, returns status, data and headers) under the request's Idempotency-Key."""
    principal = cast("Principal", request.user)

    def answer() -> Answer:
        status, data, headers = work()
        return Answer(status, JSONRenderer().render(data), headers)

    done = once(
        tenant=principal.tenant,
        principal=principal.name,
        route=f"{request.method} {request.path}",
        key=read_key(request.headers.get("Idempotency-Key")),
        body=request.data,
        work=answer,
    )
    response = HttpResponse(done.body, status=done.status, content_type="application/json", headers=done.headers)
    if done.replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return response


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


class NewestFirst(CursorPagination):
    """Pages over UUIDv7 keys, which grow with time: a page stays right while new objects arrive."""

    ordering = "-id"
    page_size = 50
    max_page_size = 200
    page_size_query_param = "limit"
    cursor_query_description = "Where to go on: the `next` or `previous` link of another page."

    def decode_cursor(self, request: Request) -> Any:
        """Read the cursor. Raises InvalidRequest for one that no page has given out."""
        try:
            cursor = super().decode_cursor(request)
            if cursor is not None and cursor.position is not None:
                UUID(str(cursor.position))
        except (ValueError, exceptions.NotFound):
            raise InvalidRequest(
                "cursor: follow the `next` or `previous` link of a page; this one leads nowhere."
            ) from None
        return cursor

    def get_page_size(self, request: Request) -> int:
        """Read `limit`. Raises InvalidRequest for what is no number from 1 to 200."""
        given = request.query_params.get("limit", str(self.page_size))
        if not (given.isascii() and given.isdigit() and 1 <= int(given[:5]) <= self.max_page_size):
            raise InvalidRequest(f"limit: a number from 1 to {self.max_page_size}.")
        return int(given)


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


class HealthView(APIView):
    """GET /health: whether the service works, for people and load balancers; needs no key."""

    authentication_classes = ()
    permission_classes = ()

    @extend_schema(
        operation_id="health", summary="Health", responses={200: HealthSerializer, 503: HealthSerializer}, auth=[]
    )
    def get(self, request: Request) -> Response:
        """Return 200 while requests can be taken, 503 when the database does not answer."""
        checks = {"database": _database_answers()}
        if checks["database"]:
            checks |= {"worker": _worker_is_alive(), "portia": _portia_answers()}
        status = "healthy" if all(checks.values()) else "degraded" if checks["database"] else "unhealthy"
        body = {
            "status": status,
            "environment": settings.ANUMATE_ENV,
            "version": VERSION,
            "checks": {name: "ok" if fine else "failing" for name, fine in checks.items()},
        }
        return Response(body, status=200 if checks["database"] else 503)


def check_filters(request: Request, known: Iterable[str]) -> None:
    """Refuse a query parameter nobody reads: a typing error would show everything."""
    allowed = sorted({*known, "cursor", "limit"})
    unknown = sorted(set(request.query_params) - set(allowed))
    if unknown:
        raise InvalidRequest(f"{unknown[0]}: there is no such filter; known are {', '.join(allowed)}.")


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


def _database_answers() -> bool:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        return False
    return True


def _worker_is_alive() -> bool:
    return WorkerNode.objects.filter(beat_at__gt=Now() - HEARTBEAT_TIMEOUT).exists()


def _portia_answers() -> bool:
    """Ask Portia, at most once in HEALTH_AGE seconds: /health is open to everybody, and Portia may hang."""
    global _portia_seen
    asked, fine = _portia_seen
    if time.monotonic() - asked > HEALTH_AGE:
        _portia_seen = (time.monotonic(), fine)  # others get the last answer while this one waits
        try:
            fine = portia().health_check().ok
        except PortiaError:
            fine = False
        _portia_seen = (time.monotonic(), fine)
    return fine
