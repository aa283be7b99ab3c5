"""A person at a screen: log in, read the card, decide with the keyboard, see it take effect without a reload.

Needs a Chromium (Debian: apt-get install chromium); without one the test is skipped, and says so.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.urls import reverse
from django.utils import timezone

from approvals_bridge.models import Clarification
from executions.models import IdempotencyRecord, Run
from tests.factories.models import ClarificationFactory, PlanFactory, RunFactory, TenantFactory, UserFactory, staff_of

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
APPROVER = ("decide_clarification", "view_clarification", "view_run", "change_run", "view_plan")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="NO BROWSER TEST: no chromium here; apt-get install chromium"),
]


@pytest.fixture(params=[(1280, 900), (390, 844)], ids=["desktop", "phone"])
def page(request, live_server, monkeypatch) -> Iterator[Any]:
    """A fresh tab; the test fails on an error in its console and on a request to another server (`page.complaints`)."""
    from playwright.sync_api import sync_playwright

    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")  # playwright runs an event loop in the test's thread
    width, height = request.param
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": width, "height": height}, base_url=live_server.url)
        complaints: list[str] = []
        page.complaints = complaints
        at_home = (live_server.url, f"blob:{live_server.url}", "data:")
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
        page.on(
            "request",
            lambda one: None if one.url.startswith(at_home) else complaints.append(one.url),
        )
        yield page
        browser.close()
        connection.close()  # inside playwright's event loop Django keeps a connection of its own
        assert not complaints, "\n".join(complaints)


@pytest.fixture
def approver(transactional_db):
    tenant = TenantFactory(identifier="acme", name="Acme")
    return staff_of(tenant, username="bob", permissions=APPROVER)


def log_in(page: Any, address: str) -> None:
    page.goto(address)
    page.get_by_label("Username").fill("bob")
    page.get_by_label("Password").fill("secret")
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: url.endswith(address) and "next=" not in url)


def test_a_person_approves_with_the_keyboard_and_sees_it_delivered(page, approver):
    clarification = ClarificationFactory(run__tenant=approver.tenants.get(), run__status="paused")
    log_in(page, reverse("admin:approvals_bridge_clarification_change", args=[clarification.pk]))
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]

    page.get_by_label("Reason").focus()
    page.keyboard.type("Pictures checked.")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Approve"
    page.keyboard.press("Enter")

    page.get_by_text("Delivering to Portia").wait_for()
    clarification.refresh_from_db()
    assert (clarification.status, clarification.decision_reason) == ("approved", "Pictures checked.")
    page.evaluate("window.untouched = true")
    Clarification.objects.filter(pk=clarification.pk).update(delivered_at=timezone.now())
    page.get_by_text("Delivered to Portia").wait_for(timeout=5000)
    assert page.evaluate("window.untouched")


def test_a_run_page_follows_its_run_and_keeps_what_was_unfolded(page, approver):
    run = RunFactory(tenant=approver.tenants.get(), status="running")
    log_in(page, reverse("admin:executions_run_change", args=[run.pk]))
    page.get_by_text("Cancel…").click()
    page.get_by_text("this cannot be undone").wait_for()

    run.progress = 0.75
    run.touch("progress")
    page.get_by_text("75%").last.wait_for(timeout=5000)
    assert page.get_by_text("this cannot be undone").is_visible()
    page.get_by_role("button", name="Cancel this run").click()
    page.get_by_text("The run is being cancelled").wait_for()
    assert Run.objects.get(pk=run.pk).requested == "cancel"


def test_forms_records_and_lists_fit_the_screen_however_long_their_words_are(page, transactional_db):
    tenant = TenantFactory(identifier="acme", name="Acme")
    UserFactory(username="bob", is_staff=True, is_superuser=True)
    PlanFactory(tenant=tenant, name="onboard_customer_" * 12, version="2026.11.24-rc1+build.20261124")
    now = timezone.now()
    record = IdempotencyRecord.objects.create(
        tenant=tenant, principal="agent", key="k" * 255, route="POST /v1/execute", fingerprint="0" * 64,
        response_status=202, created_at=now, expires_at=now + timedelta(days=1),
    )  # fmt: skip
    log_in(page, reverse("admin:executions_tenant_change", args=[tenant.pk]))
    page.get_by_text("Chosen members").wait_for()
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.goto(reverse("admin:executions_idempotencyrecord_change", args=[record.pk]))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.goto(reverse("admin:executions_plan_changelist"))
    link = page.get_by_role("link", name="Runs of this plan").bounding_box()
    assert link["x"] + link["width"] <= width
    assert link["height"] < 30
