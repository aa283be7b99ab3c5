"""The run page: where a run is and why, its steps, what it waits for, and the buttons its status allows."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.dateparse import parse_datetime
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from unfold.decorators import display
from unfold.views import ChangeList

from executions.actions import denials, runs
from executions.admin.base import PageAdmin
from executions.admin.filters import (
    LabelFilter,
    ReasonFilter,
    SubmittedFilter,
    TenantFilter,
    found_by,
    tenants_of,
)
from executions.admin.steps import error_text, steps_of
from executions.models import Command, RevokedToken, Run, RunStatus
from executions.templatetags.reading import TONES, ago, elapsed_since, percent

COMMANDS = {Command.PAUSE: runs.pause, Command.RESUME: runs.resume, Command.CANCEL: runs.cancel}
DONE = {
    Command.PAUSE: "The run holds at the next step.",
    Command.RESUME: "The run goes on.",
    Command.CANCEL: "The run is being cancelled: no new step starts.",
}
SHORT = 16  # characters of a correlation id that fit into a list
LONGEST_LABEL = 24  # characters, in a list
MOST_LABELS = 2  # in a list
LONG_VALUES = (
    "parameters", "variables", "retry_policy", "hooks", "capability", "allowed_tools", "pending_clarifications", "results",
    "rollback", "error", "plan__document", "plan__description",
)  # fmt: skip
LONGEST_HISTORY = 200  # events on the page, the newest of them


class RunList(ChangeList):
    """Rows without what only the page of a run shows."""

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Any]:
        """Leave out documents and values."""
        return super().get_queryset(request, exclude_parameters).defer(*LONG_VALUES)


@admin.register(Run)
class RunAdmin(PageAdmin):
    """Runs: looked at here, steered by three commands."""

    page_template = "admin/executions/run/page.html"
    live_template = "admin/executions/run/live.html"
    list_display = [
        "plan_name", "case", "shown_status", "why", "progress_bar", "triggered_by", "shown_labels", "tenant", "age", "took",
    ]  # fmt: skip
    list_filter = ["status", ("reason", ReasonFilter), ("tenant", TenantFilter), SubmittedFilter, LabelFilter]
    list_per_page = 25
    search_fields = ["id"]  # makes the box appear; what is searched: get_search_results
    search_help_text = "Search by run id, correlation id, who asked, part of a plan's name, or label (team:finance)"
    list_select_related = ["plan", "tenant"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Run]:
        """The runs of the person's tenants, by their keys: with a single one, an index has them in order."""
        everything = Run.objects.order_by("-id")
        if request.user.is_superuser:
            return everything
        tenants = [tenant.pk for tenant in tenants_of(request.user)]
        return everything.filter(tenant=tenants[0]) if len(tenants) == 1 else everything.filter(tenant__in=tenants)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """A list that leaves the long values where they are."""
        return RunList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Run], search_term: str
    ) -> tuple[QuerySet[Run], bool]:
        """Look where an index leads."""
        term = search_term.strip()
        return queryset.filter(found_by(term, request.user)) if term else queryset, False

    def title_of(self, obj: Run) -> str:
        """The plan's name and the status."""
        return f"{obj.plan.name}: {obj.get_status_display().lower()}"

    def live_version(self, obj: Run) -> str:
        """A run's version grows with everything that shows."""
        return str(obj.version)

    def live_context(self, request: HttpRequest, obj: Run) -> dict[str, Any]:
        """Status, commands, steps and events."""
        may_command = request.user.has_perm("executions.change_run")
        steps = steps_of(obj)
        names = {step.id: step.name for step in steps}
        events = [(event, names.get(event.subject, "")) for event in obj.events.order_by("-sequence")[:LONGEST_HISTORY]]
        return {
            "run": obj,
            "steps": steps,
            "commands": runs.allowed_commands(obj) if may_command else [],
            "events": events[::-1],
            "error_text": error_text(obj.error),
            "error_details": {name: value for name, value in (obj.error or {}).items() if name != "message" and value},
            "rollback": {
                name: value for name, value in (obj.rollback or {}).items() if name != "plan_run_id" and value
            },
            "waiting": obj.clarifications.filter(status="pending").order_by("requested_at"),
        }

    def page_context(self, request: HttpRequest, obj: Run) -> dict[str, Any]:
        """What became of the token that let it in, and where it is revoked."""
        token_id, expires_at = (obj.capability.get(name) for name in ("token_id", "expires_at"))
        if not token_id:
            return {}
        words = urlencode({"tenant": obj.tenant_id, "token_id": token_id})
        may_revoke = request.user.has_perm("executions.add_revokedtoken")
        return {
            "expires_at": expires_at and parse_datetime(expires_at),
            "revoked": RevokedToken.objects.filter(tenant=obj.tenant_id, token_id=token_id).first(),
            "revoke_url": f"{reverse('admin:executions_revokedtoken_add')}?{words}" if may_revoke else "",
        }

    def act(self, request: HttpRequest, obj: Run) -> HttpResponse:
        """Pause, resume or cancel."""
        word = request.POST.get("command", "")
        if word in COMMANDS and request.user.has_perm("executions.change_run"):
            by = request.user.get_username()
            command = denials.recorded(tenant=obj.tenant, by=by)(COMMANDS[Command(word)])
            self.attempt(request, lambda: command(obj.pk, by=by), success=DONE[Command(word)])
        else:
            self.message_user(request, "You may not steer runs: ask for the permission “Can change run”.", "error")
        return HttpResponseRedirect(self.url_of(obj))

    @display(description="Plan", ordering="plan__name")
    def plan_name(self, obj: Run) -> str:
        """The plan's name: rows are known by it."""
        return obj.plan.name

    @display(description="Correlation", ordering="correlation_id")
    def case(self, obj: Run) -> SafeString:
        """What the caller knows it by, shortened where it is long."""
        text = obj.correlation_id if len(obj.correlation_id) <= SHORT else f"{obj.correlation_id[:8]}…"
        return format_html('<span title="{}">{}</span>', obj.correlation_id, text)

    @display(description="Labels")
    def shown_labels(self, obj: Run) -> SafeString:
        """The first labels, each a link to all runs that have it."""
        words = [f"{name}:{value}" if value else name for name, value in obj.labels.items()]
        links = format_html_join(
            " ", '<a class="o-link" href="?{}" title="{}">{}</a>',
            ((urlencode({"label": word}), word, Truncator(word).chars(LONGEST_LABEL)) for word in words[:MOST_LABELS]),
        )  # fmt: skip
        more = len(words) - MOST_LABELS
        return (
            format_html('{} <span class="o-none" title="{}">+{}</span>', links, ", ".join(words), more)
            if more > 0
            else links
        )

    @display(description="Status", ordering="status", label={**TONES, RunStatus.PENDING: ""})
    def shown_status(self, obj: Run) -> tuple[str, str]:
        """The status as a coloured label."""
        return obj.status, obj.get_status_display()

    @display(description="Why", ordering="reason")
    def why(self, obj: Run) -> str:
        """The reason in words."""
        return obj.get_reason_display()

    @display(description="Progress", ordering="progress")
    def progress_bar(self, obj: Run) -> SafeString:
        """How much of the run's steps is done."""
        return format_html(
            '<progress class="o-progress" max="1" value="{}">{}%</progress>', obj.progress, percent(obj.progress)
        )

    @display(description="Submitted", ordering="-id")
    def age(self, obj: Run) -> SafeString | str:
        """How long ago it was submitted."""
        return ago(obj.created_at)

    @display(description="Took")
    def took(self, obj: Run) -> SafeString | str:
        """Seconds from the start to the end, or to now."""
        return elapsed_since(obj.started_at, obj.finished_at)
