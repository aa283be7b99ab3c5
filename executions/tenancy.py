"""The second wall between tenants: PostgreSQL itself shows a request or a job the rows of one tenant.

Every query of ours names its tenant; should one forget to, row-level security answers for it (docs/adr/0009-row-level-security).
Within `only` the connection takes on the role ROLE, to which the policies of migration 0011 apply: it sees and writes rows of the
tenants in the setting VISIBLE and no others. Outside, the connection is the tables' owner, whom no policy binds: jobs that look
for work, commands, migrations, superusers in the admin, and the look for whose API key it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from uuid import UUID

from django.db import DatabaseError, connection
from django.db.backends.signals import connection_created
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from psycopg.errors import InFailedSqlTransaction

ROLE = "orchestrator_tenant"
VISIBLE = "orchestrator.tenants"
BECOME = f"SELECT set_config('role', %s, false), set_config('{VISIBLE}', %s, false)"

_seen: ContextVar[tuple[UUID, ...] | None] = ContextVar("tenants", default=None)  # None: no wall


@contextmanager
def only(*tenants: UUID) -> Iterator[None]:
    """Let the block see and write nothing but what belongs to these tenants; without any, nothing of any tenant.

    Best outside a transaction: where one fails, PostgreSQL takes back what was set within it.
    """
    before = _seen.get()
    _see(tenants)
    try:
        yield
    finally:
        _see(before)


@contextmanager
def every_tenant() -> Iterator[None]:
    """Do the block as the owner of the tables; for a query whose own conditions name the tenant.

    Never around a write of what belongs to a tenant; people's own accounts belong to none.
    """
    before = _seen.get()
    _see(None)
    try:
        yield
    finally:
        _see(before)


def see_only(tenants: Collection[UUID]) -> None:
    """What `only` does, until the end of the request; needs TenancyMiddleware."""
    _see(tuple(tenants))


class TenancyMiddleware:
    """Ends what a request's authentication began, so that the next one on this connection starts as nobody's."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer the request, then take the wall down."""
        try:
            return self.get_response(request)
        finally:
            _see(None)


class StaffTenancyMiddleware:
    """Lets a person in the admin see the rows of the person's own tenants; a superuser sees all. Needs request.user."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Build the wall before any view."""
        user: Any = request.user if request.path.startswith("/admin/") else None
        if user is not None and user.is_authenticated and not user.is_superuser:
            see_only(user.tenants.values_list("pk", flat=True))
        return self.get_response(request)


def _see(tenants: tuple[UUID, ...] | None) -> None:
    if tenants == _seen.get():
        return
    _seen.set(tenants)
    if connection.connection is None:  # `_on_connect` does it
        return
    try:
        _become(tenants)
    except DatabaseError as error:
        if isinstance(error.__cause__, InFailedSqlTransaction):  # its rollback takes back what was set within it
            return
        if connection.in_atomic_block:
            raise
        connection.close()  # the next one is made as it is to be


def _become(tenants: tuple[UUID, ...] | None) -> None:
    role = "none" if tenants is None else ROLE
    with connection.cursor() as cursor:
        cursor.execute(BECOME, [role, ",".join(map(str, tenants or ()))])


@receiver(connection_created)
def _on_connect(**_: Any) -> None:
    """A connection that is made anew in the middle of something knows of no wall yet."""
    if (tenants := _seen.get()) is not None:
        _become(tenants)
