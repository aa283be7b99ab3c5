"""Runs, as Portia knows them: launch, sync, deliver commands. Called by jobs only.

Each function works one batch:
1. claim due work rows (a lease, in one statement);
2. talk to Portia, outside any transaction, several calls at a time;
3. per run, one short transaction: lock the run, look at its state, write what is new, settle the work row.
A killed worker's rows come back when the lease ends. A repeat finds the same remote run, because `POST /runs` carries our run
id as its key, and writes nothing, because a snapshot older than `portia_version` is dropped.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from django.db import transaction
from django.utils import timezone

from executions.actions import denials, plans, snapshots, withdrawals
from executions.admission import check_still_admitted
from executions.errors import CapabilityRefused, InvalidPlan
from executions.models import Command, Kind, Run, RunReason, RunStatus, Work
from executions.plan_document import ExecutablePlan
from executions.portia.client import portia
from executions.portia.errors import (
    InvalidState,
    PlanNotFound,
    PortiaError,
    PortiaTimeout,
    PortiaUnavailable,
    PortiaUnreachable,
    RunNotFound,
    Unauthorized,
)
from executions.portia.translate import translate
from executions.portia.wire import PortiaPlan, PortiaPlanRun
from orchestrator_project.telemetry import correlated

logger = logging.getLogger(__name__)

SYNC_BATCH = 100  # ids in one call, by the contract
LEASE = 15.0  # seconds; a call that takes longer may be made twice, under the same key
SILENT = (PortiaUnreachable, PortiaTimeout, PortiaUnavailable)
PARALLEL_CALLS = 8  # and rows per batch: one round of calls has to end within the lease
FIRST_SYNC = 0.03  # seconds after the launch
SLOWEST_SYNC = 15.0
WAITING_SYNC = 30.0  # while a person decides; what he decides makes the run due at once
LOST_AFTER = timedelta(seconds=30)
MISCONFIGURED_RETRY = 30.0
FOUND = ("portia_run_id", "portia_plan_id")


@dataclass(frozen=True, kw_only=True)
class Errand:
    """A run about which Portia is to be called, and the work row that says so."""

    work: Work
    run: Run


@dataclass(frozen=True, kw_only=True)
class Launch(Errand):
    """A run that is ready to be sent."""

    plan: PortiaPlan


AnyErrand = TypeVar("AnyErrand", bound=Errand)


def launch() -> int:
    """Start accepted runs at Portia; returns how many work rows were taken."""
    works = Work.objects.claim(Kind.LAUNCH, limit=PARALLEL_CALLS, lease=LEASE)
    runs = _load_runs(works)
    launches: list[Launch] = []
    for work in works:
        with Work.objects.attempt(work):
            launches += _prepare(work, runs[work.run_id])
    for ready, answer in _in_parallel(_create_remote, launches):
        with Work.objects.attempt(ready.work):
            _settle_launch(ready, _known_answer(answer))
    return len(works)


def sync() -> int:
    """Ask Portia about the runs that are due, one call per tenant, and write what changed; returns rows taken."""
    works = Work.objects.claim(Kind.SYNC, limit=_sync_limit(), lease=LEASE)
    runs = _load_runs(works)
    _drop_settled(works, runs)
    by_tenant: dict[str, list[Work]] = defaultdict(list)
    for work in works:
        if not runs[work.run_id].is_terminal:
            by_tenant[runs[work.run_id].tenant.identifier].append(work)
    silent: PortiaError | None = None
    for tenant, group in by_tenant.items():
        error = silent or _sync_tenant(tenant, group, runs)
        if error:
            _put_off(group, error)
        if isinstance(error, SILENT):  # the next tenant's call would only time out as well
            silent = error
    return len(works)


def deliver_commands() -> int:
    """Tell Portia what people asked of their runs; returns rows taken."""
    works = Work.objects.claim(Kind.COMMAND, limit=PARALLEL_CALLS, lease=LEASE)
    runs = _load_runs(works)
    errands = []
    for work in works:
        with Work.objects.attempt(work):
            errands += _command(work, runs[work.run_id])
    for errand, answer in _in_parallel(_send_command, errands):
        with Work.objects.attempt(errand.work):
            _settle_command(errand.work, errand.run, _known_answer(answer))
    return len(works)


# -- launch


def _prepare(work: Work, run: Run) -> list[Launch]:
    """Check once more that the run may start; settle it here where it may not, and return nothing."""
    if denials.is_over_here(run) and _may_be_there(work, run):
        _withdraw(work, run)
        return []
    if run.status != RunStatus.PENDING or (run.requested == Command.CANCEL and _cancelled_unsent(work)):
        Work.objects.done([work])
        return []
    try:
        document = plans.parsed(run.plan_id)
        _narrow(work, run, document)
    except (InvalidPlan, CapabilityRefused) as refused:
        _refuse(work, run, refused)
        return []
    return [Launch(work=work, run=run, plan=_translated(run, document))]


def _translated(run: Run, document: ExecutablePlan) -> PortiaPlan:
    return translate(document, allowed_tools=run.allowed_tools, timeout=run.timeout, retry_policy=run.retry_policy)


def _narrow(work: Work, run: Run, document: ExecutablePlan) -> None:
    """Check the run's rights once more, and leave it the tools it may call by now; raises CapabilityRefused.

    A run that Portia may know already keeps its list: the same request has to be sent again.
    """
    tools = check_still_admitted(plan=document, tenant=run.tenant, capability=run.capability, tools=run.allowed_tools)
    if tools != run.allowed_tools and not _may_be_there(work, run):
        run.allowed_tools = tools
        run.save(update_fields=["allowed_tools"])


def _cancelled_unsent(work: Work) -> bool:
    """Cancel the run here if somebody asked for it and no earlier attempt can have reached Portia."""
    with transaction.atomic():
        run = Run.objects.select_for_update().get(pk=work.run_id)
        if run.requested != Command.CANCEL or _may_be_there(work, run):
            return False
        run.transition(RunStatus.CANCELLED, RunReason.CANCEL_REQUESTED)
    return True


def _may_be_there(work: Work, run: Run) -> bool:
    """Whether an earlier attempt of this launch may have reached Portia."""
    return work.attempts - 1 > run.unsent_attempts


def _refuse(work: Work, run: Run, refused: InvalidPlan | CapabilityRefused) -> None:
    """End a run that may not start; where it may have, the launch's row stays until that is undone at Portia."""
    is_unsure = _may_be_there(work, run)
    with transaction.atomic():
        run = Run.objects.select_for_update(of=("self",)).select_related("tenant").get(pk=run.pk)
        if not run.is_terminal and isinstance(refused, CapabilityRefused):
            denials.end(run, refused)
        elif not run.is_terminal:
            error = {"code": refused.code, "message": str(refused)}
            run.transition(RunStatus.FAILED, RunReason.PLAN_REFUSED, by="orchestrator", error=error)
        if not is_unsure:
            Work.objects.done([work])
    if is_unsure:
        _withdraw(work, run)


def _withdraw(work: Work, run: Run) -> None:
    """Find what Portia has made of a run that is over here, and have it cancelled there; or see to it that it never starts."""
    try:
        with correlated(run.correlation_id, run.traceparent):
            remote = None if run.portia_run_id else withdrawals.remote_run_of(run, plan_id=_launched_plan(run))
    except PortiaError as error:
        level = logging.WARNING if error.retryable else logging.ERROR
        logger.log(level, "run %s: taking back its launch put off: %s", run.pk, error.message)
        Work.objects.later(work, delay=_retry_delay(work, error))
        return
    with transaction.atomic():
        run = Run.objects.select_for_update().get(pk=run.pk)
        if remote and not run.portia_run_id:
            run.portia_run_id, run.portia_plan_id = remote.run_id, remote.plan_id
            run.touch(*FOUND)
        if run.portia_run_id:
            Work.objects.schedule(run.pk, Kind.COMMAND)
        Work.objects.done([work])


def _launched_plan(run: Run) -> str:
    """The plan's id in an unanswered launch; empty where a killed worker left none, and the plan cannot be read any more."""
    try:
        return run.portia_plan_id or _translated(run, plans.parsed(run.plan_id)).plan_id
    except InvalidPlan:
        return ""


def _create_remote(ready: Launch) -> PortiaPlanRun:
    """Create the remote run, and before it the plan where Portia does not have it yet."""
    plan, run = ready.plan, ready.run
    try:
        return withdrawals.create_run(run, plan_id=plan.plan_id)
    except PlanNotFound:
        portia().create_plan(plan, tenant=run.tenant.identifier)
        return withdrawals.create_run(run, plan_id=plan.plan_id)


def _settle_launch(ready: Launch, answer: PortiaPlanRun | PortiaError) -> None:
    if isinstance(answer, PortiaError):
        _launch_failed(ready, answer)
        return
    with transaction.atomic():
        run = Run.objects.select_for_update(of=("self",)).select_related("tenant").get(pk=ready.run.pk)
        if not run.portia_run_id:
            run.portia_run_id, run.portia_plan_id = answer.run_id, ready.plan.plan_id
            _begin(run, answer)
        Work.objects.done([ready.work])
        if not run.is_terminal:
            Work.objects.schedule(run.pk, Kind.SYNC, delay=FIRST_SYNC)
        if run.requested or denials.is_over_here(run):
            Work.objects.schedule(run.pk, Kind.COMMAND)


def _begin(run: Run, answer: PortiaPlanRun) -> None:
    """Write down that Portia has the run, and how far it is; one that lost its rights during the call has ended instead."""
    if run.is_terminal:
        run.touch(*FOUND)
        return
    if refused := denials.refusal(run):
        denials.end(run, refused, also=FOUND)
        return
    waits = run.status == RunStatus.PENDING
    there = (RunStatus.RUNNING, RunReason.EXECUTING) if waits else (run.status, run.reason)
    run.transition(*there, also=FOUND)
    snapshots.apply(run, answer)


def _launch_failed(ready: Launch, error: PortiaError) -> None:
    if not error.retryable and not isinstance(error, Unauthorized):
        _refused_there(ready, error)
        return
    logger.warning("run %s: launch put off: %s", ready.run.pk, error.message)
    with transaction.atomic():
        run = Run.objects.select_for_update().get(pk=ready.run.pk)
        if run.status == RunStatus.PENDING:
            run.transition(RunStatus.PENDING, RunReason.PORTIA_UNREACHABLE, error={"message": error.message})
        if error.sent:
            run.portia_plan_id = ready.plan.plan_id
        else:
            run.unsent_attempts += 1
        run.save(update_fields=["portia_plan_id", "unsent_attempts"])
        Work.objects.later(ready.work, delay=_retry_delay(ready.work, error))


def _refused_there(ready: Launch, error: PortiaError) -> None:
    """End a run that Portia does not take; where it may have taken it at an earlier attempt, that is undone next."""
    with transaction.atomic():
        run = Run.objects.select_for_update().get(pk=ready.run.pk)
        if not run.is_terminal:
            told: dict[str, Any] = {"code": error.code or "plan_refused", "message": error.message}
            told |= {"details": error.details} if error.details else {}
            run.transition(RunStatus.FAILED, RunReason.PLAN_REFUSED, by="orchestrator", error=told)
        if _may_be_there(ready.work, run):
            Work.objects.later(ready.work, delay=0)
        else:
            Work.objects.done([ready.work])


# -- sync


def _drop_settled(works: list[Work], runs: dict[Any, Run]) -> None:
    Work.objects.done(work for work in works if runs[work.run_id].is_terminal)


def _sync_tenant(tenant: str, works: list[Work], runs: dict[Any, Run]) -> PortiaError | None:
    """Sync one tenant's runs; returns the error where Portia could not be asked."""
    ids = {str(runs[work.run_id].portia_run_id): work for work in works}
    try:
        found, missing = portia().get_runs(ids, tenant=tenant)
    except PortiaError as error:
        logger.warning("sync of %d runs of %s put off: %s", len(works), tenant, error.message)
        return error
    for remote in found:
        if remote.run_id in ids:
            work = ids[remote.run_id]
            with Work.objects.attempt(work):
                _settle_sync(work, runs[work.run_id], remote)
    for portia_run_id in missing:
        work = ids[portia_run_id]
        with Work.objects.attempt(work):
            _settle_missing(work)
    return None


def _put_off(works: list[Work], error: PortiaError) -> None:
    for work in works:
        Work.objects.later(work, delay=_retry_delay(work, error))


def _settle_sync(work: Work, run: Run, remote: PortiaPlanRun) -> None:
    if remote.version <= run.portia_version and run.portia_missing_since is None:
        Work.objects.later(work, delay=_sync_delay(run, work.attempts))
        return
    with transaction.atomic():
        run = Run.objects.select_for_update().get(pk=run.pk)
        changed = snapshots.apply(run, remote)
        if run.portia_missing_since is not None:
            run.portia_missing_since = None
            run.touch("portia_missing_since")
        if run.is_terminal:
            Work.objects.done([work])
        else:
            unchanged = 0 if changed else work.attempts
            Work.objects.later(work, delay=_sync_delay(run, unchanged), attempts=unchanged)


def _settle_missing(work: Work) -> None:
    with transaction.atomic():
        run = Run.objects.select_for_update().get(pk=work.run_id)
        now = timezone.now()
        if run.portia_missing_since is None:
            run.portia_missing_since = now
            run.touch("portia_missing_since")
        elif now - run.portia_missing_since >= LOST_AFTER and not run.is_terminal:
            message = "Portia no longer knows this run; whether its last step took effect is not known."
            run.transition(RunStatus.FAILED, RunReason.RUN_LOST, error={"code": "run_lost", "message": message})
            Work.objects.schedule(run.pk, Kind.CLARIFICATIONS)
        Work.objects.later(work, delay=LOST_AFTER.total_seconds())


def _sync_delay(run: Run, unchanged: int) -> float:
    """Seconds to the next look: soon after a change, then half as long again each time nothing changed."""
    slowest = WAITING_SYNC if run.status == RunStatus.PAUSED else SLOWEST_SYNC
    return min(slowest, 0.05 * 1.5 ** min(unchanged, 30))


# -- commands


def _command(work: Work, run: Run) -> list[Errand]:
    """What there is to tell, if anything; a run that is still being launched gets its command afterwards."""
    if run.portia_run_id and _may_not_go_on(work, run):
        return []
    if run.requested and run.portia_run_id and not run.is_terminal:
        return [Errand(work=work, run=run)]
    Work.objects.done([work])
    return []


def _may_not_go_on(work: Work, run: Run) -> bool:
    """Whether a run has lost what let it in; it then ends, here and, in a later try if need be, at Portia."""
    if not denials.is_over_here(run) and (run.is_terminal or run.requested == Command.CANCEL):
        return False
    try:
        with correlated(run.correlation_id, run.traceparent):
            denied = denials.stop(run)
    except PortiaError as error:
        logger.warning("run %s: the end of a denied run put off: %s", run.pk, error.message)
        Work.objects.later(work, delay=_retry_delay(work, error))
        return True
    if denied:
        Work.objects.done([work])
    return bool(denied)


def _send_command(errand: Errand) -> PortiaPlanRun:
    run, client = errand.run, portia()
    calls = {Command.PAUSE: client.pause_run, Command.RESUME: client.resume_run, Command.CANCEL: client.cancel_run}
    return calls[Command(run.requested)](str(run.portia_run_id), tenant=run.tenant.identifier)


def _settle_command(work: Work, sent: Run, answer: PortiaPlanRun | PortiaError) -> None:
    if isinstance(answer, PortiaError) and (answer.retryable or isinstance(answer, Unauthorized)):
        logger.warning("run %s: %s put off: %s", sent.pk, sent.requested, answer.message)
        Work.objects.later(work, delay=_retry_delay(work, answer))
        return
    with transaction.atomic():
        run = Run.objects.select_for_update().get(pk=sent.pk)
        if run.requested == sent.requested and not run.is_terminal:
            run.requested = ""
            run.touch("requested")
        if isinstance(answer, PortiaPlanRun):
            snapshots.apply(run, answer)
        elif not isinstance(answer, InvalidState | RunNotFound):
            logger.error("run %s: Portia refused to %s: %s", run.pk, sent.requested, answer.message)
        Work.objects.done([work])
        if not run.is_terminal:
            Work.objects.schedule(run.pk, Kind.SYNC)


# -- shared by the three


def _load_runs(works: Iterable[Work]) -> dict[Any, Run]:
    return Run.objects.select_related("tenant").in_bulk([work.run_id for work in works])


def _in_parallel(
    call: Callable[[AnyErrand], PortiaPlanRun], errands: list[AnyErrand]
) -> list[tuple[AnyErrand, PortiaPlanRun | Exception]]:
    """Call Portia for each errand, a few at a time; an error is that one's answer. The calls do not touch the database."""

    def guarded(errand: AnyErrand) -> PortiaPlanRun | Exception:
        with correlated(errand.run.correlation_id, errand.run.traceparent):
            try:
                return call(errand)
            except Exception as error:  # settled with its own row, so that the others keep their answers
                return error

    if len(errands) < 2:
        return [(errand, guarded(errand)) for errand in errands]
    with ThreadPoolExecutor(max_workers=PARALLEL_CALLS) as pool:
        return list(zip(errands, pool.map(guarded, errands), strict=True))


def _known_answer(answer: PortiaPlanRun | Exception) -> PortiaPlanRun | PortiaError:
    """Pass on what Portia said; raise what nobody foresaw."""
    if isinstance(answer, PortiaPlanRun | PortiaError):
        return answer
    raise answer


def _sync_limit() -> int:
    """Return how many runs to ask about: a call's worth, or few where each is a call of its own."""
    try:
        batches = "batch_runs" in portia().capabilities()
    except PortiaError:
        batches = True  # the call itself will tell
    return SYNC_BATCH if batches else PARALLEL_CALLS


def _retry_delay(work: Work, error: PortiaError) -> float:
    if isinstance(error, Unauthorized):
        return MISCONFIGURED_RETRY
    return max(error.retry_after or 0.0, work.backoff)
