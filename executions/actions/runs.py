"""Runs, as people and programs ask for them: start, pause, resume, cancel, wait.

Everything here writes rows only; Portia is told by the jobs in remote_runs.py.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.utils import timezone

from executions import audit, events, limits
from executions.actions import plans, renewals
from executions.admission import Admission, admit
from executions.captokens import SignedToken
from executions.errors import CommandRefused, InvalidRequest, NotFound, VersionChanged
from executions.feasibility import check_runtime
from executions.labels import merged
from executions.models import Command, Kind, Plan, Run, RunReason, RunStatus, RunStep, Tenant, Work
from executions.plan_document import ExecutablePlan
from executions.portia.needs import UNKNOWN, Runtime
from executions.portia.translate import execution_order, translate


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What a caller asks to run; either the document or the hash of a stored one. `timeout` in active seconds."""

    executable_plan: dict[str, Any] | None = None
    plan_hash: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    validate_capabilities: bool = True
    capability_token: SignedToken | None = None  # read before any transaction
    hooks: list[str] = field(default_factory=list)
    retry_policy: dict[str, Any] | None = None
    timeout: float | None = None
    triggered_by: str = ""
    correlation_id: str = ""
    traceparent: str = ""
    runtime: Runtime = UNKNOWN  # what is known of it; asked before any transaction


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A submission that nothing speaks against; `plan` is None where it is not stored yet."""

    plan: Plan | None
    document: ExecutablePlan
    admission: Admission


def start(*, tenant: Tenant, principal: str, submission: Submission, user: Any = None) -> Run:
    """Accept a submission as a pending run; `user` is the person the principal's key belongs to, if any.

    Needs the caller's transaction; a crash leaves nothing behind.

    Raises InvalidRequest, InvalidPlan, NotFound, CapabilityRefused or TooManyRuns before anything is written.
    """
    checked = check(tenant=tenant, submission=submission)
    limits.check_concurrency(tenant)
    plan = checked.plan or _stored(
        tenant=tenant, principal=principal, user=user, submission=submission, checked=checked
    )
    run = draft(tenant=tenant, principal=principal, user=user, plan=plan, submission=submission, checked=checked)
    run.save(force_insert=True)
    events.record(
        run=run,
        kind=events.ACCEPTED,
        by=principal,
        data={"plan_hash": plan.plan_hash, "triggered_by": run.triggered_by},
    )
    _record_acceptance(run, plan, by=principal)
    Work.objects.schedule(run.pk, Kind.LAUNCH)
    return run


def check(*, tenant: Tenant, submission: Submission) -> Checked:
    """Find everything wrong with a submission: for `start`, and for a dry run. Writes nothing.

    Raises InvalidRequest, InvalidPlan, NotFound or CapabilityRefused.
    """
    plan, document = _read_plan(tenant=tenant, submission=submission)
    _check_hooks(submission)
    overridden = [name for name in ("timeout", "retry_policy") if getattr(submission, name) is not None]
    translated = translate(document, timeout=submission.timeout, retry_policy=submission.retry_policy)
    check_runtime(document=document, plan=translated, runtime=submission.runtime, overridden=overridden)
    admission = admit(
        plan=document,
        tenant=tenant,
        token=submission.capability_token,
        now=timezone.now(),
        validate_capabilities=submission.validate_capabilities,
    )
    return Checked(plan=plan, document=document, admission=admission)


def allowed_commands(run: Run) -> list[str]:
    """Name the commands this run's status allows now."""
    if run.is_terminal:
        return []
    if run.requested == Command.CANCEL:
        return [Command.CANCEL]
    pausing = run.requested == Command.PAUSE or run.pause_pending or run.reason == RunReason.PAUSE_REQUESTED
    return [Command.RESUME if pausing else Command.PAUSE, Command.CANCEL]


def steps_of(run: Run) -> list[RunStep]:
    """Return the run's steps in order: as Portia last reported them, or as the plan has them before the launch."""
    if run.portia_run_id:
        return list(run.steps.order_by("position"))
    document = plans.parsed(run.plan_id)
    steps = {step.step_id: step for step in document.main.steps}
    return [
        RunStep(run=run, step_id=i, position=n, name=steps[i].name or i, step_type=steps[i].step_type, status="pending")
        for n, i in enumerate(execution_order(document))
    ]


ACTION_OF_COMMAND = {
    Command.PAUSE: "execution.pause_requested",
    Command.RESUME: "execution.resume_requested",
    Command.CANCEL: "execution.cancel_requested",
}
Versions = frozenset[int] | None  # of a run a command is meant for; None: any


def pause(run_id: UUID, *, by: str, versions: Versions = None) -> Run:
    """Hold the run at the next step boundary. Raises CommandRefused when it has ended; repeating changes nothing.

    Every command raises VersionChanged where `versions` are named and the run's is none of them.
    """
    return _request(run_id, Command.PAUSE, by=by, versions=versions)


def resume(run_id: UUID, *, by: str, versions: Versions = None, token: SignedToken | None = None) -> Run:
    """Let a paused run go on, or withdraw a pause that has not taken hold.

    A run that waits for a fresh `token`, or has outlived its own while it was paused, is let in anew by it. Raises
    CapabilityRefused where it is missing or does not do; then nothing has changed.
    """
    return _request(run_id, Command.RESUME, by=by, versions=versions, token=token)


def cancel(run_id: UUID, *, by: str, versions: Versions = None) -> Run:
    """End the run: no new step starts. A run that was never sent to Portia is cancelled at once."""
    return _request(run_id, Command.CANCEL, by=by, versions=versions)


def wait(run_id: UUID, *, seconds: float, since: int | None = None, or_stopped: bool = False) -> None:
    """Return when the run has ended, is gone or has passed the version `since`, or after `seconds`. Sleeps on NOTIFY.

    `or_stopped`: also when it is paused, and whom it waits for has been asked. Must be outside a transaction.
    """
    deadline = time.monotonic() + seconds
    with connection.cursor() as cursor:
        cursor.execute("LISTEN run_changed")
    try:
        while not _is_news(run_id, since=since, or_stopped=or_stopped) and (left := deadline - time.monotonic()) > 0:
            for notice in connection.connection.notifies(timeout=left):
                if notice.payload == str(run_id):
                    break
    finally:
        with connection.cursor() as cursor:
            cursor.execute("UNLISTEN run_changed")


def _is_news(run_id: UUID, *, since: int | None, or_stopped: bool) -> bool:
    run = Run.objects.filter(pk=run_id).only("status", "reason", "version").first()
    if run is None or run.is_terminal or (since is not None and run.version > since):
        return True
    return (
        or_stopped and run.status == RunStatus.PAUSED and (run.reason == RunReason.PAUSE_REQUESTED or _has_asked(run))
    )


def _has_asked(run: Run) -> bool:
    """Whether the paused run's question has reached those who answer it, which a job sees to."""
    newest = run.events.order_by("-sequence").values_list("type", flat=True).first()
    return newest != events.PAUSED


def _read_plan(*, tenant: Tenant, submission: Submission) -> tuple[Plan | None, ExecutablePlan]:
    if submission.executable_plan is None:
        return plans.known(tenant=tenant, plan_hash=submission.plan_hash or "")
    document = plans.check(tenant=tenant, document=submission.executable_plan)
    if submission.plan_hash and submission.plan_hash != document.plan_hash:
        detail = f"The document's hash is {document.plan_hash}. Send that one, or leave plan_hash out."
        raise InvalidRequest(
            "plan_hash is not the hash of executable_plan.",
            errors=[{"pointer": "/plan_hash", "code": "plan_hash_mismatch", "detail": detail}],
        )
    return None, document


def _check_hooks(submission: Submission) -> None:
    if submission.hooks:
        raise InvalidRequest(
            "No execution hook of this name is registered.",
            errors=[
                {
                    "pointer": f"/hooks/{i}",
                    "code": "unknown_hook",
                    "detail": f"There is no hook {name!r}; leave it out.",
                }
                for i, name in enumerate(submission.hooks)
            ],
        )


def _stored(*, tenant: Tenant, principal: str, user: Any, submission: Submission, checked: Checked) -> Plan:
    document = submission.executable_plan or {}
    plan, _ = plans.store(tenant=tenant, document=document, parsed=checked.document, by=principal, user=user)
    return plan


def draft(*, tenant: Tenant, principal: str, user: Any, plan: Plan, submission: Submission, checked: Checked) -> Run:
    """Return the run of a submission, not saved."""
    return Run(
        tenant=tenant,
        plan=plan,
        parameters=submission.parameters,
        variables=submission.variables,
        retry_policy=submission.retry_policy,
        timeout=submission.timeout,
        hooks=submission.hooks,
        capability=checked.admission.validation.to_json(),
        allowed_tools=checked.admission.allowed_tools,
        triggered_by=submission.triggered_by or principal,
        requested_by=principal,
        requested_by_user=user,
        correlation_id=submission.correlation_id,
        traceparent=submission.traceparent,
        labels=merged(checked.document.metadata, submission.labels),
    )


def _record_acceptance(run: Run, plan: Plan, *, by: str) -> None:
    capability = {name: run.capability[name] for name in ("mode", "token_id", "subject", "capabilities", "expires_at")}
    audit.record(
        action="execution.accepted",
        subject=f"execution/{run.pk}",
        by=by,
        tenant_id=run.tenant_id,
        after={"plan_hash": plan.plan_hash, "triggered_by": run.triggered_by, "capability": capability},
    )


def _request(run_id: UUID, command: Command, *, by: str, versions: Versions, token: SignedToken | None = None) -> Run:
    with transaction.atomic():
        run = Run.objects.select_for_update().filter(pk=run_id).first()
        if run is None:
            raise NotFound(f"There is no execution {run_id}.")
        if versions is not None and run.version not in versions:
            raise VersionChanged(current_version=run.version, allowed_commands=allowed_commands(run))
        if _is_fulfilled(run, command):
            return run
        _check_allowed(run, command)
        if command == Command.RESUME:
            renewals.freshen(run, token=token, by=by)
        _note_command(run, command, by=by)
        if not (_settle_before_launch(run, command) or _settle_held(run, command, by=by, token=token)):
            run.requested = command
            run.touch("requested")
            Work.objects.schedule(run.pk, Kind.COMMAND)
    return run


def _note_command(run: Run, command: Command, *, by: str) -> None:
    run.awaited, run.commanded_by = command, by
    run.save(update_fields=["awaited", "commanded_by"])
    audit.record(
        action=ACTION_OF_COMMAND[command],
        subject=f"execution/{run.pk}",
        by=by,
        tenant_id=run.tenant_id,
        before={"status": run.status, "reason": run.reason, "requested": run.requested},
        correlation=run.correlation_id,
    )


def _is_fulfilled(run: Run, command: Command) -> bool:
    """Whether the run is where the command would bring it, or is being brought there already."""
    if command == Command.CANCEL:
        return run.status == RunStatus.CANCELLED or run.requested == Command.CANCEL
    held = run.reason == RunReason.PAUSE_REQUESTED or run.pause_pending
    if command == Command.PAUSE:
        return run.requested == Command.PAUSE or (held and not run.requested)
    going_on = run.status in (RunStatus.PENDING, RunStatus.RUNNING) and not held
    is_resumed = run.requested == Command.RESUME and not renewals.is_held(run)
    return is_resumed or (going_on and not run.requested)


def _check_allowed(run: Run, command: Command) -> None:
    allowed = allowed_commands(run)
    if command in allowed:
        return
    if run.is_terminal:
        why = "can no longer be told to"
    elif run.requested == Command.CANCEL:
        why = "is being cancelled and cannot be told to"
    else:
        why = "waits for a decision and cannot be told to"
    raise CommandRefused(
        f"The run is {run.status}; it {why} {command}.",
        current_status=run.status,
        current_reason=run.reason,
        allowed_commands=allowed,
    )


def _settle_before_launch(run: Run, command: Command) -> bool:
    """Carry the command out here and now while Portia cannot know the run; False where Portia has to be told."""
    if run.portia_run_id or run.status not in (RunStatus.PENDING, RunStatus.PAUSED):
        return False
    launch = Work.objects.select_for_update().filter(run=run, kind=Kind.LAUNCH).first()
    if launch is not None and (launch.lease_token is not None or launch.attempts > run.unsent_attempts):
        return False  # a launch is under way, or one ended without an answer: Portia may know the run
    if command == Command.RESUME:
        if run.status == RunStatus.PAUSED:
            run.transition(RunStatus.PENDING, RunReason.ACCEPTED)
        Run.objects.filter(pk=run.pk).update(unsent_attempts=0)
        Work.objects.schedule(run.pk, Kind.LAUNCH)
        return True
    Work.objects.filter(run=run, kind=Kind.LAUNCH).delete()
    if command == Command.CANCEL:
        run.transition(RunStatus.CANCELLED, RunReason.CANCEL_REQUESTED)
    else:
        run.transition(RunStatus.PAUSED, RunReason.PAUSE_REQUESTED)
    return True


def _settle_held(run: Run, command: Command, *, by: str, token: SignedToken | None) -> bool:
    """End the hold of a run that is kept back here; False for any other, and any other command: those Portia is told.

    It would refuse to resume a run that waits for an answer. A pause that a person asked for stays, until it is resumed itself.
    """
    if command != Command.RESUME or not renewals.is_held(run):
        return False
    run.awaited = ""  # saved with the renewal
    renewals.renew(run, token=token, by=by)
    return True


def delete_finished(*, before: datetime, batch: int = 500, by: str = "command line") -> int:
    """Delete runs that ended before this moment (UTC), some at a time so that no lock is held long; returns how many."""
    deleted = 0
    while found := list(Run.objects.finished_before(before).values_list("tenant", "pk")[:batch]):
        with transaction.atomic():
            Run.objects.filter(pk__in=[pk for _, pk in found]).delete()
            for tenant_id, count in sorted(Counter(tenant_id for tenant_id, _ in found).items()):
                after = {"count": count, "finished_before": audit.written(before)}
                audit.record(action="execution.deleted", subject="executions", by=by, tenant_id=tenant_id, after=after)
        deleted += len(found)
    return deleted
