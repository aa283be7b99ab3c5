"""Fixtures every test may use: people of two tenants, an API client, the embedded runtime, and jobs run by hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import override_settings

from approvals_bridge import tasks as bridge_tasks
from executions import tasks
from executions.actions.tenants import create_api_key, create_tenant
from executions.models import AuditCheckpoint, AuditEntry, AuditLink, Run, Scope
from tests.portia_runtime.runtime_fixture import portia_runtime

__all__ = ["portia_runtime"]

LONGEST = "test_contract.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take long, so that the two workers of `make test` end together (--no-loadscope-reorder)."""
    long = {item.path for item in items if item.path.name == LONGEST or item.get_closest_marker("processes")}
    items.sort(key=lambda item: (item.path.name != LONGEST, item.path not in long))


EVERYTHING = [Scope.EXECUTE, Scope.READ, Scope.CONTROL]


@pytest.fixture(scope="session", autouse=True)
def passwords_are_hashed_in_no_time():
    """Spare each of the people in the tests a third of a second; what hashes passwords is Django's, and tested there."""
    hashers = [f"django.contrib.auth.hashers.{name}PasswordHasher" for name in ("MD5", "PBKDF2")]
    with override_settings(PASSWORD_HASHERS=hashers):
        yield


APPEND_ONLY = [model._meta.db_table for model in (AuditEntry, AuditLink, AuditCheckpoint)]
SAME_FOR_ALL = {"django_content_type", "auth_permission"}  # what `migrate` fills, and no test changes


@pytest.fixture(scope="session", autouse=True)
def tables_are_emptied_by_delete():
    """Let Django's flush, between two tests, delete the few rows there are: TRUNCATE makes a new file for each of 40 tables.

    It alone empties the append-only tables: as their owner, in its own transaction.
    """

    def sql_flush(style: Any, tables: list[str], **_: Any) -> list[str]:
        off, on = (
            [f"ALTER TABLE {table} {word} TRIGGER USER" for table in APPEND_ONLY] for word in ("DISABLE", "ENABLE")
        )
        return [*off, *(f'DELETE FROM "{table}"' for table in sorted(set(tables) - SAME_FOR_ALL)), *on]

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
