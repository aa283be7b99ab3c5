"""The admin's first page: what waits for this person, what runs, what failed today."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import F
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from approvals_bridge.models import Clarification
from executions.models import Run, RunStatus

QUEUE = 8  # clarifications on the first page
MOST = 1000  # a count goes no further: beyond it, "1000+" says enough
UNFINISHED = [RunStatus.PENDING, RunStatus.RUNNING, RunStatus.PAUSED]


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Add the cards and the queue to the context of the first page (UNFOLD's DASHBOARD_CALLBACK)."""
    waiting = _visible(request, Clarification).filter(status="pending")
    queue = list(waiting.order_by(F("deadline").asc(nulls_last=True), "requested_at")[: QUEUE + 1])
    return {
        **context,
        "title": "Overview",
        "cards": _cards(request, waiting),
        "queue": [{"clarification": one, "url": _page(one)} for one in queue[:QUEUE]],
        "more": len(queue) > QUEUE,
        "queue_url": _list("approvals_bridge_clarification"),
    }


def waiting_badge(request: HttpRequest) -> str:
    """How many clarifications wait, for the navigation; empty for none."""
    number = _visible(request, Clarification).filter(status="pending")[:MOST].count()
    return str(number) if number else ""


def _cards(request: HttpRequest, waiting: Any) -> list[dict[str, Any]]:
    runs = _visible(request, Run)
    today = timezone.now().replace(hour=0, minute=0, second=0, microsecond=0)
    run_list = _list("executions_run")
    return [
        _card("waiting for a decision", waiting, _list("approvals_bridge_clarification"), tone="warning"),
        _card("running", runs.filter(status=RunStatus.RUNNING), f"{run_list}?status__exact=running"),
        _card("not finished", runs.filter(status__in=UNFINISHED), f"{run_list}?status__in=pending,running,paused"),
        _card(
            "failed today",
            runs.filter(status=RunStatus.FAILED, finished_at__gte=today),
            f"{run_list}?status__exact=failed&finished_at__gte={today:%Y-%m-%dT%H:%MZ}",
            tone="danger",
        ),
    ]


def _card(label: str, rows: Any, url: str, tone: str = "") -> dict[str, Any]:
    number = rows[:MOST].count()
    return {
        "label": label,
        "number": f"{MOST}+" if number == MOST else number,
        "url": url,
        "tone": tone if number else "",
    }


def _visible(request: HttpRequest, model: Any) -> Any:
    """The rows the model's admin would list for this person, none without the permission to look."""
    page = admin.site.get_model_admin(model)
    return page.get_queryset(request) if page.has_view_or_change_permission(request) else model.objects.none()


def _list(name: str) -> str:
    return reverse(f"admin:{name}_changelist")


def _page(clarification: Clarification) -> str:
    return reverse("admin:approvals_bridge_clarification_change", args=[clarification.pk])
