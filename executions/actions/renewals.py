"""A run that outlived its capability token while it waited for people, where its plan asks for a fresh one then.

A run that somebody paused is resumed with a fresh token only (`freshen`). Where people decided, the answer is kept back, and
the run shows `paused/pause_requested` with an `error` that says what it waits for, until `runs.resume` brings a fresh token
(`renew`). Portia hears nothing of it: there the run waits for the answer, and could not be resumed.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import transaction
from django.utils import timezone

from executions import audit, events
from executions.actions import plans
from executions.admission import Admission, admit, check_not_revoked
from executions.capabilities import LEEWAY
from executions.captokens import SignedToken
from executions.errors import CapabilityRefused
from executions.models import Kind, Plan, Run, RunReason, RunStatus, Work
from executions.names import fold_all, folded

CODE = "fresh_capability_needed"
SENTENCE = (
    "The capability token ended while people decided, and the plan asks for a fresh one. Resume the run with a token that is "
    "good now, as X-Capability-Token; until then the answer is kept back."
)
PAUSED_SENTENCE = (
    "The capability token ended while the run was paused, and the plan asks for a fresh one. Resume it with a token that is good "
    "now, as X-Capability-Token."
)
LET_IN = ("capability", "allowed_tools")
RECORDED = ("token_id", "subject", "capabilities", "expires_at")


def is_held(run: Run) -> bool:
    """Whether the run is kept back here until it is resumed with a fresh token."""
    return run.reason == RunReason.PAUSE_REQUESTED and (run.error or {}).get("code") == CODE


def hold(run: Run) -> bool:
    """Keep back a run that may not be told an answer without a fresh token; returns whether it is kept back.

    A repeat changes nothing. Opens its own transaction.
    """
    if not _has_outlived_its_token(run):
        return False
    with transaction.atomic():
        locked = Run.objects.select_for_update().get(pk=run.pk)
        if locked.is_terminal or not locked.pending_clarifications or not _has_outlived_its_token(locked):
            return False  # it has ended, was answered at Portia, or was resumed meanwhile
        if not is_held(locked):
            _hold(locked)
    return True


def renew(run: Run, *, token: SignedToken | None, by: str) -> None:
    """Let a held run in anew, by the rules of a submission, and have its answer delivered.

    Needs the caller's transaction and a locked run. Raises CapabilityRefused, saying what is needed, or InvalidPlan.
    """
    _let_in_anew(run, token=token, by=by)
    there = (RunStatus.PAUSED, RunReason.AWAITING_CLARIFICATION)
    run.transition(*there, by=by, also=LET_IN)
    Work.objects.schedule(run.pk, Kind.ANSWER)


def freshen(run: Run, *, token: SignedToken | None, by: str) -> None:
    """Let a run in anew that somebody paused and that has outlived its token meanwhile; others have no use for one.

    Needs the caller's transaction and a locked run. Raises as `renew` does.
    """
    if run.status == RunStatus.PAUSED and not is_held(run) and _has_outlived_its_token(run):
        _let_in_anew(run, token=token, by=by)
        run.save(update_fields=LET_IN)


def _let_in_anew(run: Run, *, token: SignedToken | None, by: str) -> None:
    admission = _admitted_anew(run, token)
    before, subjects = run.capability, _subjects_until_now(run)
    run.capability = admission.validation.to_json() | {"former_subjects": subjects}
    run.allowed_tools = sorted(set(run.allowed_tools) & set(admission.allowed_tools))
    facts = {name: run.capability[name] for name in RECORDED}
    events.record(run=run, kind=events.CAPABILITY_RENEWED, by=by, data=facts)
    audit.record(
        action="capability.renewed", subject=f"execution/{run.pk}", by=by, tenant_id=run.tenant_id,
        before={name: before.get(name) for name in RECORDED}, after=facts, correlation=run.correlation_id,
    )  # fmt: skip


def _has_outlived_its_token(run: Run) -> bool:
    ends = run.capability.get("expires_at")
    if not ends or timezone.now() <= datetime.fromisoformat(ends) + timedelta(seconds=LEEWAY):
        return False
    return Plan.objects.filter(pk=run.plan_id, document__security_context__fresh_capability_after_wait=True).exists()


def _hold(run: Run) -> None:
    facts = {name: run.capability.get(name) for name in RECORDED}
    events.record(run=run, kind=events.CAPABILITY_EXPIRED, by="orchestrator", data={"message": SENTENCE, **facts})
    audit.record(
        action="capability.expired", subject=f"execution/{run.pk}", by="orchestrator", tenant_id=run.tenant_id,
        reason=SENTENCE, after=facts, correlation=run.correlation_id,
    )  # fmt: skip
    error = {"code": CODE, "message": SENTENCE}
    if run.reason == RunReason.PAUSE_REQUESTED:  # by a person
        run.error = error
        run.touch("error")
    else:
        run.transition(RunStatus.PAUSED, RunReason.PAUSE_REQUESTED, by="orchestrator", error=error)


def _admitted_anew(run: Run, token: SignedToken | None) -> Admission:
    check_not_revoked(tenant=run.tenant, capability=run.capability)
    if token is None:
        raise CapabilityRefused(SENTENCE if is_held(run) else PAUSED_SENTENCE, reason=CODE)
    plan = plans.parsed(run.plan_id)
    admission = admit(plan=plan, tenant=run.tenant, token=token, now=timezone.now())
    if plan.needs_llm:
        _check_covers_all(run, admission)
    _check_other_eyes(run, admission)
    return admission


def _check_covers_all(run: Run, admission: Admission) -> None:
    """An agent chooses among all tools that Portia was told of at the launch, which nothing can narrow any more."""
    missing = sorted(set(run.allowed_tools) - set(admission.allowed_tools))
    if missing:
        raise CapabilityRefused(
            f"The capability token does not allow these tools, among which the run may choose: {', '.join(missing)}.",
            missing_tools=missing,
        )


def _check_other_eyes(run: Run, admission: Admission) -> None:
    """Four eyes: nobody vouches for a run that he let go on himself."""
    subject = admission.validation.subject
    waiting = run.clarifications.filter(category="User Verification", status="approved", delivered_at=None)
    voters = waiting.values_list("votes__voter__username", "votes__voter__email")
    if subject and folded(subject) in fold_all(name for names in voters for name in names):
        raise CapabilityRefused(
            f"{subject}, in whose name the token speaks, gave the approval that waits: bring somebody else's token.",
            reason="four_eyes",
        )


def _subjects_until_now(run: Run) -> list[str]:
    subjects = [*run.capability.get("former_subjects", ()), run.capability.get("subject")]
    return sorted({one for one in subjects if one})
