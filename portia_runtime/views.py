"""The routes of the contract. Each view reads its request, calls one function, and says the result in JSON."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from django.db import Error, connection
from django.http import HttpRequest, HttpResponse, HttpResponseNotModified, JsonResponse
from pydantic import Field, StrictBool, StrictStr

from portia_runtime import answers, plans, runs, tools, wire
from portia_runtime.answers import Decision
from portia_runtime.documents import JSON, DocumentError
from portia_runtime.incoming import (
    Body,
    View,
    idempotency_key,
    json_body,
    moment,
    read_body,
    seconds_to_wait,
    whole_number,
    with_key,
)
from portia_runtime.models import Clarification, ClarificationStatus, Plan, Run, RunStatus
from portia_runtime.pages import changed_after, page_of
from portia_runtime.problems import Problem
from portia_runtime.watchers import Watchers

CAPABILITIES = [
    "idempotency", "long_poll", "batch_runs", "parallel", "retry", "step_timeout", "run_timeout", "rollback",
    "conditions", "loops", "clarification_timeout",
]  # fmt: skip
MAX_IDS = 100
MAX_WATCHERS = 8
STARTED = time.monotonic()

watchers = Watchers(MAX_WATCHERS)


class NewRun(Body):
    """The body of POST /runs."""

    plan_id: StrictStr
    parameters: dict[str, Any] | None = None
    variables: dict[str, Any] | None = None
    triggered_by: StrictStr | None = None
    end_user_id: StrictStr | None = None
    correlation_id: StrictStr | None = None
    metadata: dict[str, Any] | None = None
    auto_resume: StrictBool | None = None


class Answer(Body):
    """The body of POST /clarifications/{id}/respond."""

    approved: StrictBool | None = None
    approver_id: StrictStr = Field(min_length=1, max_length=500)
    response: Any = None
    reason: StrictStr | None = None
    metadata: dict[str, Any] | None = None
    action_digest: StrictStr | None = None


# -- health and tools


def health(request: HttpRequest) -> HttpResponse:
    """Whether the runtime can work, and what it can."""
    try:
        running, ok = Run.objects.filter(status=RunStatus.RUNNING).count(), True
    except Error:
        connection.close()
        running, ok = 0, False
    body = {
        "status": "ok" if ok else "unavailable",
        "runtime": "embedded",
        "api_version": "v1",
        "sdk_version": None,
        "llm": False,
        "uptime_seconds": round(time.monotonic() - STARTED, 1),
        "runs": {"running": running},
        "capabilities": CAPABILITIES,
    }
    return JsonResponse(body, status=200 if ok else 503)


@with_key
def list_tools(request: HttpRequest, *, tenant: str) -> HttpResponse:
    """Every tool's manifest."""
    return JsonResponse({"tools": [tool.manifest for tool in tools.every_tool()]})


# -- plans


@with_key
def create_plan(request: HttpRequest, *, tenant: str) -> HttpResponse:
    """Store a plan; the same one again is 200."""
    document = json_body(request)
    if not isinstance(document, dict):
        raise Problem("invalid_plan", "plan is not valid", errors=[{"loc": "$", "msg": "a plan is a JSON object"}])
    plan, created = plans.create(tenant=tenant, document=document)
    headers = {"Location": f"/api/v1/plans/{plan.plan_id}"} if _is_plain(plan) else {}
    return JsonResponse(wire.plan(plan), status=201 if created else 200, headers=headers)


def _is_plain(plan: Plan) -> bool:
    return re.fullmatch(r"[\w.~:-]+", plan.plan_id, re.ASCII) is not None


@with_key
def get_plan(request: HttpRequest, *, tenant: str, plan_id: str) -> HttpResponse:
    """A stored plan."""
    return JsonResponse(wire.plan(plans.get(tenant=tenant, plan_id=plan_id)))


# -- runs


@with_key
def create_run(request: HttpRequest, *, tenant: str) -> HttpResponse:
    """Start a run, once per Idempotency-Key."""
    body = json_body(request)
    fields = {key: value for key, value in read_body(NewRun, body, "invalid_request") if value is not None}
    run, replayed = _created(tenant, fields, body, idempotency_key(request))
    headers = {"Location": f"/api/v1/runs/{run.run_id}", "ETag": f'"{run.version}"'}
    if replayed:
        return JsonResponse(wire.run(run), headers={**headers, "Idempotency-Replayed": "true"})
    return JsonResponse(wire.new_run(run), status=201, headers=headers)


def _created(tenant: str, fields: JSON, body: Any, key: str | None) -> tuple[Run, bool]:
    try:
        return runs.create(tenant=tenant, fields=fields, body=body, key=key)
    except DocumentError as error:
        raise Problem("invalid_request", f"the body {error}") from None


@with_key
def get_run(request: HttpRequest, *, tenant: str, run_id: str) -> HttpResponse:
    """A run; with `wait` and `since`, as soon as it is newer than that version."""
    run = _changed_run(tenant, run_id, wait=seconds_to_wait(request), since=whole_number(request, "since", default=-1))
    tag = f'"{run.version}"'
    if request.headers.get("If-None-Match") in (tag, f"W/{tag}"):
        return HttpResponseNotModified(headers={"ETag": tag})
    return JsonResponse(wire.run(run), headers={"ETag": tag})


def _changed_run(tenant: str, run_id: str, *, wait: float, since: int) -> Run:
    if not wait or since < 0:
        return _find_run(tenant, run_id)
    deadline = time.monotonic() + wait
    with watchers.watching(run_id) as changed:
        while True:
            run = _find_run(tenant, run_id)
            left = deadline - time.monotonic()
            if changed is None or run.version > since or run.has_ended or left <= 0 or not watchers.is_open:
                return run
            changed.wait(left)
            changed.clear()


def _find_run(tenant: str, run_id: str) -> Run:
    run = Run.objects.filter(pk=run_id, tenant=tenant).first()
    if run is None:
        raise Problem("run_not_found", f"there is no run {run_id!r}")
    return run


@with_key
def list_runs(request: HttpRequest, *, tenant: str) -> HttpResponse:
    """Runs by id in the order asked, or by filter with the oldest change first."""
    if "ids" in request.GET:
        return JsonResponse(_batch(tenant, request.GET["ids"]))
    query = Run.objects.filter(tenant=tenant)
    status = request.GET.get("status")
    if status:
        unknown = set(status.split(",")) - set(RunStatus.values)
        if unknown:
            raise Problem("invalid_request", f"status: there is no {', '.join(sorted(unknown))}")
        query = query.filter(status__in=status.split(","))
    if plan_id := request.GET.get("plan_id"):
        query = query.filter(plan__plan_id=plan_id)
    if since := request.GET.get("updated_since"):
        query = query.filter(updated_at__gte=moment(since))
    limit = min(whole_number(request, "limit", default=50, least=1), MAX_IDS)
    rows, cursor = page_of(changed_after(query, request.GET.get("cursor")), limit)
    return JsonResponse({"runs": wire.runs(rows), "missing": [], "count": len(rows), "next_cursor": cursor})


def _batch(tenant: str, text: str) -> JSON:
    ids = list(dict.fromkeys(one for one in text.split(",") if one))
    if len(ids) > MAX_IDS:
        raise Problem("too_many_ids", f"{len(ids)} ids were asked for; at most {MAX_IDS} at once")
    found = Run.objects.filter(tenant=tenant).in_bulk(ids)
    rows = [found[one] for one in ids if one in found]
    missing = [one for one in ids if one not in found]
    return {"runs": wire.runs(rows), "missing": missing, "count": len(rows), "next_cursor": None}


def _command(action: Callable[..., tuple[Run, bool]]) -> View:
    """A view for pause, resume and cancel: 200 when it is so already, 202 when it is under way."""

    @with_key
    def view(request: HttpRequest, *, tenant: str, run_id: str) -> HttpResponse:
        run, is_done = action(tenant=tenant, run_id=run_id)
        return JsonResponse(wire.run(run), status=200 if is_done else 202, headers={"ETag": f'"{run.version}"'})

    return view


pause_run = _command(runs.pause)
resume_run = _command(runs.resume)
cancel_run = _command(runs.cancel)


# -- clarifications


@with_key
def list_clarifications(request: HttpRequest, *, tenant: str, run_id: str | None = None) -> HttpResponse:
    """The questions of a run, or of all runs."""
    query = Clarification.objects.filter(tenant=tenant).order_by("requested_at", "clarification_id")
    if run_id is not None:
        _find_run(tenant, run_id)
        query = query.filter(run_id=run_id)
    status = request.GET.get("status")
    if status:
        if status not in ClarificationStatus.values:
            raise Problem("invalid_request", f"status must be one of {', '.join(ClarificationStatus.values)}")
        query = query.filter(status=status)
    return JsonResponse(wire.clarifications(query[:1_000] if run_id is None else query))


@with_key
def get_clarification(request: HttpRequest, *, tenant: str, clarification_id: str) -> HttpResponse:
    """One question."""
    row = Clarification.objects.filter(pk=clarification_id, tenant=tenant).first()
    if row is None:
        raise Problem("clarification_not_found", f"there is no clarification {clarification_id!r}")
    return JsonResponse(wire.clarification(row))


@with_key
def respond(request: HttpRequest, *, tenant: str, clarification_id: str) -> HttpResponse:
    """Record the decision."""
    answer = read_body(Answer, json_body(request), "invalid_response")
    has_response = "response" in answer.model_fields_set and answer.response is not None
    if answer.approved is None and not has_response:
        raise Problem("invalid_response", "approved must be true or false")
    decision = Decision(
        approved=answer.approved,
        approver_id=answer.approver_id,
        has_response=has_response,
        response=answer.response,
        reason=answer.reason,
        metadata=answer.metadata or {},
        action_digest=answer.action_digest,
    )
    row, is_repeat = answers.respond(tenant=tenant, clarification_id=clarification_id, decision=decision)
    headers = {"Idempotency-Replayed": "true"} if is_repeat else {}
    return JsonResponse(wire.clarification(row), headers=headers)
