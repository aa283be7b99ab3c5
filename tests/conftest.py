"""Fixtures every test may use: people of two tenants, an API client, the embedded runtime, and jobs run by hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from approvals_bridge import tasks as bridge_tasks
from executions import tasks
from executions.actions.tenants import create_api_key, create_tenant
from executions.models import AuditCheckpoint, AuditEntry, AuditLink, Run, Scope
from tests.portia_runtime.runtime_fixture import portia_runtime

__all__ = ["portia_runtime"]

EVERYTHING = [Scope.EXECUTE, Scope.READ, Scope.CONTROL]


@pytest.fixture(scope="session", autouse=True)
def audit_log_is_emptied_between_tests():
    """Let Django's flush, and nothing else, empty the append-only tables: as their owner, in its own transaction."""
    tables = [model._meta.db_table for model in (AuditEntry, AuditLink, AuditCheckpoint)]
    stock = connection.ops.sql_flush

    def sql_flush(*args: Any, **kwargs: Any) -> list[str]:
        statements = stock(*args, **kwargs)
        off, on = ([f"ALTER TABLE {table} {word} TRIGGER USER" for table in tables] for word in ("DISABLE", "ENABLE"))
        return [*off, *statements, *on] if any(tables[0] in one for one in statements) else statements

    connection.ops.sql_flush = sql_flush
    yield
    del connection.ops.sql_flush


@pytest.fixture
def acme(db):
    return create_tenant(identifier="acme", name="Acme")


@pytest.fixture
def globex(db):
    return create_tenant(identifier="globex", name="Globex")


class Api:
    """A consumer of the API with one key; `expect` is the status the caller counts on."""

    def __init__(self, secret: str) -> None:
        self.client = Client(headers={"authorization": f"Bearer {secret}"}, raise_request_exception=False)

    def get(self, path: str, *, expect: int = 200, **headers: str) -> Any:
        return self._checked(self.client.get(path, headers=headers), expect)

    def post(self, path: str, body: Any = None, *, expect: int, raw: bytes | None = None, **headers: str) -> Any:
        data = raw if raw is not None else b"" if body is None else body
        return self._checked(self.client.post(path, data, "application/json", headers=headers), expect)

    def _checked(self, response: Any, expect: int) -> Any:
        assert response.status_code == expect, response.content.decode()
        if expect >= 400:
            assert response["Content-Type"] == "application/problem+json"
        return response.json()


@pytest.fixture
def api(acme):
    """A service of acme."""
    return Api(create_api_key(tenant=acme, principal="agent", scopes=EVERYTHING)[1])


@pytest.fixture
def mallory(globex):
    """A service of another tenant."""
    return Api(create_api_key(tenant=globex, principal="mallory", scopes=EVERYTHING)[1])


@pytest.fixture
def person(django_user_model, acme) -> Callable[[str], Any]:
    """Make a staff member of acme who may decide."""
    from django.contrib.auth.models import Permission

    def make(name: str, **fields: Any) -> Any:
        user = django_user_model.objects.create_user(name, is_staff=True, password="correct horse", **fields)
        user.user_permissions.add(Permission.objects.get(codename="decide_clarification"))
        acme.members.add(user)
        return user

    return make


@pytest.fixture
def bob(person):
    return person("bob")


def personal_api(user: Any, tenant: Any) -> Api:
    """The API with the key of a person."""
    key = create_api_key(tenant=tenant, principal=user.username, scopes=[Scope.READ, Scope.DECIDE], user=user)
    return Api(key[1])


@pytest.fixture
def portia(portia_runtime, settings):
    """The embedded runtime, and the settings that lead to it."""
    settings.PORTIA_BASE_URL = portia_runtime.base_url
    return portia_runtime


DRAINS = (
    tasks.launch,
    tasks.deliver_commands,
    bridge_tasks.deliver_answers,
    tasks.sync,
    bridge_tasks.import_clarifications,
)


def work() -> int:
    """Do what is due now, once, as the workers would."""
    return sum(drain() for drain in DRAINS)


def work_until(run_id: Any, *, status: str | None = None, reason: str | None = None, seconds: float = 15) -> Run:
    """Work until the run shows this status or reason."""
    deadline = time.monotonic() + seconds
    while True:
        work()
        run = Run.objects.get(pk=run_id)
        if run.status == status or run.reason == reason:
            return run
        assert time.monotonic() < deadline, f"still {run.status}/{run.reason}: {run.error}"
        assert not run.is_terminal, f"ended as {run.status}/{run.reason}: {run.error}"
        time.sleep(0.02)
