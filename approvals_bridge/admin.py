"""The decision card: what will happen if the button is pressed, and the button.

GET shows, POST decides. Every way to decide ends in approvals_bridge.actions.decide; a refusal is shown in its own words.
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import F, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils import timezone
from django.utils.safestring import SafeString
from unfold.decorators import display

from approvals_bridge import actions, policy
from approvals_bridge.answers import safe_url
from approvals_bridge.forms import DecisionForm, RefusalForm, form_for
from approvals_bridge.models import Category, Clarification, ClarificationStatus, Decision
from executions.admin.base import PageAdmin
from executions.admin.filters import TenantFilter
from executions.admin.steps import dependents, main_steps, tool_words
from executions.errors import OrchestratorError
from executions.templatetags.reading import ago

DECIDED_WORDS = {
    Decision.APPROVE: "Your approval is recorded.",
    Decision.ANSWER: "Your answer is recorded.",
    Decision.REJECT: "Your rejection is recorded; the run ends.",
}


class WaitingFilter(admin.SimpleListFilter):
    """What waits for somebody, unless something else is asked for."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """The other two lists."""
        return [("closed", "Decided or over"), ("all", "All")]

    def choices(self, changelist: Any) -> Any:
        """Name the choice that holds when none is made."""
        waiting, *others = super().choices(changelist)
        return [{**waiting, "display": "Waiting for a decision"}, *others]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        """Filter by the choice."""
        if self.value() == "all":
            return queryset
        if self.value() == "closed":
            return queryset.exclude(status=ClarificationStatus.PENDING)
        return queryset.pending()


@admin.register(Clarification)
class ClarificationAdmin(PageAdmin):
    """Clarifications: decided here, never edited."""

    page_template = "admin/approvals_bridge/clarification/page.html"
    live_template = "admin/approvals_bridge/clarification/live.html"
    list_display = ["shown_title", "shown_status", "plan_name", "tenant", "asked_by", "age", "time_left"]
    list_filter = [WaitingFilter, "category", ("tenant", TenantFilter), "requested_at"]
    search_fields = [
        "id",
        "title",
        "guidance",
        "run__id",
        "run__plan__name",
        "run__triggered_by",
        "run__correlation_id",
    ]
    search_help_text = "Search by title, plan, who asked, run id"
    list_select_related = ["tenant", "run__plan"]

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Who may decide may look, too."""
        return super().has_view_permission(request, obj) or request.user.has_perm(policy.PERMISSION)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Clarification]:
        """Clarifications with their runs and plans: every page and every line needs them."""
        return super().get_queryset(request).select_related("tenant", "run__plan")

    def get_ordering(self, request: HttpRequest) -> list[Any]:
        """What waits: the nearest deadline first. What is over: the newest first."""
        return ["-id"] if request.GET.get("state") else [F("deadline").asc(nulls_last=True), "requested_at"]

    def live_version(self, obj: Clarification) -> str:
        """Changes with the decision, its delivery, and the run's progress."""
        return f"{obj.status}.{obj.delivered_at or ''}.{obj.run.version}".replace(" ", "T")

    def live_context(self, request: HttpRequest, obj: Clarification) -> dict[str, Any]:
        """Where the clarification and its run are."""
        return {"clarification": obj, "run": obj.run, "waits": obj.status == ClarificationStatus.PENDING}

    def page_context(self, request: HttpRequest, obj: Clarification) -> dict[str, Any]:
        """What will run, who asks, who may decide, and the forms for those who may."""
        action = obj.action or {}
        step = next((one for one in main_steps(obj.run.plan) if one.get("step_id") == action.get("step_id")), {})
        why_not = _why_not(obj, request.user)
        return {
            "action": action,
            "action_words": tool_words(action.get("tool"), action.get("action")),
            "action_step": step,
            "next_steps": [] if action else dependents(obj.run.plan, obj.step_id),
            "action_link": safe_url(obj.action_url),
            "is_approval": obj.category == Category.USER_VERIFICATION,
            "votes": obj.votes.select_related("voter"),
            "why_not": why_not,
            "form": form_for(obj),
            "refusal_form": RefusalForm(obj),
        }

    def act(self, request: HttpRequest, obj: Clarification) -> HttpResponse:
        """Decide as the pressed button says; show the card again with what is wrong, or the refusal."""
        decision = request.POST.get("decision", "")
        rejects = decision == Decision.REJECT
        form = RefusalForm(obj, request.POST) if rejects else form_for(obj, request.POST)
        if obj.status == ClarificationStatus.PENDING and not form.is_valid():
            is_approval = obj.category == Category.USER_VERIFICATION
            return self.page(request, obj, **{"refusal_form" if rejects and not is_approval else "form": form})
        self.attempt(request, lambda: _decide(obj, request, decision, form), success=DECIDED_WORDS.get(decision, ""))  # type: ignore[call-overload]
        return HttpResponseRedirect(self.url_of(obj))

    @display(description="Question")
    def shown_title(self, obj: Clarification) -> str:
        """The title, or what is asked where it has none."""
        return str(obj)

    @display(
        description="Status",
        ordering="status",
        label={"pending": "warning", "approved": "success", "rejected": "danger", "timeout": "danger", "cancelled": ""},
    )
    def shown_status(self, obj: Clarification) -> tuple[str, str]:
        """The status as a coloured label."""
        return obj.status, "Waiting" if obj.status == ClarificationStatus.PENDING else obj.get_status_display()

    @display(description="Plan", ordering="run__plan__name")
    def plan_name(self, obj: Clarification) -> str:
        """The plan whose run asks."""
        return obj.run.plan.name

    @display(description="Asked by", ordering="run__triggered_by")
    def asked_by(self, obj: Clarification) -> str:
        """Who started the run."""
        return obj.run.triggered_by

    @display(description="Asked", ordering="requested_at")
    def age(self, obj: Clarification) -> SafeString | str:
        """How long it has been waiting."""
        return ago(obj.requested_at)

    @display(description="Deadline", ordering="deadline")
    def time_left(self, obj: Clarification) -> SafeString | str:
        """How long is left to decide."""
        return ago(obj.deadline) if obj.deadline and obj.status == ClarificationStatus.PENDING else "—"


def _decide(obj: Clarification, request: HttpRequest, decision: str, form: DecisionForm) -> None:
    entered = form.cleaned_data if form.is_valid() else {}
    actions.decide(
        clarification_id=obj.pk,
        user=request.user,
        decision=decision,
        value=form.value if entered and decision != Decision.REJECT else None,
        reason=entered.get("reason", ""),
        action_digest=request.POST.get("action_digest", ""),
        source="admin",
    )


def _why_not(obj: Clarification, user: Any) -> str:
    """The sentence why this person cannot decide this now, or nothing."""
    try:
        policy.check_can_decide(clarification=obj, user=user, now=timezone.now())
    except OrchestratorError as refusal:
        return str(refusal)
    return ""
