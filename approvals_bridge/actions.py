"""From Portia's question to a person, and from the person's answer back to Portia.

import_clarifications  job: fetch the questions of a run that has new ones
decide                 a person's word, whatever way it came in: admin, API or command
deliver_answers        job: tell Portia what was decided, once
"""

from __future__ import annotations

import logging
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from approvals_bridge import answers, policy
from approvals_bridge.models import DECIDED, Clarification, ClarificationStatus, Decision, Vote
from executions import audit, events
from executions.actions import denials, renewals
from executions.canonical_json import digest
from executions.errors import InvalidRequest, NotFound, StaleSubject
from executions.models import Kind, Run, Work
from executions.portia.client import portia
from executions.portia.errors import AlreadyResolved, ClarificationNotFound, PortiaError, RunNotFound, Unauthorized
from executions.portia.errors import StaleSubject as StaleAtPortia
from executions.portia.wire import PortiaClarification
from orchestrator_project.telemetry import correlated

logger = logging.getLogger(__name__)

BATCH = 1  # each row is one or two calls in turn, which have to end within the lease
LEASE = 15.0  # seconds
HELD_RETRY = 30.0  # a look at a run that waits for a fresh token, which may be revoked meanwhile, or end

STATUS_AFTER = {
    Decision.APPROVE: ClarificationStatus.APPROVED,
    Decision.ANSWER: ClarificationStatus.APPROVED,
    Decision.REJECT: ClarificationStatus.REJECTED,
}
EVENT_OF_STATUS = {
    ClarificationStatus.APPROVED: events.CLARIFICATION_APPROVED,
    ClarificationStatus.REJECTED: events.CLARIFICATION_REJECTED,
    ClarificationStatus.TIMEOUT: events.CLARIFICATION_TIMEOUT,
    ClarificationStatus.CANCELLED: events.CLARIFICATION_CANCELLED,
}
AUDITED_STATUS = {
    ClarificationStatus.APPROVED: "clarification.approved",
    ClarificationStatus.REJECTED: "clarification.rejected",
    ClarificationStatus.TIMEOUT: "clarification.timeout",
    ClarificationStatus.CANCELLED: "clarification.cancelled",
}
RESOLVED_BY_RUN = ("run_cancelled", "run_failed")


def import_clarifications() -> int:
    """Bring the clarifications of due runs up to date with Portia's; returns rows taken."""
    works = Work.objects.claim(Kind.CLARIFICATIONS, limit=BATCH, lease=LEASE)
    runs = Run.objects.select_related("tenant").in_bulk([work.run_id for work in works])
    for work in works:
        run = runs[work.run_id]
        with correlated(run.correlation_id, run.traceparent), Work.objects.attempt(work):
            _import(work, run)
    return len(works)


def decide(
    *,
    clarification_id: UUID,
    user: Any,
    decision: str,
    value: Any = None,
    reason: str = "",
    action_digest: str = "",
    source: str,
) -> Clarification:
    """Take a person's decision: the one way in for the admin, the API and commands.

    `action_digest` is the seal the person saw; where the clarification has one, it must be the same. Opens its own
    transaction unless the caller has one. Raises NotFound, Conflict, Gone, Forbidden, StaleSubject or InvalidRequest, each with
    a sentence for the person; then nothing has changed.
    """
    with transaction.atomic():
        clarification = _locked(clarification_id)
        policy.check_can_decide(clarification=clarification, user=user, now=timezone.now())
        _check_seal(clarification, action_digest)
        answer = _checked_answer(clarification, decision, value, reason)
        Vote.objects.create(
            clarification=clarification,
            voter=user,
            decision=decision,
            value=answer,
            reason=reason,
            action_digest=clarification.action_digest,
            source=source,
        )
        _audit(
            clarification, "clarification.voted", by=user.get_username(), reason=reason, after={"decision": decision}
        )
        clarification.response = answer
        _close(clarification, STATUS_AFTER[Decision(decision)], by=user.get_username(), reason=reason)
        Work.objects.schedule(clarification.run_id, Kind.ANSWER)
    return clarification


def deliver_answers() -> int:
    """Tell Portia every decision it does not know yet; returns rows taken."""
    works = Work.objects.claim(Kind.ANSWER, limit=BATCH, lease=LEASE)
    for work in works:
        with Work.objects.attempt(work):
            _deliver_run(work)
    return len(works)


# -- import


def _import(work: Work, run: Run) -> None:
    try:
        remote = portia().get_clarifications(str(run.portia_run_id), tenant=run.tenant.identifier)
    except PortiaError as error:
        if not isinstance(error, RunNotFound) and (error.retryable or not run.is_terminal):
            logger.warning("run %s: clarifications put off: %s", run.pk, error.message)
            Work.objects.later(work, delay=work.backoff)
            return
        remote = []  # nothing more will be known of the run's questions
    _settle_import(work, run, remote)


def _import_one(run: Run, remote: PortiaClarification) -> None:
    """Follow one question of Portia's. The same question about another action is a new one, and the old one is void."""
    seal = _sound_digest(remote)
    same_id = run.clarifications.filter(portia_clarification_id=remote.clarification_id).select_for_update()
    for outdated in same_id.pending().exclude(action_digest=seal):
        _close(outdated, ClarificationStatus.CANCELLED, by="portia", reason="The action changed after it was shown.")
    clarification = same_id.filter(action_digest=seal).order_by("-round").first()
    if clarification is None or _is_asked_again(clarification, remote):
        clarification = _create(run, remote, seal, nth=clarification.round + 1 if clarification else 1)
    if clarification.portia_status != remote.status:
        clarification.portia_status = remote.status[:32]
        clarification.save(update_fields=["portia_status"])
    if clarification.status != ClarificationStatus.PENDING:
        return
    if remote.status != "pending":
        _follow(clarification, remote)
    elif _is_over(clarification):
        _close(clarification, ClarificationStatus.TIMEOUT, by="orchestrator", reason="Nobody answered in time.")


def _sound_digest(remote: PortiaClarification) -> str:
    """Return the seal, having checked that it is the seal of the action that will be shown. Raises ValueError."""
    given = remote.action_digest or ""
    if given and digest(remote.action) != given:
        raise ValueError(f"clarification {remote.clarification_id}: action_digest is not the digest of action")
    return given


def _is_asked_again(known: Clarification, remote: PortiaClarification) -> bool:
    """Whether Portia still waits although an answer was brought to it: it did not take that answer."""
    return remote.status == "pending" and known.status in DECIDED and bool(known.delivery_error)


def _create(run: Run, remote: PortiaClarification, seal: str, *, nth: int) -> Clarification:
    clarification = Clarification.objects.create(
        tenant_id=run.tenant_id,
        run=run,
        portia_clarification_id=remote.clarification_id,
        category=remote.category[:32],
        title=remote.title[:300],
        guidance=remote.user_guidance,
        step_id=(remote.step_id or "")[:1024],
        argument_name=(remote.argument_name or "")[:128],
        options=remote.options,
        action_url=remote.action_url or "",
        proposed=remote.data.get("value", remote.response),
        data=remote.data,
        action=remote.action,
        action_digest=seal,
        round=nth,
        required_approvers=remote.required_approvers,
        approval_rules=remote.approval_rules,
        requested_at=remote.requested_at or timezone.now(),
        deadline=remote.timeout_at,
    )
    _record(clarification, events.CLARIFICATION_REQUESTED, by="portia")
    _audit(clarification, "clarification.requested", by="portia", after={"status": clarification.status})
    return clarification


def _follow(clarification: Clarification, remote: PortiaClarification) -> None:
    """Close what was closed on Portia's side: answered there, timed out, or ended with its run."""
    if remote.resolution in RESOLVED_BY_RUN:
        status = ClarificationStatus.CANCELLED
    elif remote.status in ClarificationStatus.values:
        status = ClarificationStatus(remote.status)
    else:
        return
    clarification.response = remote.response
    clarification.delivered_at = timezone.now()
    _close(clarification, status, by="portia", reason="Decided at Portia.")


def _is_over(clarification: Clarification) -> bool:
    return clarification.deadline is not None and clarification.deadline <= timezone.now()


def _cancel_rest(run: Run) -> None:
    for clarification in run.clarifications.pending().select_for_update():
        _close(clarification, ClarificationStatus.CANCELLED, by="orchestrator", reason=f"The run is {run.status}.")


def _settle_import(work: Work, run: Run, remote: list[PortiaClarification]) -> None:
    """Write what Portia asks, close what it no longer asks, and come back at the next deadline, where there is one."""
    with transaction.atomic():
        run = Run.objects.select_for_update().get(pk=run.pk)
        for one in remote:
            _import_one(run, one)
        if run.is_terminal:
            _cancel_rest(run)
        _settle_work(work, run)


def _settle_work(work: Work, run: Run) -> None:
    deadlines = run.clarifications.pending().exclude(deadline=None).order_by("deadline")
    first = deadlines.values_list("deadline", flat=True).first()
    if first is None:
        Work.objects.done([work])
    else:
        delay = max(0.5, (first - timezone.now()).total_seconds() + 0.1)
        Work.objects.later(work, delay=delay, attempts=0)


# -- decide


def _locked(clarification_id: UUID) -> Clarification:
    """Lock run, then clarification: the order every writer uses, so that no two wait for each other."""
    run_id = Clarification.objects.filter(pk=clarification_id).values_list("run_id", flat=True).first()
    if run_id is None:
        raise NotFound("There is no such clarification.")
    Run.objects.select_for_update().get(pk=run_id)
    clarifications = Clarification.objects.select_for_update(of=("self",)).select_related("run__plan", "tenant")
    return clarifications.get(pk=clarification_id)


def _check_seal(clarification: Clarification, action_digest: str) -> None:
    if clarification.action_digest and action_digest != clarification.action_digest:
        raise StaleSubject(
            "What would run is not what you were shown. Look at it again and decide anew."
            if action_digest
            else "Say which action you decide about: send its action_digest.",
            action=clarification.action,
            action_digest=clarification.action_digest,
        )


def _checked_answer(clarification: Clarification, decision: str, value: Any, reason: str) -> Any:
    if decision not in Decision.values:
        raise InvalidRequest(f"decision: one of {', '.join(Decision.values)}.")
    if decision == Decision.REJECT:
        if not reason.strip():
            raise InvalidRequest(
                "Say why you reject this.",
                errors=[{"pointer": "/reason", "code": "required", "detail": "Give a reason of at least one word."}],
            )
        return None
    answers.check_decision(clarification, decision)
    return True if answers.is_yes_or_no(clarification) else answers.check(clarification, value)


def _close(clarification: Clarification, status: ClarificationStatus, *, by: str, reason: str) -> None:
    clarification.status, clarification.decision_reason = status, reason
    clarification.decided_at, clarification.decided_by = timezone.now(), by
    clarification.save(
        update_fields=["status", "decision_reason", "decided_at", "decided_by", "response", "delivered_at"]
    )
    _record(clarification, EVENT_OF_STATUS[status], by=by)
    _audit(clarification, AUDITED_STATUS[status], by=by, reason=reason, after={"status": status})


def _audit(clarification: Clarification, action: str, *, by: str, after: dict[str, Any], reason: str = "") -> None:
    """Put into the audit log what was done, never the answer's value: people are asked for anything."""
    audit.record(
        action=action,
        subject=f"clarification/{clarification.pk}",
        by=by,
        tenant_id=clarification.tenant_id,
        reason=reason,
        after={
            **after,
            "run_id": str(clarification.run_id),
            "category": clarification.category,
            "action_digest": clarification.action_digest,
        },
        correlation=clarification.run.correlation_id,
    )


def _record(clarification: Clarification, kind: str, *, by: str) -> None:
    data = {
        "clarification_id": str(clarification.pk),
        "category": clarification.category,
        "step_id": clarification.step_id,
        "status": clarification.status,
        "reason": clarification.decision_reason,
        "action_digest": clarification.action_digest,
    }
    events.record(run=clarification.run, kind=kind, by=by, data=data, subject=f"clarification/{clarification.pk}")


# -- deliver


def _deliver_run(work: Work) -> None:
    waiting = Clarification.objects.undelivered().filter(run_id=work.run_id).select_related("run__tenant")
    for clarification in waiting.order_by("decided_at"):
        run = clarification.run
        with correlated(run.correlation_id, run.traceparent):
            if not _deliver(work, clarification):
                return
    Work.objects.done([work])


def _deliver(work: Work, clarification: Clarification) -> bool:
    """Bring one decision to Portia, unless the run may not go on, or not yet; False where it has to be tried again."""
    try:
        denied = denials.stop(clarification.run)
        if not denied and renewals.hold(clarification.run):
            Work.objects.later(work, delay=HELD_RETRY, attempts=0)
            return False
        if not denied:
            _respond(clarification)
    except (AlreadyResolved, StaleAtPortia, ClarificationNotFound, RunNotFound) as overtaken:
        _settle_delivery(clarification, error=overtaken.message)
    except PortiaError as error:
        if error.retryable or isinstance(error, Unauthorized):
            logger.warning("clarification %s: delivery put off: %s", clarification.pk, error.message)
            Work.objects.later(work, delay=work.backoff)
            return False
        logger.error("clarification %s: Portia refused the answer: %s", clarification.pk, error.message)
        _settle_delivery(clarification, error=error.message)
    else:
        _settle_delivery(clarification, error=denied)
    return True


def _respond(clarification: Clarification) -> None:
    approved = clarification.status == ClarificationStatus.APPROVED
    portia().respond_to_clarification(
        clarification.portia_clarification_id,
        tenant=clarification.run.tenant.identifier,
        approved=approved,
        approver_id=clarification.decided_by,
        reason=clarification.decision_reason or None,
        response=None if not approved or answers.is_yes_or_no(clarification) else clarification.response,
        metadata={"approvers": [clarification.decided_by], "clarification_id": str(clarification.pk)},
        action_digest=clarification.action_digest or None,
    )


def _settle_delivery(clarification: Clarification, *, error: str) -> None:
    """Note that Portia has the answer, or has no more use for it, and look at the run at once."""
    with transaction.atomic():
        Run.objects.select_for_update().get(pk=clarification.run_id)
        fresh = Clarification.objects.select_for_update(of=("self",)).select_related("run").get(pk=clarification.pk)
        if fresh.delivered_at is not None:
            return
        fresh.delivered_at, fresh.delivery_error = timezone.now(), error
        fresh.save(update_fields=["delivered_at", "delivery_error"])
        delivery = {"status": fresh.status, "error": error}
        _audit(fresh, "clarification.delivered", by="orchestrator", after=delivery)
        if not error:
            _record(fresh, events.CLARIFICATION_DELIVERED, by="orchestrator")
        else:
            Work.objects.schedule(fresh.run_id, Kind.CLARIFICATIONS)
        Work.objects.schedule(fresh.run_id, Kind.SYNC)
