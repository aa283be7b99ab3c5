"""What was let in and may not be any more: the live runs of a revoked token, and a run that Portia may have without a word.

A launch that got no answer may have reached Portia, then, or later: a request can be slow. Where the run may not go on any more,
the same request again would find it, but also start it where it never arrived. So another one takes its Idempotency-Key: for a
plan that does nothing. Either that run is there then, and whatever still comes with the key is refused; or Portia says that the
key was used, and the same request finds the run without starting one.
"""

from __future__ import annotations

from django.db.models import Q

from executions.models import Kind, Run, Tenant, Work
from executions.portia.client import portia
from executions.portia.errors import PlanNotFound, PortiaRejected
from executions.portia.wire import PortiaPlan, PortiaPlanRun, PortiaStep

NOTHING = PortiaPlan(
    plan_id="anumate-withdrawn",
    name="Withdrawn before it began",
    steps=[PortiaStep(id="end", name="End", type="exit", parameters={"message": "The launch was taken back."})],
)
KEY_REUSED = "idempotency_key_reused"


def look_at_runs_of(token_id: str, *, tenant: Tenant) -> None:
    """Have the live runs that this token let in, or one made from it, looked at again soon.

    Needs the transaction of the revocation. A launch that is under way has either settled when this gets the run's lock, and the
    look comes after it; or it settles afterwards, and sees the revocation itself.
    """
    let_in = Q(capability__token_id=token_id) | Q(capability__parents__contains=[token_id])
    live = Run.objects.not_ended().filter(let_in, tenant=tenant).order_by("pk").select_for_update()
    for run_id in live.values_list("pk", flat=True):
        Work.objects.schedule(run_id, Kind.COMMAND)


def remote_run_of(run: Run, *, plan_id: str) -> PortiaPlanRun | None:
    """The run that Portia has made of ours, or None: then it never will. `plan_id` is that of the unanswered launch.

    Talks HTTP: must be outside a transaction. Raises PortiaError.
    """
    try:
        found = _take_key(run)
    except PortiaRejected as refused:
        if refused.code != KEY_REUSED:
            raise
        return create_run(run, plan_id=plan_id)
    return None if found.plan_id == NOTHING.plan_id else found


def create_run(run: Run, *, plan_id: str) -> PortiaPlanRun:
    """Start the remote run of ours, or find it where it was started. Talks HTTP. Raises PortiaError."""
    return portia().create_run(
        tenant=run.tenant.identifier,
        plan_id=plan_id,
        parameters=run.parameters,
        variables=run.variables,
        triggered_by=run.triggered_by,
        correlation_id=run.correlation_id,
        idempotency_key=str(run.pk),
    )


def _take_key(run: Run) -> PortiaPlanRun:
    try:
        return create_run(run, plan_id=NOTHING.plan_id)
    except PlanNotFound:
        portia().create_plan(NOTHING, tenant=run.tenant.identifier)
        return create_run(run, plan_id=NOTHING.plan_id)
