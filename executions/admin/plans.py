"""The plan page: what a stored ExecutablePlan does, step by step, in words; the document itself at the end."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import display

from executions.admin.base import PageAdmin
from executions.admin.filters import TenantFilter
from executions.admin.steps import MOST, main_steps, tool_words
from executions.models import Plan
from executions.templatetags.reading import ago, as_json


@admin.register(Plan)
class PlanAdmin(PageAdmin):
    """Plans: immutable, so there is nothing to do but read them."""

    page_template = "admin/executions/plan/page.html"
    list_display = ["name", "version", "short_hash", "tenant", "created_by", "age", "runs_link"]
    list_filter = [("tenant", TenantFilter), "created_at"]
    search_fields = ["name", "plan_hash", "description"]
    search_help_text = "Search by name, description or hash"
    list_select_related = ["tenant"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Plan]:
        """Plans without their documents, which lists do not show."""
        return super().get_queryset(request).defer("document")

    def page_context(self, request: HttpRequest, obj: Plan) -> dict[str, Any]:
        """Steps, tools and approvals of the plan, and the document as text."""
        document = obj.document
        known = {"flows", "main_flow", "security_context", "variables", "name", "description", "version"}
        return {
            "steps": [_line(step) for step in main_steps(obj)[:MOST]],
            "more_steps": max(0, len(main_steps(obj)) - MOST),
            "other_flows": [
                flow for flow in document.get("flows", []) if flow.get("flow_id") != document.get("main_flow")
            ],
            "security": document.get("security_context") or {},
            "variables": document.get("variables") or {},
            "rest": {name: value for name, value in document.items() if name not in known and value},
            "text": as_json(document),
            "runs_url": _runs_url(obj),
            "download_url": self.url_of(obj, "document"),
        }

    def get_urls(self) -> list[URLPattern]:
        """Add the document as a file."""
        view = self.admin_site.admin_view(self.document_view)
        return [path("<uuid:object_id>/document.json", view, name=self._name("document")), *super().get_urls()]

    def document_view(self, request: HttpRequest, object_id: Any) -> HttpResponse:
        """Answer the document as a JSON file."""
        plan = self.get_object_or_404(request, object_id)
        headers = {"Content-Disposition": f'attachment; filename="plan-{plan.plan_hash[:12]}.json"'}
        return HttpResponse(as_json(plan.document), content_type="application/json", headers=headers)

    @display(description="Hash", ordering="plan_hash")
    def short_hash(self, obj: Plan) -> SafeString:
        """The first characters of the hash."""
        return format_html('<code title="{}">{}</code>', obj.plan_hash, obj.plan_hash[:12])

    @display(description="Stored", ordering="-created_at")
    def age(self, obj: Plan) -> SafeString | str:
        """How long ago it was stored."""
        return ago(obj.created_at)

    @display(description="Runs")
    def runs_link(self, obj: Plan) -> SafeString:
        """A link to the runs of this plan; they are not counted, there may be a million."""
        return format_html('<a class="o-link" href="{}">Runs of this plan</a>', _runs_url(obj))


def _runs_url(plan: Plan) -> str:
    return reverse("admin:executions_run_changelist") + f"?plan__id__exact={plan.pk}"


def _line(step: dict[str, Any]) -> dict[str, Any]:
    return {
        **step,
        "called": tool_words(step.get("tool"), step.get("action")),
        "type_words": (step.get("step_type") or "action").replace("_", " "),
    }
