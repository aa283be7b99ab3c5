"""GET /v1/executions: the runs of a tenant, newest first, by what they are and when they were."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db.models import Q, QuerySet

from executions.api.filters import AnyOf, Asked, Exactly, Labelled, key_range, time_range
from executions.api.lists import ListView, described
from executions.api.serializers import RunSummarySerializer
from executions.canonical_json import DIGEST_PATTERN
from executions.models import Plan, Run, RunReason, RunStatus
from executions.models.run import STATUS_OF_REASON
from executions.plan_parts import LONGEST_TITLE

MOST_PLANS = 200  # of one name, to be looked for one by one
SAME_CLOCK = timedelta(minutes=1)  # a run's key and created_at are made microseconds apart, on one machine
OTHER_CLOCK = timedelta(hours=1)  # what happens to it later is written by other machines


class Why(AnyOf):
    """Reasons; each belongs to one status, by which the rows are indexed."""

    def holds(self, word: str) -> Q:
        """The condition, with the status that follows from it."""
        return Q(status=STATUS_OF_REASON[word], reason=word)


class OfPlan(Exactly):
    """Something that plans have. Their keys are looked up first: an index has the runs of a plan in order."""

    def apply(self, texts: list[str], asked: Asked) -> None:
        """The run is of one of the plans that have it."""
        text = self.checked(texts[0])
        plans = (
            Plan.objects.filter(tenant=asked.tenant, **{self.column: text}).order_by("-id").values_list("pk", flat=True)
        )
        found = list(plans[: MOST_PLANS + 1])
        if len(found) <= MOST_PLANS:
            asked.add(*(Q(plan=plan) for plan in found), in_order=bool(found))
        else:
            asked.add(Q(**{f"plan__{self.column}": text}))


@described(operation_id="list_executions", summary="List runs, newest first")
class RunListView(ListView):
    """GET /v1/executions."""

    serializer_class = RunSummarySerializer
    queryset = Run.objects.none()
    filters = (
        AnyOf("status", "status", "Any of these.", in_order=True, words=tuple(RunStatus.values)),
        Why("reason", "reason", "Any of these.", in_order=True, words=tuple(RunReason.values)),
        OfPlan("plan_hash", "plan_hash", "64 lower-case hex digits.", pattern=DIGEST_PATTERN),
        OfPlan("plan_name", "name", "Exactly this name.", longest=LONGEST_TITLE),
        Labelled("label", "labels", "`name:value`, or `name` for whatever value. Repeated: all of them."),
        Exactly("triggered_by", "triggered_by", "Who asked for the run.", in_order=True),
        Exactly("requested_by", "requested_by", "The principal whose API key submitted it.", in_order=True),
        Exactly("correlation_id", "correlation_id", "As the submission gave it.", in_order=True),
        *key_range("created", "created_at", leeway=SAME_CLOCK),
        *time_range("finished", "finished_at", not_before_key=OTHER_CLOCK),
        *time_range("updated", "updated_at", not_before_key=OTHER_CLOCK),
    )

    def rows(self) -> QuerySet[Any]:
        """The tenant's runs."""
        return Run.objects.filter(tenant=self.principal.tenant)
