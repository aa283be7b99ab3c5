"""Executions over HTTP: submit, look, control."""

from __future__ import annotations

import re
import time
from functools import partial
from typing import Any, ClassVar, cast
from uuid import UUID

from django.http import HttpResponseBase
from drf_spectacular.utils import OpenApiParameter, PolymorphicProxySerializer, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from executions.actions import captokens, denials, plans, previews, runs
from executions.actions.runs import Submission
from executions.api.authentication import Principal, check_still_usable
from executions.api.conditional import VERSIONS_PATTERN, conditional, if_match_versions
from executions.api.headers import sends
from executions.api.lists import IF_NONE_MATCH
from executions.api.parameters import check_parameters
from executions.api.plans import PLAN_HASH, check_hash
from executions.api.preferences import PREFER, waiting
from executions.api.preview_serializers import PreviewSerializer
from executions.api.serializers import (
    ExecuteSerializer,
    NothingSerializer,
    ResumeSerializer,
    RunOptionsSerializer,
    RunSerializer,
    StrictSerializer,
)
from executions.api.sparse import fields_parameter, narrow, sparse, wanted_fields
from executions.api.tenant_view import IDEMPOTENCY_KEY, TenantView, answer_once, answered
from executions.errors import (
    BadPlanCompilerAnswer,
    CapabilityRefused,
    CommandRefused,
    InvalidPlan,
    InvalidRequest,
    NotFound,
    TooManyRuns,
    VersionChanged,
)
from executions.models import Run, Scope
from executions.portia.client import portia
from executions.portia.needs import Runtime
from orchestrator_project.telemetry import correlation_id, traceparent

SYNCHRONOUS_WAIT = 30.0  # seconds
HIGHEST_VERSION = 2**31 - 1  # the column's

CAPABILITY_TOKEN = OpenApiParameter(
    "X-Capability-Token",
    {"type": "string", "maxLength": 8192},
    OpenApiParameter.HEADER,
    description="What the caller may do (docs/reference/capability-tokens.md); needed in production.",
)
FRESH_TOKEN = OpenApiParameter(
    "X-Capability-Token",
    {"type": "string", "maxLength": 8192},
    OpenApiParameter.HEADER,
    description="A fresh one, for a run that has outlived its own where the plan asks for that.",
)
SINCE = OpenApiParameter(
    "since", {"type": "integer", "minimum": 0, "maximum": HIGHEST_VERSION}, OpenApiParameter.QUERY,
    description="With `Prefer: wait=N`: the version of the run you have; answers when it has another, or has ended.",
)  # fmt: skip
IF_MATCH = OpenApiParameter(
    "If-Match",
    {"type": "string", "pattern": VERSIONS_PATTERN, "examples": ['"7"']},
    OpenApiParameter.HEADER,
    description="The version of the run this is meant for, in quotes, or several; 412 when it has another by now.",
)
RUN_OR_PREVIEW = PolymorphicProxySerializer(
    component_name="ExecutedOrPreviewed", serializers=[RunSerializer, PreviewSerializer], resource_type_field_name=None
)


class ExecuteView(TenantView):
    """POST /v1/execute."""

    scopes = {"POST": Scope.EXECUTE}
    refusals = {"POST": (NotFound, CapabilityRefused, InvalidPlan, TooManyRuns, BadPlanCompilerAnswer)}

    @extend_schema(
        operation_id="execute",
        summary="Submit a plan",
        description=(
            "Accept a run of the plan in `executable_plan`, or of the one, stored here or known to the Plan Compiler, that "
            "`plan_hash` names; with `dry_run`, say what would be run. The answer is 202 at once, or with `Prefer: wait=N` or "
            "`async_execution: false` 200 when the run ends in time. An equal submission without an Idempotency-Key within "
            "DEDUPLICATION_TTL is the same run, unless `deduplicate` is false."
        ),
        request=ExecuteSerializer,
        responses={202: RunSerializer, 200: RUN_OR_PREVIEW},
        parameters=[
            IDEMPOTENCY_KEY,
            CAPABILITY_TOKEN,
            PREFER,
            *(sends(name, 202) for name in ("Location", "ETag")),
            *(sends(name, 200, always=False) for name in ("Location", "ETag")),
        ],
    )
    def post(self, request: Request) -> HttpResponseBase:
        """Accept a run, or with `dry_run` say what would be run."""
        began = time.monotonic()
        serializer = ExecuteSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        wishes = serializer.validated_data
        with denials.recorded(tenant=self.principal.tenant, by=self.principal.name):
            if wishes["dry_run"]:
                return Response(preview_of(self.principal, submission_of(request, wishes)))
            accepted = answered(request, deduplicate=wishes["deduplicate"]) or self._accepted(request, wishes)
        wait = 0.0 if wishes["async_execution"] else SYNCHRONOUS_WAIT
        return self._followed(request, accepted, otherwise=wait, began=began)

    def _accepted(self, request: Request, wishes: dict[str, Any]) -> HttpResponseBase:
        submission = submission_of(request, wishes)
        return answer_once(request, lambda: self._start(submission), deduplicate=wishes["deduplicate"])

    def _start(self, submission: Submission) -> tuple[int, Any, dict[str, str]]:
        caller = self.principal
        run = runs.start(tenant=caller.tenant, principal=caller.name, user=caller.user, submission=submission)
        return 202, RunSerializer(run).data, {"Location": f"/v1/executions/{run.pk}", "ETag": etag_of(run)}

    def _followed(
        self, request: Request, accepted: HttpResponseBase, *, otherwise: float, began: float
    ) -> HttpResponseBase:
        """The answer after the wait the caller asked for: 200 with the ended run, else 202 with the run so far.

        A run that pauses ends the wait: it goes on when somebody says so, who may not be there.
        """
        with waiting(request, otherwise=otherwise, began=began) as (seconds, applied):
            if not seconds:
                return accepted
            try:
                run_id = UUID(accepted.headers["Location"].rsplit("/", 1)[1])
                find_run(self.principal, run_id, wanted=frozenset())
                runs.wait(run_id, seconds=seconds, or_stopped=True)
                check_still_usable(request)
                run, shown = shown_run(self.principal, run_id)
            except NotFound:  # a replay may outlive its run
                return accepted
        kept = {name: value for name, value in accepted.items() if name not in ("Content-Type", "Content-Length")}
        status = 200 if run.is_terminal else 202
        return Response(shown, status, headers=kept | applied | {"ETag": etag_of(run)})


class ValidateView(TenantView):
    """POST /v1/plans/{plan_hash}/validate."""

    scopes = {"POST": Scope.EXECUTE}
    refusals = {"POST": (CapabilityRefused, InvalidPlan, BadPlanCompilerAnswer)}

    @extend_schema(
        operation_id="validate_plan",
        summary="Check a plan against today's runtime, rights and people",
        request=RunOptionsSerializer,
        responses=PreviewSerializer,
        parameters=[PLAN_HASH, CAPABILITY_TOKEN],
    )
    def post(self, request: Request, plan_hash: str) -> Response:
        """Say what a submission of this plan would do, or refuse it as that would be refused; changes nothing."""
        check_hash(plan_hash)
        serializer = RunOptionsSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        with denials.recorded(tenant=self.principal.tenant, by=self.principal.name):
            submission = submission_of(request, {**serializer.validated_data, "plan_hash": plan_hash})
            return Response(preview_of(self.principal, submission))


class RunView(TenantView):
    """GET /v1/executions/{run_id}."""

    scopes = {"GET": Scope.READ}

    @extend_schema(
        operation_id="get_execution", summary="Look at a run", responses=sparse(RunSerializer),
        parameters=[SINCE, PREFER, IF_NONE_MATCH, fields_parameter(RunSerializer)],
    )  # fmt: skip
    def get(self, request: Request, run_id: UUID) -> HttpResponseBase:
        """Return the run with steps, results, timings and what it waits for; with `Prefer: wait`, when something is new."""
        check_parameters(request, ("since", "fields"))
        since, wanted = read_version(request), wanted_fields(request, RunSerializer)
        with waiting(request) as (seconds, applied):
            if seconds:
                find_run(self.principal, run_id, wanted=frozenset())
                runs.wait(run_id, seconds=seconds, since=since)
                check_still_usable(request)
        run, shown = shown_run(self.principal, run_id, wanted=wanted)
        response = Response(shown, headers=applied)
        return conditional(request, response, etag_of(run))


OF_A_COMMAND = [IDEMPOTENCY_KEY, IF_MATCH, sends("Location", 202), sends("ETag", 202)]


class CommandView(TenantView):
    """POST /v1/executions/{run_id}/pause|resume|cancel."""

    scopes = {"POST": Scope.CONTROL}
    refusals = {"POST": (CommandRefused, VersionChanged)}
    takes: ClassVar[type[StrictSerializer]] = NothingSerializer

    def command(self, request: Request, run_id: UUID, action: Any) -> HttpResponseBase:
        """Ask for the command; 202, because Portia is told by a job."""
        self.takes(data=request.data).is_valid(raise_exception=True)
        versions = if_match_versions(request.headers.get("If-Match"))

        def work() -> tuple[int, Any, dict[str, str]]:
            find_run(self.principal, run_id)
            run = action(run_id, by=self.principal.name, versions=versions)
            return 202, RunSerializer(run).data, {"Location": f"/v1/executions/{run_id}", "ETag": etag_of(run)}

        return answer_once(request, work)


class PauseView(CommandView):
    """Hold at the next step boundary."""

    @extend_schema(
        operation_id="pause_execution", summary="Pause a run", request=NothingSerializer,
        responses={202: RunSerializer},
        parameters=OF_A_COMMAND,
    )  # fmt: skip
    def post(self, request: Request, run_id: UUID) -> HttpResponseBase:
        """Pause the run."""
        return self.command(request, run_id, runs.pause)


class ResumeView(CommandView):
    """Go on."""

    refusals = {"POST": (CommandRefused, VersionChanged, CapabilityRefused, InvalidPlan)}
    takes = ResumeSerializer

    @extend_schema(
        operation_id="resume_execution", summary="Resume a run",
        description=(
            "Let a paused run go on. One whose `error.code` is `fresh_capability_needed` has outlived its capability token while "
            "people decided, and goes on only with a fresh one; other runs have no use for a token, but a bad one is refused."
        ),
        request=ResumeSerializer,
        responses={202: RunSerializer},
        parameters=[*OF_A_COMMAND, FRESH_TOKEN],
    )  # fmt: skip
    def post(self, request: Request, run_id: UUID) -> HttpResponseBase:
        """Resume the run."""
        serializer = self.takes(data=request.data)
        serializer.is_valid(raise_exception=True)
        with denials.recorded(tenant=self.principal.tenant, by=self.principal.name):
            return answered(request) or self._resumed(request, run_id, serializer.validated_data)

    def _resumed(self, request: Request, run_id: UUID, wishes: dict[str, Any]) -> HttpResponseBase:
        token = captokens.present(
            request.headers.get("X-Capability-Token") or wishes.get("capability_token"),
            tenant=self.principal.tenant,
            plan_hash=find_run(self.principal, run_id).plan.plan_hash,
        )
        return self.command(request, run_id, partial(runs.resume, token=token))


class CancelView(CommandView):
    """Start no further step."""

    @extend_schema(
        operation_id="cancel_execution", summary="Cancel a run", request=NothingSerializer,
        responses={202: RunSerializer},
        parameters=OF_A_COMMAND,
    )  # fmt: skip
    def post(self, request: Request, run_id: UUID) -> HttpResponseBase:
        """Cancel the run."""
        return self.command(request, run_id, runs.cancel)


def find_run(principal: Principal, run_id: UUID, *, wanted: frozenset[str] | None = None) -> Run:
    """Return a run of the caller's tenant, with what the wanted fields need. Raises NotFound; another tenant's does not exist."""
    rows = Run.objects.filter(tenant=principal.tenant, pk=run_id)
    run = narrow(rows, RunSerializer, wanted, also=("status", "version")).first()
    if run is None:
        raise NotFound(f"There is no execution {run_id}.")
    return run


def shown_run(principal: Principal, run_id: UUID, *, wanted: frozenset[str] | None = None) -> tuple[Run, Any]:
    """Return the run and how it shows, read until all of it is of one version. Raises NotFound."""
    while True:
        run = find_run(principal, run_id, wanted=wanted)
        shown = RunSerializer(run, only=wanted).data
        if Run.objects.filter(pk=run_id, version=run.version).exists():
            return run, shown


def etag_of(run: Run) -> str:
    """The run's entity tag: its version, which grows with everything that shows."""
    return f'"{run.version}"'


def read_version(request: Request) -> int | None:
    """Read `since`. Raises InvalidRequest for what is no version."""
    given = request.query_params.get("since")
    if given is None:
        return None
    if not (re.fullmatch("[0-9]{1,10}", given) and int(given) <= HIGHEST_VERSION):
        raise InvalidRequest(f"since: the version of the run you have, a number from 0 to {HIGHEST_VERSION}.")
    return int(given)


def preview_of(principal: Principal, submission: Submission) -> dict[str, Any]:
    """What a dry run says."""
    seen = previews.preview(
        tenant=principal.tenant, principal=principal.name, user=principal.user, submission=submission
    )
    return seen.to_json()


def submission_of(request: Request, wishes: dict[str, Any]) -> Submission:
    """What the request asks to run, and what the neighbours know about it; no transaction may be open."""
    tenant = cast("Principal", request.user).tenant
    runtime = portia().known_runtime(tenant=tenant.identifier)
    document = wishes.get("executable_plan")
    if document is None:
        document = plans.fetch_unknown(tenant=tenant, plan_hash=wishes["plan_hash"])
    return _submission(request, {**wishes, "executable_plan": document}, runtime)


def _submission(request: Request, wishes: dict[str, Any], runtime: Runtime) -> Submission:
    text = request.headers.get("X-Capability-Token") or wishes.get("capability_token")
    tenant, document = cast("Principal", request.user).tenant, wishes.get("executable_plan")
    token = captokens.present(text, tenant=tenant, document=document, plan_hash=wishes.get("plan_hash"))
    return Submission(
        executable_plan=document,
        plan_hash=wishes.get("plan_hash"),
        parameters=wishes["parameters"],
        variables=wishes["variables"],
        labels=wishes["labels"],
        validate_capabilities=wishes["validate_capabilities"],
        capability_token=token,
        hooks=wishes["hooks"],
        retry_policy=dict(wishes["retry_policy"]) if wishes.get("retry_policy") else None,
        timeout=wishes.get("timeout"),
        triggered_by=wishes.get("triggered_by", ""),
        correlation_id=wishes.get("correlation_id") or correlation_id(),
        traceparent=traceparent(),
        runtime=runtime,
    )
