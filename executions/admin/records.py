"""What the service writes down, to look at: events, answers to repeated requests, work that is due."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import display

from executions import idempotency
from executions.admin.base import RecordAdmin
from executions.admin.filters import TenantFilter
from executions.models import Event, IdempotencyRecord, Run, Work
from executions.templatetags.reading import ago, event_words, moment, readable

STATES = {
    "completed": "answers repeats",
    "expired": "expired: the next request is a first one",
    "released": "released: the next request is a first one",
}


def link_to_run(run: Run) -> SafeString:
    """A link to a run, named by its plan."""
    return format_html(
        '<a class="o-link" href="{}">{}</a>', reverse("admin:executions_run_change", args=[run.pk]), run.plan.name
    )


def run_at(location: str, *, tenant_id: UUID) -> Run | None:
    """The run of this tenant that an address of the API names, while it is there."""
    try:
        run_id = UUID(location.removeprefix("/v1/executions/"))
    except ValueError:
        return None
    return Run.objects.filter(pk=run_id, tenant=tenant_id).select_related("plan").only("plan__name").first()


@admin.register(Event)
class EventAdmin(RecordAdmin):
    """Facts, as they are reported to others."""

    list_display = ["what", "run_link", "sequence", "actor", "tenant", "at"]
    list_filter = ["type", ("tenant", TenantFilter), "created_at"]
    search_fields = ["run__id", "correlation_id", "actor", "type"]
    list_select_related = ["run__plan", "tenant"]
    ordering = ["-id"]
    fields = [
        "what",
        "type",
        "run_link",
        "sequence",
        "actor",
        "shown_data",
        "correlation_id",
        "traceparent",
        "subject",
        "shown_at",
        "id",
    ]

    @display(description="What", ordering="type")
    def what(self, obj: Event) -> str:
        """The type in words."""
        return event_words(obj.type)

    @display(description="Run")
    def run_link(self, obj: Event) -> SafeString:
        """The run it is about."""
        return link_to_run(obj.run)

    @display(description="Data")
    def shown_data(self, obj: Event) -> SafeString:
        """What it says, as names and values."""
        return readable(obj.data)

    @display(description="When", ordering="-id")
    def at(self, obj: Event) -> SafeString | str:
        """How long ago."""
        return ago(obj.created_at)

    @display(description="When")
    def shown_at(self, obj: Event) -> SafeString | str:
        """The time, in UTC."""
        return moment(obj.created_at)


class ReleasedFilter(admin.SimpleListFilter):
    """Keys that were released, or those that were not."""

    title = "released"
    parameter_name = "released"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Yes and no."""
        return [("yes", "Released"), ("no", "Not released")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Those of the kind that is asked for."""
        wanted = {"yes": False, "no": True}.get(self.value() or "")
        return queryset if wanted is None else queryset.filter(released_at__isnull=wanted)


@admin.register(IdempotencyRecord)
class IdempotencyRecordAdmin(RecordAdmin):
    """Requests that were answered and will be answered the same way again; and keys that were released, by whom and why."""

    list_display = ["key", "shown_state", "shown_status", "route", "principal", "tenant", "age", "expires"]
    list_filter = ["origin", "response_status", ("tenant", TenantFilter), ReleasedFilter]
    search_fields = ["key", "principal", "route"]
    fields = [
        "key", "origin", "state_words", "route", "principal", "tenant", "answer_words", "made", "fingerprint",
        "first_used", "kept_until", "released", "released_by", "release_reason",
    ]  # fmt: skip
    list_select_related = ["tenant"]
    ordering = ["-id"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Leave the stored bodies where they are."""
        return super().get_queryset(request).defer("response_body")

    @display(
        description="State",
        label={"in_flight": "info", "completed": "success", "expired": "", "released": "warning"},
    )
    def shown_state(self, obj: IdempotencyRecord) -> tuple[str, str]:
        """Whether a repeat is still answered by it."""
        state = idempotency.state_of(obj)
        return state, {"completed": "answers repeats"}.get(state, state)

    @display(description="Answer", label={"ok": "success", "refused": "warning"})
    def shown_status(self, obj: IdempotencyRecord) -> tuple[str, str]:
        """The HTTP status of the answer."""
        return "ok" if obj.response_status < 400 else "refused", str(obj.response_status)

    @display(description="First used", ordering="created_at")
    def age(self, obj: IdempotencyRecord) -> SafeString | str:
        """How long ago the first request came."""
        return ago(obj.created_at)

    @display(description="Kept until", ordering="expires_at")
    def expires(self, obj: IdempotencyRecord) -> SafeString | str:
        """When the record is deleted."""
        return ago(obj.expires_at)

    @display(description="State")
    def state_words(self, obj: IdempotencyRecord) -> str:
        """The same for the page, which has no labels."""
        return STATES[idempotency.state_of(obj)]

    @display(description="Answer")
    def answer_words(self, obj: IdempotencyRecord) -> str:
        """The HTTP status with its name."""
        return f"{obj.response_status} {HTTPStatus(obj.response_status).phrase}"

    @display(description="Made")
    def made(self, obj: IdempotencyRecord) -> SafeString | str:
        """What the request made, as its answer named it; with a link where that is a run."""
        location = str(obj.response_headers.get("Location", "—"))
        run = run_at(location, tenant_id=obj.tenant_id)
        return location if run is None else format_html("{} <code>{}</code>", link_to_run(run), location)

    @display(description="First used")
    def first_used(self, obj: IdempotencyRecord) -> SafeString | str:
        """When the first request came, in UTC."""
        return moment(obj.created_at)

    @display(description="Kept until")
    def kept_until(self, obj: IdempotencyRecord) -> SafeString | str:
        """When the record is deleted, in UTC."""
        return moment(obj.expires_at)

    @display(description="Released")
    def released(self, obj: IdempotencyRecord) -> SafeString | str:
        """When somebody released the key, in UTC."""
        return moment(obj.released_at)


@admin.register(Work)
class WorkAdmin(RecordAdmin):
    """What workers are to do next; empty on a system at rest."""

    members_path = "run__tenant__members"
    list_display = ["what", "run_link", "when", "attempts", "state"]
    list_display_links = None
    list_filter = ["kind"]
    search_fields = ["run__id"]
    list_select_related = ["run__plan"]

    @display(description="What", ordering="kind")
    def what(self, obj: Work) -> str:
        """The kind of work, in words."""
        return obj.get_kind_display()

    @display(description="Run")
    def run_link(self, obj: Work) -> SafeString:
        """The run it is for."""
        return link_to_run(obj.run)

    @display(description="Due", ordering="due_at")
    def when(self, obj: Work) -> SafeString | str:
        """When it is due, or since when it is overdue."""
        return ago(obj.due_at)

    @display(description="State", label={"taken": "info", "overdue": "warning", "planned": ""})
    def state(self, obj: Work) -> tuple[str, str]:
        """Whether a worker has it, or should have."""
        if obj.lease_token is not None and obj.due_at > timezone.now():
            return "taken", "a worker has it"
        return ("overdue", "due") if obj.due_at <= timezone.now() else ("planned", "planned")
