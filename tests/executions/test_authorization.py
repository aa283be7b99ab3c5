"""Who may call what: every route of the web process x everybody who may come to it, generated from the table of routes.

A new route fails here until CALLS has a request for it that is answered well, or OPEN the reason why anybody may make one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import URLResolver, get_resolver
from django.utils import timezone

from executions import captoken_keys
from executions.actions import captokens
from executions.actions.tenants import create_api_key, revoke_api_key
from executions.api.examples import plan
from executions.models import IdempotencyRecord, Plan, Scope, Tenant
from tests.factories.models import ApiKeyFactory, ClarificationFactory, PlanFactory, RunFactory, staff_of

pytestmark = pytest.mark.django_db

PRINCIPAL = "caller"
HERE = "tests/executions/test_authorization.py"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

# Routes that anybody may call without a key, and why.
OPEN = {
    "": "leads people to the admin, which has a login of its own",
    "health": "load balancers and monitors have no key; it names no tenant",
    ".well-known/jwks.json": "public keys, with which others check what the service signed",
    "v1/audit/keys": "public keys, with which anybody checks a receipt or a checkpoint of the audit log",
    "v1/schema": "the OpenAPI document, the same for everybody",
    "v1/docs": "the OpenAPI document for people",
    "v1/redoc": "the OpenAPI document for people",
}


def stored_plan(tenant: Tenant) -> str:
    welcome = plan("welcome")
    found = Plan.objects.filter(tenant=tenant, plan_hash=welcome["plan_hash"]).first()
    return (found or PlanFactory(tenant=tenant, document=welcome, plan_hash=welcome["plan_hash"])).plan_hash


def used_key(tenant: Tenant) -> str:
    now = timezone.now()
    IdempotencyRecord.objects.get_or_create(
        tenant=tenant, principal=PRINCIPAL, key="used", route="POST /v1/execute", fingerprint="0" * 64, response_status=202,
        defaults={"created_at": now, "expires_at": now + timedelta(days=1)},
    )  # fmt: skip
    return "used"


# What the names in an address stand for: how to make one of a tenant.
OBJECTS: dict[str, Callable[[Tenant], Any]] = {
    "run_id": lambda tenant: RunFactory(tenant=tenant, status="running"),
    "plan_hash": stored_plan,
    "clarification_id": lambda tenant: ClarificationFactory(run__tenant=tenant),
    "key": used_key,
    "key_id": lambda tenant: ApiKeyFactory(tenant=tenant, scopes=[Scope.ADMIN]),
    "token_id": lambda tenant: "tok-4711",
}


@dataclass(frozen=True)
class Call:
    """A request that is answered well.

    `body`: JSON, or made from the tenant and the objects in the address, by name; `objects`: others than OBJECTS has;
    `not_looked_up`: why another tenant's caller is not answered 404.
    """

    body: Any = None
    objects: dict[str, Callable[[Tenant], Any]] = field(default_factory=dict)
    not_looked_up: str = ""


def token_of(tenant: Tenant, _: dict[str, Any]) -> dict[str, Any]:
    issued = captokens.issue(tenant=tenant, by="olga", subject="carol", capabilities=["mail:send"])
    return {"token": issued.token}


def sealed(_: Tenant, made: dict[str, Any]) -> dict[str, Any]:
    return {"action_digest": made["clarification_id"].action_digest, "reason": "Looked at."}


# Every request that needs a key, by method and route.
CALLS: dict[str, Call] = {
    "POST v1/execute": Call(body={"plan_hash": plan("welcome")["plan_hash"], "parameters": {"email": "a@b.example"}}),
    "GET v1/executions": Call(),
    "GET v1/executions/<uuid:run_id>": Call(),
    "POST v1/executions/<uuid:run_id>/pause": Call(),
    "POST v1/executions/<uuid:run_id>/resume": Call(
        objects={"run_id": lambda tenant: RunFactory(tenant=tenant, status="paused", reason="pause_requested")}
    ),
    "POST v1/executions/<uuid:run_id>/cancel": Call(),
    "GET v1/executions/<uuid:run_id>/receipt": Call(
        objects={"run_id": lambda tenant: RunFactory(tenant=tenant, status="completed")}
    ),
    "GET v1/audit": Call(),
    "GET v1/plans": Call(),
    "POST v1/plans": Call(body=plan("refund")),
    "GET v1/plans/<str:plan_hash>": Call(),
    "POST v1/plans/<str:plan_hash>/validate": Call(body={"parameters": {"email": "a@b.example"}}),
    "GET v1/api-keys": Call(),
    "POST v1/api-keys": Call(body={"principal": "another", "scopes": ["admin"]}),
    "POST v1/api-keys/<uuid:key_id>/rotate": Call(),
    "POST v1/api-keys/<uuid:key_id>/revoke": Call(),
    "POST v1/captokens": Call(body={"subject": "carol", "capabilities": ["mail:send"]}),
    "POST v1/captokens/verify": Call(body=token_of),
    "POST v1/captokens/attenuate": Call(body=token_of),
    "POST v1/captokens/<path:token_id>/revoke": Call(
        body={"reason": "A trial."},
        not_looked_up="whatever the id, it is the caller's tenant that refuses it from then on",
    ),
    "GET v1/idempotency-keys/<path:key>": Call(),
    "POST v1/idempotency-keys/<path:key>/release": Call(body={"reason": "A trial."}),
    "GET v1/approvals": Call(),
    "GET v1/approvals/<uuid:clarification_id>": Call(),
    "POST v1/approvals/<uuid:clarification_id>/approve": Call(body=sealed),
    "POST v1/approvals/<uuid:clarification_id>/reject": Call(body=sealed),
    "POST v1/approvals/<uuid:clarification_id>/answer": Call(
        body={"value": "main"},
        objects={"clarification_id": lambda tenant: ClarificationFactory(run__tenant=tenant, choice=True)},
    ),
}


# -- the table of routes


def walk(patterns: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(route, view) of everything below these patterns."""
    for one in patterns:
        route = f"{prefix}{one.pattern}"
        if isinstance(one, URLResolver):
            yield from walk(one.url_patterns, route)
        else:
            yield route, one.callback


# The admin's own addresses: tests/executions/test_admin_authorization.py.
ROUTES = {
    route: getattr(view, "cls", None) or view.view_class
    for route, view in walk(get_resolver().url_patterns)
    if not route.startswith("admin/")
}
REQUESTS = {
    f"{method} {route}": view
    for route, view in ROUTES.items()
    if route not in OPEN
    for method in METHODS
    if hasattr(view, method.lower())
}


def test_every_route_is_in_the_table():
    missing, gone = sorted(REQUESTS.keys() - CALLS.keys()), sorted(CALLS.keys() - REQUESTS.keys())
    assert not missing, (
        f"{missing} are new. For each, add to CALLS in {HERE} a request that is answered well: "
        f"{missing[0]!r}: Call(body=…). If anybody may call it, add the route to OPEN there, with the reason."
    )
    assert not gone, f"{gone} are no routes any more: take them out of CALLS in {HERE}."
    assert set(OPEN) <= set(ROUTES), (
        f"{set(OPEN) - set(ROUTES)} are no routes any more: take them out of OPEN in {HERE}."
    )


def test_every_name_in_an_address_has_an_object():
    unknown = {name for route in ROUTES for name in names_in(route)} - OBJECTS.keys()
    assert not unknown, f"Add to OBJECTS in {HERE} how to make what these names in addresses stand for: {unknown}."


@pytest.mark.parametrize("request_line", sorted(REQUESTS))
def test_every_route_asks_for_a_scope(request_line):
    method, route = request_line.split(" ", 1)
    scopes = getattr(REQUESTS[request_line], "scopes", {})
    assert method in scopes, f"{route}: give its view `scopes = {{'{method}': Scope.…}}`; without, nobody may call it."


def names_in(route: str) -> list[str]:
    """The names of the parameters in a route: `<uuid:run_id>` is run_id."""
    return [part.partition(">")[0].rpartition(":")[2] for part in route.split("<")[1:]]


# -- who comes


def key_for(tenant: Tenant, scopes: set[str], **facts: Any) -> str:
    """A key with these scopes; `decide` makes it that of a person who may decide."""
    if Scope.DECIDE in scopes:
        facts.setdefault("user", staff_of(tenant, username=f"bob-{tenant.identifier}"))
    return create_api_key(tenant=tenant, principal=PRINCIPAL, scopes=scopes, **facts)[1]


def expired(tenant: Tenant, scope: Scope) -> str:
    secret = key_for(tenant, {scope})
    tenant.api_keys.filter(principal=PRINCIPAL).update(expires_at=timezone.now() - timedelta(seconds=1))
    return secret


def revoked(tenant: Tenant, scope: Scope) -> str:
    secret = key_for(tenant, {scope})
    revoke_api_key(tenant.api_keys.get(principal=PRINCIPAL), by="olga")
    return secret


def of_an_inactive_tenant(tenant: Tenant, scope: Scope) -> str:
    secret = key_for(tenant, {scope})
    Tenant.objects.filter(pk=tenant.pk).update(is_active=False)
    return secret


def of_one_who_left(tenant: Tenant, scope: Scope) -> str:
    person = staff_of(tenant, username="dora")
    secret = key_for(tenant, {scope}, user=person)
    tenant.members.remove(person)
    return secret


def of_one_who_was_locked_out(tenant: Tenant, scope: Scope) -> str:
    person = staff_of(tenant, username="dora")
    secret = key_for(tenant, {scope}, user=person)
    type(person).objects.filter(pk=person.pk).update(is_active=False)
    return secret


STRANGERS: dict[str, tuple[int, Callable[[Tenant, Scope], str | None]]] = {
    "without a key": (401, lambda tenant, scope: None),
    "with an unknown key": (401, lambda tenant, scope: "orc_" + "0" * 43),
    "with every scope but the right one": (403, lambda tenant, scope: key_for(tenant, set(Scope.values) - {scope})),
    "with an expired key": (401, expired),
    "with a revoked key": (401, revoked),
    "of an inactive tenant": (401, of_an_inactive_tenant),
    "who left the tenant": (401, of_one_who_left),
    "who may not log in any more": (401, of_one_who_was_locked_out),
}


def ask(request_line: str, secret: str | None, owner: Tenant, **headers: str) -> tuple[Any, dict[str, Any]]:
    """Make the request of CALLS about objects of `owner`; the answer, and those objects."""
    method, route = request_line.split(" ", 1)
    call = CALLS.get(request_line, Call())
    made = {name: (OBJECTS | call.objects)[name](owner) for name in names_in(route)}
    stored_plan(owner)
    address = "/" + route
    for part in route.split("<")[1:]:
        pattern = part.partition(">")[0]
        value = made[pattern.rpartition(":")[2]]
        address = address.replace(f"<{pattern}>", str(getattr(value, "pk", value)))
    if secret is not None:
        headers["authorization"] = f"Bearer {secret}"
    body = call.body(owner, made) if callable(call.body) else call.body
    sent = {} if method == "GET" else {"data": body if body is not None else {}, "content_type": "application/json"}
    client = Client(headers=headers, raise_request_exception=False)
    return getattr(client, method.lower())(address, **sent), made


def scope_of(request_line: str) -> Scope:
    return REQUESTS[request_line].scopes[request_line.partition(" ")[0]]


@pytest.fixture
def neighbours(away, settings, tmp_path):
    """No runtime, and a key pair that signs capability tokens."""
    private = tmp_path / "private.jwk"
    settings.CAPTOKENS_JWKS_FILE, settings.CAPTOKENS_SIGNING_KEY_FILE = tmp_path / "jwks.json", private
    captoken_keys.make(private=private, jwks=settings.CAPTOKENS_JWKS_FILE)


# -- the matrix


@pytest.mark.parametrize("who", STRANGERS)
@pytest.mark.parametrize("request_line", sorted(REQUESTS))
def test_a_stranger_is_turned_away(request_line, who, acme, neighbours):
    status, comes = STRANGERS[who]
    answer, _ = ask(request_line, comes(acme, scope_of(request_line)), acme)
    assert answer.status_code == status, answer.content
    assert answer["Content-Type"] == "application/problem+json"
    assert ("WWW-Authenticate" in answer) is (status == 401)


@pytest.mark.parametrize("request_line", sorted(REQUESTS))
def test_a_request_that_names_another_tenant_is_turned_away(request_line, acme, globex, neighbours):
    secret = key_for(acme, {scope_of(request_line)})
    answer, _ = ask(request_line, secret, acme, **{"x-tenant-id": globex.identifier})
    assert answer.status_code == 403, answer.content


@pytest.mark.parametrize("request_line", sorted(REQUESTS))
def test_another_tenants_objects_do_not_exist(request_line, acme, globex, neighbours):
    every_object = [make(acme) for name, make in OBJECTS.items() if name not in names_in(request_line)]
    answer, made = ask(request_line, key_for(globex, {scope_of(request_line)}), acme)
    if made and not CALLS.get(request_line, Call()).not_looked_up:
        assert answer.status_code == 404, answer.content
    told = answer.content.decode()
    assert [one for one in every_object if hasattr(one, "pk") and str(one.pk) in told] == []
    assert "acme" not in told.lower()


@pytest.mark.parametrize("request_line", sorted(REQUESTS.keys() & CALLS.keys()))
def test_who_may_is_answered(request_line, acme, neighbours):
    answer, _ = ask(request_line, key_for(acme, {scope_of(request_line)}), acme)
    assert 200 <= answer.status_code < 300, answer.content


@pytest.mark.parametrize("route", sorted(ROUTES.keys() - OPEN.keys()))
def test_a_method_nobody_has_is_refused_and_to_strangers_it_says_no_more(route, acme, neighbours):
    has = [method for method in METHODS if hasattr(ROUTES[route], method.lower())]
    secret = key_for(acme, set(Scope.values))
    for method in sorted(set(METHODS) - set(has)):
        address = f"{method} {route}"
        assert (ask(address, secret, acme)[0].status_code, ask(address, None, acme)[0].status_code) == (405, 401)


@pytest.mark.parametrize("route", sorted(OPEN))
def test_an_open_route_answers_anybody(route, db):
    assert Client().get(f"/{route}").status_code in (200, 302, 503), OPEN[route]
