"""What a browser may do with our answers; in a real Chromium, on every page of the admin and of the documentation."""

from __future__ import annotations

import re

import pytest
from django.contrib import admin
from django.test import RequestFactory
from django.urls import NoReverseMatch, reverse

from orchestrator_project.content_security import ADMIN, DOCUMENTATION, NOTHING, OWN_PAGE
from tests.factories.models import (
    ApiKeyFactory,
    ClarificationFactory,
    PlanFactory,
    RunFactory,
    RunStepFactory,
    TenantFactory,
    UserFactory,
    record_event,
)
from tests.test_browser import log_in, page
from tests.test_browser import pytestmark as browser_marks

__all__ = ["page"]


def in_a_browser(test):
    """Run the test on a desktop, if there is a browser."""
    for mark in (*browser_marks, pytest.mark.parametrize("page", [(1280, 900)], ids=["desktop"], indirect=True)):
        test = mark(test)
    return test


@pytest.mark.parametrize("policy", [ADMIN, DOCUMENTATION, NOTHING, OWN_PAGE])
def test_no_policy_allows_inline_code_or_another_host(policy):
    assert policy.startswith("default-src 'none'; ")
    assert "'unsafe-inline'" not in policy
    assert not re.search(r"https?:|\*|//", policy)
    assert ("'unsafe-eval'" in policy) == (policy is ADMIN)
    assert all(f"{name} " in policy for name in ("base-uri", "form-action", "frame-ancestors"))


@pytest.mark.parametrize(
    ("path", "policy"),
    [
        ("/health", NOTHING), ("/v1/executions", NOTHING), ("/v1/nothing-here", NOTHING), ("/v1/schema", NOTHING),
        ("/static/executions/favicon.svg", NOTHING), ("/", OWN_PAGE), ("/admin/login/", ADMIN),
        ("/v1/docs", DOCUMENTATION), ("/v1/docs?script=", NOTHING), ("/v1/redoc", DOCUMENTATION),
    ],
)  # fmt: skip
@pytest.mark.django_db
def test_every_answer_says_what_a_browser_may_do_with_it(client, path, policy):
    answer = client.get(path)
    assert answer["Content-Security-Policy"] == policy
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "camera=()" in answer["Permissions-Policy"]
    if not path.startswith("/static"):
        assert (answer["Cross-Origin-Opener-Policy"], answer["Referrer-Policy"]) == ("same-origin", "same-origin")


def test_what_belongs_to_a_caller_is_kept_by_nobody(api):
    assert api.client.get("/v1/executions/0190a6d4-0000-7000-8000-000000000000")["Cache-Control"] == "no-store"
    run = RunFactory(tenant__identifier="other-one")
    assert api.client.get(f"/v1/executions/{run.pk}")["Cache-Control"] == "no-store"


def test_what_has_an_entity_tag_may_be_kept_by_the_caller_who_asks_each_time(api, acme):
    answer = api.client.get(f"/v1/executions/{RunFactory(tenant=acme).pk}")
    assert (answer.status_code, answer["Cache-Control"]) == (200, "private, no-cache")


def test_pages_of_the_admin_are_not_kept(admin_client):
    assert "no-store" in admin_client.get("/admin/")["Cache-Control"]


@in_a_browser
@pytest.mark.timeout(300)
def test_no_page_of_the_admin_violates_its_policy(page, transactional_db):
    boss = UserFactory(username="bob", is_staff=True, is_superuser=True)
    log_in(page, reverse("admin:index"))
    for address in addresses(boss, one_of_each(boss)):
        page.goto(address)
        page.wait_for_load_state("load")
        assert page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--color-primary-600')")
    page.goto(reverse("admin:executions_run_changelist"))
    page.keyboard.press("Control+k")
    page.keyboard.press("Control+e")


@in_a_browser
def test_swagger_ui_works_under_its_policy(page, transactional_db):
    page.goto("/v1/docs")
    page.get_by_text("/v1/execute").first.click()
    page.get_by_role("button", name="Try it out").first.wait_for()


@in_a_browser
def test_redoc_works_under_its_policy_which_keeps_it_from_fetching_its_makers_logo(page, transactional_db):
    page.goto("/v1/redoc")
    page.get_by_text("/v1/execute").first.wait_for()
    page.get_by_placeholder("Search...").fill("approval")
    page.get_by_role("search").get_by_role("menuitem").first.wait_for()
    assert len(page.complaints) == 2
    assert all("https://cdn.redoc.ly/redoc/logo-mini.svg" in one for one in page.complaints)
    page.complaints.clear()


def one_of_each(boss):
    tenant = TenantFactory(identifier="acme", name="Acme")
    tenant.members.add(boss)
    run = RunFactory(tenant=tenant, plan=PlanFactory(tenant=tenant), status="running")
    RunStepFactory(run=run)
    failed = RunFactory(tenant=tenant, plan=run.plan, status="failed")
    record_event(run)
    asked = [
        ClarificationFactory(run__tenant=tenant, **kind)
        for kind in ({}, *({name: True} for name in ("choice", "typed_input", "confirmation", "todo", "custom")))
    ]
    return [tenant, run, failed, run.plan, ApiKeyFactory(tenant=tenant), boss, *asked]


def addresses(boss, objects):
    """Every page of the admin that the person may open: of each model the list and the form, of each object its pages."""
    request = RequestFactory().get("/admin/")
    request.user = boss
    yield from (reverse(f"admin:{name}") for name in ("index", "password_change"))
    for model, pages in admin.site._registry.items():
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        if pages.has_view_or_change_permission(request):
            yield reverse(f"{name}_changelist")
        if pages.has_add_permission(request):
            yield reverse(f"{name}_add")
        for one in [*(one for one in objects if type(one) is model), *model._default_manager.all()[:1]]:
            yield reverse(f"{name}_change", args=[one.pk])
            if pages.has_delete_permission(request, one):
                yield reverse(f"{name}_delete", args=[one.pk])
            try:
                yield reverse(f"{name}_password_change", args=[one.pk])
            except NoReverseMatch:
                continue
