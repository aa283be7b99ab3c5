"""A dry run: what would become of a submission, found by the very checks of `runs.start`. Reads only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, cast

from django.conf import settings
from django.db import connection
from django.utils.module_loading import import_string

from executions import limits
from executions.actions import runs
from executions.actions.runs import Checked, Submission
from executions.expressions import templates
from executions.models import Plan, Run, Tenant
from executions.portia.course import course
from executions.portia.needs import Runtime, needs
from executions.portia.questions import Question, questions
from executions.portia.translate import execution_order, translate
from executions.portia.wire import PortiaPlan
from executions.tool_arguments import check_arguments

MOST_ELIGIBLE = 50
MOST_NAMED = 10
DURATION = """
    SELECT count(*), percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds), percentile_cont(0.9) WITHIN GROUP (ORDER BY seconds)
    FROM (
        SELECT extract(epoch FROM finished_at - created_at)::float8 AS seconds FROM executions_run
        WHERE plan_id = %s AND status = 'completed' ORDER BY id DESC LIMIT 100
    ) AS latest
"""

Forecast = Callable[..., list[list[str]]]


@dataclass(frozen=True, kw_only=True)
class AllowedBy:
    """Which lists allow a tool; None where there is no such list."""

    plan: bool | None
    tenant: bool | None
    capability_token: bool | None


@dataclass(frozen=True, kw_only=True)
class ToolUse:
    """A tool and the steps that call it; `in_runtime` is None where the runtime does not say."""

    name: str
    steps: list[str]
    allowed_by: AllowedBy
    in_runtime: bool | None


@dataclass(frozen=True, kw_only=True)
class Approval(Question):
    """A question with the people who could decide it now: usernames, 50 at most, and how many they are in all."""

    eligible: list[str]
    eligible_count: int
    warning: str | None


@dataclass(frozen=True, kw_only=True)
class RuntimeFit:
    """What the plan needs of the runtime's optional capabilities; `missing` is None where that was not checked."""

    answers: bool
    kind: str | None
    needed: list[str]
    missing: list[str] | None


@dataclass(frozen=True, kw_only=True)
class Duration:
    """How long so many of the latest completed runs took, in seconds from acceptance to end, waits for people included."""

    runs: int
    median: float
    p90: float


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What a submission would do; that there is one says that nothing speaks against it."""

    plan_hash: str
    plan_name: str
    allowed_tools: list[str]
    capability: dict[str, Any]
    tools: list[ToolUse]
    step_order: list[str]
    approvals: list[Approval]
    runtime: RuntimeFit
    estimated_duration: Duration | None
    warnings: list[str]
    portia_plan: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "dry_run": True,
            **vars(self),
            "tools": [asdict(one) for one in self.tools],
            "approvals": [asdict(one) for one in self.approvals],
            "runtime": asdict(self.runtime),
            "estimated_duration": asdict(self.estimated_duration) if self.estimated_duration else None,
        }


def preview(*, tenant: Tenant, principal: str, user: Any, submission: Submission) -> Preview:
    """Say what `runs.start` would do with these arguments. Raises what that would raise, too many runs at once apart."""
    checked = runs.check(tenant=tenant, submission=submission)
    run = _drafted_run(tenant=tenant, principal=principal, user=user, submission=submission, checked=checked)
    plan = translate(
        checked.document, allowed_tools=run.allowed_tools, timeout=run.timeout, retry_policy=run.retry_policy
    )
    approvals = _approvals(run, plan)
    return Preview(
        plan_hash=checked.document.plan_hash,
        plan_name=checked.document.name,
        allowed_tools=run.allowed_tools,
        capability=run.capability,
        tools=_tools(tenant, checked, plan, submission.runtime),
        step_order=execution_order(checked.document),
        approvals=approvals,
        runtime=_fit(plan, submission.runtime),
        estimated_duration=_estimated_duration(run.plan),
        warnings=list(_warnings(tenant, submission, checked, approvals)),
        portia_plan=plan.to_json(),
    )


def _drafted_run(*, tenant: Tenant, principal: str, user: Any, submission: Submission, checked: Checked) -> Run:
    """The run as it would be accepted, of the plan as it is stored or would be."""
    stored = Plan.objects.filter(tenant=tenant, plan_hash=checked.document.plan_hash).defer("document")
    plan = checked.plan or stored.first() or Plan(tenant=tenant, created_by=principal, created_by_user=user)
    return runs.draft(tenant=tenant, principal=principal, user=user, plan=plan, submission=submission, checked=checked)


def _tools(tenant: Tenant, checked: Checked, plan: PortiaPlan, runtime: Runtime) -> list[ToolUse]:
    steps: dict[str, list[str]] = {}
    for station in course(plan):
        if station.tool:
            steps.setdefault(station.tool, []).append(station.path)
    of_plan, of_token = checked.document.security_context.allowed_tools or None, checked.admission.validation.tools
    return [
        ToolUse(
            name=name,
            steps=steps[name],
            allowed_by=AllowedBy(
                plan=_is_among(name, of_plan),
                tenant=_is_among(name, tenant.allowed_tools),
                capability_token=_is_among(name, of_token),
            ),
            in_runtime=_is_among(name, runtime.tools),
        )
        for name in sorted(steps)
    ]


def _is_among(name: str, words: Iterable[str] | None) -> bool | None:
    return None if words is None else name in words


def _approvals(run: Run, plan: PortiaPlan) -> list[Approval]:
    asked = list(questions(plan))
    forecast = cast("Forecast", import_string(settings.APPROVAL_FORECAST))
    return [_approval(*one) for one in zip(asked, forecast(run=run, questions=asked), strict=True)] if asked else []


def _approval(question: Question, deciders: list[str]) -> Approval:
    return Approval(
        **vars(question),
        eligible=deciders[:MOST_ELIGIBLE],
        eligible_count=len(deciders),
        warning=_doubt(question, deciders),
    )


def _doubt(question: Question, deciders: list[str]) -> str | None:
    if any(templates(name) for name in question.required_approvers):
        return "Who may decide this is known only when it is asked: required_approvers holds a template."
    if deciders:
        return None
    is_named = ", and is named in required_approvers" if question.required_approvers else ""
    who = f"somebody of the tenant who has the right to decide and did not ask for the run{is_named}"
    return f"Nobody could decide this today: it takes {who}."


def _fit(plan: PortiaPlan, runtime: Runtime) -> RuntimeFit:
    needed = needs(plan)
    missing = None if runtime.capabilities is None else sorted(needed - runtime.capabilities)
    return RuntimeFit(answers=runtime.answers, kind=runtime.kind, needed=sorted(needed), missing=missing)


def _estimated_duration(plan: Plan) -> Duration | None:
    with connection.cursor() as cursor:
        cursor.execute(DURATION, [plan.pk])
        count, median, p90 = cursor.fetchone()
    return Duration(runs=count, median=round(median, 3), p90=round(p90, 3)) if count else None


def _warnings(tenant: Tenant, submission: Submission, checked: Checked, approvals: list[Approval]) -> Iterator[str]:
    validation = checked.admission.validation
    if validation.mode == "development_without_token":
        yield "There is no capability token: production would refuse this."
    yield from validation.warnings
    if checked.document.tools() and not checked.document.security_context.allowed_tools:
        yield "security_context.allowed_tools is empty: production would refuse this."
    if submission.hooks:
        yield f"Hooks are not called in a dry run and may still refuse the run: {', '.join(submission.hooks)}."
    quota = limits.runs_left(tenant)
    if quota and quota.is_exceeded:
        yield f"{quota.limit} runs have not ended, which is the most this tenant may have: just now this would be refused."
    if validation.expires_at and _waits_ask_for_a_token(checked, approvals):
        yield (
            f"After a wait for people that lasts beyond {validation.expires_at:%Y-%m-%d %H:%M:%S} UTC, the end of the capability "
            "token, the run goes on only when it is resumed with a fresh one (security_context.fresh_capability_after_wait)."
        )
    yield from _unchecked(submission.runtime, checked)
    yield from _doubts(approvals)


def _waits_ask_for_a_token(checked: Checked, approvals: list[Approval]) -> bool:
    plan = checked.document
    return plan.security_context.fresh_capability_after_wait and (bool(approvals) or plan.needs_llm)


def _doubts(approvals: list[Approval]) -> Iterator[str]:
    """Each doubt once, after the steps it is about."""
    steps: dict[str, list[str]] = {}
    for one in approvals:
        if one.warning:
            steps.setdefault(one.warning, []).append(one.step_id)
    for warning, ids in steps.items():
        more = f" and {len(ids) - MOST_NAMED} more" if len(ids) > MOST_NAMED else ""
        yield f"{', '.join(ids[:MOST_NAMED])}{more}: {warning}"


def _unchecked(runtime: Runtime, checked: Checked) -> Iterator[str]:
    if not runtime.answers:
        yield "The Portia Runtime does not answer: tools and capabilities were not checked."
        return
    if runtime.tools is None:
        yield "The Portia Runtime does not list its tools: they were not checked."
    if runtime.capabilities is None:
        yield "The Portia Runtime does not list its capabilities: they were not checked."
    tools = sorted(check_arguments(checked.document, runtime.schemas).unchecked)
    if tools:
        more = f" and {len(tools) - MOST_NAMED} more" if len(tools) > MOST_NAMED else ""
        names = ", ".join(tools[:MOST_NAMED])
        yield f"What these tools take cannot be told from their args_schema, so arguments were not checked: {names}{more}."
