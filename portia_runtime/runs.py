"""Runs from outside: create them once per key, pause, resume and cancel them (contract section 5)."""

from __future__ import annotations

from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Min
from django.utils import timezone

from portia_runtime import journal, outcome, plans
from portia_runtime.documents import JSON, digest
from portia_runtime.models import (
    Clarification,
    ClarificationStatus,
    IdempotencyKey,
    PausedReason,
    Run,
    RunStatus,
)
from portia_runtime.problems import Problem
from portia_runtime.signals import DUE, change, notify, wake
from portia_runtime.walk import Walk

ROUTE = "POST /runs"


def create(*, tenant: str, fields: JSON, body: Any, key: str | None) -> tuple[Run, bool]:
    """Make a run of a plan; gives it and whether it is a repeat of an earlier request with the same key.

    `fields` are the run's columns and `plan_id`. The key and the run are committed together: of many requests at once
    with one key, the database lets one through and the others find its run.
    Raises Problem plan_not_found or idempotency_key_reused.
    """
    body_digest = digest(body) if key else ""
    replayed = _replay(tenant, key, body_digest)
    if replayed:
        return replayed, True
    plan_key = plans.key(tenant=tenant, plan_id=fields.pop("plan_id"))
    fields["variables"] = {**plans.spec(plan_key).document.variables, **fields.get("variables", {})}
    run = Run(tenant=tenant, plan_id=plan_key, **fields)
    try:
        with transaction.atomic():
            if key:
                scope = {"tenant": tenant, "route": ROUTE, "key": key}
                IdempotencyKey.objects.create(**scope, body_digest=body_digest, run_id=run.run_id)
            run.save(force_insert=True)
            notify(run.run_id, DUE)
    except IntegrityError:
        replayed = _replay(tenant, key, body_digest)
        if replayed is None:
            raise
        return replayed, True
    return run, False


def _replay(tenant: str, key: str | None, body_digest: str) -> Run | None:
    stored = IdempotencyKey.objects.filter(tenant=tenant, route=ROUTE, key=key).first() if key else None
    if stored is None:
        return None
    if stored.body_digest != body_digest:
        raise Problem("idempotency_key_reused", "this Idempotency-Key was used with another body")
    return Run.objects.get(pk=stored.run_id)


def pause(*, tenant: str, run_id: str) -> tuple[Run, bool]:
    """Hold the run at the next step boundary; gives it and whether that is done. Raises Problem invalid_state."""
    with transaction.atomic():
        run = _locked(tenant, run_id)
        if run.has_ended:
            raise _invalid_state(run, "paused")
        if run.status == RunStatus.PAUSED:
            if run.paused_reason == PausedReason.CLARIFICATION and not run.pause_requested:
                change(run, pause_requested=True)
        elif _is_held(run) or run.is_rolling_back:
            if not run.pause_requested:
                change(run, pause_requested=True)
        elif not run.pause_requested:
            _pause_now(run)
    run.refresh_from_db()
    return run, run.status == RunStatus.PAUSED


def _pause_now(run: Run) -> None:
    """No worker has the run: it can be held at once."""
    now = timezone.now()
    asked = Clarification.objects.filter(run=run, status=ClarificationStatus.PENDING)
    asking = asked.exists()
    active = run.active_seconds + ((now - run.active_since).total_seconds() if run.active_since else 0.0)
    change(
        run,
        due_at=asked.aggregate(soonest=Min("timeout_at"))["soonest"],
        status=RunStatus.PAUSED,
        paused_reason=PausedReason.CLARIFICATION if asking else PausedReason.REQUESTED,
        pause_requested=asking,
        active_seconds=active,
        active_since=None,
    )


def resume(*, tenant: str, run_id: str) -> tuple[Run, bool]:
    """Let the run go on; gives it and whether it was going already.

    Raises Problem invalid_state, or clarifications_outstanding while people still have to answer.
    """
    with transaction.atomic():
        run = _locked(tenant, run_id)
        if run.has_ended:
            raise _invalid_state(run, "resumed")
        going = run.status != RunStatus.PAUSED
        if going and run.pause_requested:
            wake(run, pause_requested=False)
        elif not going:
            _check_nothing_outstanding(run)
            now = timezone.now()
            started = run.started_at or now
            wake(run, status=RunStatus.RUNNING, paused_reason=None, started_at=started, active_since=now)
    run.refresh_from_db()
    return run, going


def _check_nothing_outstanding(run: Run) -> None:
    pending = Clarification.objects.filter(run=run, status=ClarificationStatus.PENDING)
    ids = list(pending.order_by("requested_at").values_list("clarification_id", flat=True))
    if ids:
        raise Problem("clarifications_outstanding", "clarifications are still to be answered", clarification_ids=ids)


def cancel(*, tenant: str, run_id: str) -> tuple[Run, bool]:
    """End the run, at the next step boundary if a worker has it; gives it and whether that is done.

    Raises Problem invalid_state for a run that completed or failed.
    """
    with transaction.atomic():
        run = _locked(tenant, run_id)
        if run.has_ended and run.status != RunStatus.CANCELLED:
            raise _invalid_state(run, "cancelled")
        if not run.has_ended and not run.cancel_requested:
            wake(run, cancel_requested=True)
            if not _is_held(run) and not run.is_rolling_back:
                _cancel_now(run)
    run.refresh_from_db()
    return run, run.status == RunStatus.CANCELLED


def _cancel_now(run: Run) -> None:
    """No worker has the run: end it here, as a worker would."""
    state = journal.take(Run.objects.get(pk=run.pk))
    verdict = outcome.cancel(Walk(state, {}, timezone.now()))
    journal.commit(state, release=verdict.release, keep_pause=verdict.keep_pause)


def _is_held(run: Run) -> bool:
    """Whether a worker has the run; one whose lease ran out may have left calls behind, so a worker has to look."""
    return run.lease_token is not None


def _locked(tenant: str, run_id: str) -> Run:
    run = Run.objects.select_for_update().filter(pk=run_id, tenant=tenant).first()
    if run is None:
        raise Problem("run_not_found", f"there is no run {run_id!r}")
    return run


def _invalid_state(run: Run, verb: str) -> Problem:
    return Problem("invalid_state", f"a {run.status} run cannot be {verb}", current_status=run.status)
