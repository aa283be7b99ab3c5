"""Staff see their own tenants in the admin, and nothing of any other: every page there is, with every permission there is.

The pages come from the table of routes, the models from the admin's registry; a new model fails here until OBJECTS can make one,
or SERVICE_WIDE has the reason why it belongs to no tenant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission
from django.contrib.contenttypes.models import ContentType
from django.test import Client
from django.urls import get_resolver
from django.utils import timezone

from approvals_bridge.models import Clarification
from executions import audit, events
from executions.models import (
    ApiKey,
    AuditEntry,
    Event,
    IdempotencyRecord,
    Kind,
    Plan,
    RevokedToken,
    Run,
    Tenant,
    Work,
)
from orchestrator_project.models import JobSlot, LoginAttempts, WorkerNode
from tests.executions.test_authorization import walk
from tests.factories.models import (
    ApiKeyFactory,
    ClarificationFactory,
    PlanFactory,
    RunFactory,
    UserFactory,
    record_event,
    refund_document,
    staff_of,
)

pytestmark = pytest.mark.django_db

HERE = "tests/executions/test_admin_authorization.py"
MARK = "globex"  # is in every text of the other tenant's objects, and in none of ours
PART = "globe"  # what is searched for: the page says it again, so that it must not be the whole mark

# Models whose rows belong to no tenant, and who sees them.
SERVICE_WIDE = {
    JobSlot: "which kinds of work are being drained; errors by their class only",
    WorkerNode: "host and process of each worker",
    LoginAttempts: "for superusers",
    get_user_model(): "for superusers",
    Group: "for superusers",
}


def a_run(tenant: Tenant) -> Run:
    word = f"{tenant.identifier}-run"
    values = {"parameters": {word: word}, "results": {word: word}, "labels": {"team": word}, "triggered_by": word}
    return RunFactory(tenant=tenant, plan=a_plan(tenant), correlation_id=word, status="paused", **values)


def a_plan(tenant: Tenant) -> Plan:
    word = f"{tenant.identifier}-plan"
    found = Plan.objects.filter(tenant=tenant).first()
    return found or PlanFactory(tenant=tenant, document=refund_document(name=word), name=word, description=word)


def a_record(tenant: Tenant) -> IdempotencyRecord:
    now, word = timezone.now(), f"{tenant.identifier}-key"
    return IdempotencyRecord.objects.create(
        tenant=tenant, principal=word, key=f"{word}-{uuid4()}", route=word, fingerprint="0" * 64, response_status=202,
        created_at=now, expires_at=now + timedelta(days=1), response_headers={"Location": word},
    )  # fmt: skip


def a_work(tenant: Tenant) -> Work:
    run = a_run(tenant)
    Work.objects.schedule(run.pk, Kind.SYNC)
    return Work.objects.get(run=run)


def an_entry(tenant: Tenant) -> AuditEntry:
    word = f"{tenant.identifier}-deed"
    return audit.record(
        action="api_key.created", subject=word, by=word, tenant_id=tenant.pk, reason=word, after={"a": word}
    )


def a_revoked_token(tenant: Tenant) -> RevokedToken:
    word = f"{tenant.identifier}-token-{uuid4()}"
    return RevokedToken.objects.create(tenant=tenant, token_id=word, revoked_by=word, reason=word)


# How to make one of a tenant, with the tenant's identifier in all its texts.
OBJECTS: dict[type[Any], Callable[[Tenant], Any]] = {
    Tenant: lambda tenant: tenant,
    Plan: a_plan,
    Run: a_run,
    Event: lambda tenant: record_event(a_run(tenant), events.ACCEPTED, by=f"{tenant.identifier}-actor"),
    Work: a_work,
    IdempotencyRecord: a_record,
    ApiKey: lambda tenant: ApiKeyFactory(tenant=tenant, principal=f"{tenant.identifier}-service"),
    Clarification: lambda tenant: ClarificationFactory(
        run=a_run(tenant), title=f"{tenant.identifier}-question", guidance=f"{tenant.identifier}-guidance"
    ),
    AuditEntry: an_entry,
    RevokedToken: a_revoked_token,
}
MODELS = list(admin.site._registry)
OF_TENANTS = [model for model in MODELS if model not in SERVICE_WIDE and model in OBJECTS]
ADMIN = [route for route, _ in walk(get_resolver().url_patterns) if route.startswith("admin/")]
IN_ADDRESSES = re.compile(r"<[^>]+>|\(\?P<\w+>[^)]+\)|[\^$]")


@pytest.fixture
def olga(acme, globex, client):
    """A member of acme with every permission there is, at a browser; both tenants have one of everything."""
    person = staff_of(acme, username="olga")
    person.user_permissions.set(Permission.objects.all())
    staff_of(globex, username="globex-gina")
    Group.objects.create(name="globex-approvers")
    client.force_login(person)
    return client


def made(globex: Tenant, acme: Tenant) -> dict[type[Any], Any]:
    """One of everything of each tenant; the other tenant's, by model."""
    for model in OF_TENANTS:
        OBJECTS[model](acme)
    return {model: OBJECTS[model](globex) for model in OF_TENANTS}


def told(response: Any) -> str:
    """All that an answer says: where it leads, and its text."""
    body = b"".join(response.streaming_content) if response.streaming else response.content
    return (response.get("Location", "") + body.decode(errors="replace")).lower()


def list_of(model: type[Any]) -> str:
    return f"/admin/{model._meta.app_label}/{model._meta.model_name}/"


def test_every_model_of_the_admin_is_in_the_table():
    unknown = [model.__name__ for model in MODELS if model not in OBJECTS and model not in SERVICE_WIDE]
    assert not unknown, (
        f"The admin has new models: {unknown}. Add to OBJECTS in {HERE} how to make one of a tenant with the tenant's "
        "identifier in its texts; if its rows belong to no tenant, add it to SERVICE_WIDE there, with the reason."
    )


@pytest.mark.parametrize("model", OF_TENANTS, ids=lambda model: model.__name__)
def test_the_owner_finds_its_own_in_the_list(model, olga, acme, globex):
    made(globex, acme)
    assert olga.get(list_of(model)).context["cl"].result_list.count() >= 1


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_lists_filters_and_searches_show_nothing_of_another_tenant(model, olga, acme, globex):
    others = made(globex, acme)
    queries = ["", "?state=all", "?all=", f"?q={PART}", f"?state=all&q={PART}", f"?tenant__id__exact={globex.pk}"]
    queries += [f"?q={others[model].pk}"] if model in others else []
    for query in queries:
        response = olga.get(list_of(model) + query, follow=True)
        assert MARK not in told(response).replace(str(globex.pk), ""), query
    ordered = [f"?o={sign}{column}" for column in range(1, 12) for sign in ("", "-")]
    assert [query for query in ordered if MARK in told(olga.get(list_of(model) + query, follow=True))] == []


@pytest.mark.parametrize("model", OF_TENANTS, ids=lambda model: model.__name__)
def test_no_page_of_another_tenants_object_is_there(model, olga, acme, globex):
    found = made(globex, acme)[model]
    pages = [route for route in ADMIN if f"/{route}".startswith(list_of(model)) and "object_id>" in route]
    assert len(pages) >= 4, pages
    for route in pages:
        address = "/" + re.sub(r"<[^>]*object_id>", str(found.pk), route)
        for answer in (
            olga.get(address),
            olga.get(address, follow=True),
            olga.post(address, {"post": "yes"}, follow=True),
        ):
            assert MARK not in told(answer).replace(str(found.pk), ""), address
        assert olga.get(address).status_code in (302, 403, 404), address
    assert model.objects.filter(pk=found.pk).exists()


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_forms_offer_nothing_of_another_tenant(model, olga, acme, globex):
    made(globex, acme)
    own = OBJECTS[model](acme) if model in OBJECTS else None
    for address in ("add/", *([f"{own.pk}/change/"] if own else [])):
        assert MARK not in told(olga.get(list_of(model) + address, follow=True)), address


def test_no_other_page_says_anything_of_another_tenant(olga, acme, globex):
    others = made(globex, acme)
    pages = ["/admin/", f"/admin/?q={PART}", f"/admin/search/?s={PART}", "/admin/password_change/", "/admin/jsi18n/"]
    pages += [f"/admin/{label}/" for label in {model._meta.app_label for model in MODELS}]
    for model, found in others.items():
        which = f"app_label={model._meta.app_label}&model_name={model._meta.model_name}"
        fields = [field.name for field in model._meta.fields if field.remote_field]
        pages += [f"/admin/autocomplete/?term={PART}&{which}&field_name={name}" for name in fields]
        pages += [f"/admin/r/{ContentType.objects.get_for_model(model).pk}/{found.pk}/"]
    for page in pages:
        assert MARK not in told(olga.get(page, follow=True)), page


def test_nobody_sees_a_page_without_logging_in_as_staff(acme):
    customer = Client()
    customer.force_login(UserFactory(username="customer"))
    addresses = list(addresses_of_all_pages())
    assert len(addresses) > 50
    for address in addresses:
        for browser in (Client(), customer):
            response = browser.get(address)
            assert response.status_code == 302, address
            assert "/admin/login/" in response["Location"] or address == "/admin/logout/", address


def addresses_of_all_pages() -> Iterator[str]:
    """Every address of the admin but the page to log in at; 1 stands for whatever it asks for."""
    for route in ADMIN:
        if route != "admin/login/":
            yield "/" + IN_ADDRESSES.sub("1", route.replace("^", "").replace("$", ""))


def test_somebody_who_leaves_a_tenant_sees_nothing_of_it_from_then_on(olga, acme, globex):
    run = a_run(acme)
    page = f"{list_of(Run)}{run.pk}/change/"
    assert olga.get(page).status_code == 200
    acme.members.clear()
    assert olga.get(page).status_code == 404
    assert "acme" not in told(olga.get(list_of(Run)))
