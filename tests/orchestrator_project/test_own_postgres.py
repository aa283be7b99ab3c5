"""A PostgreSQL of one's own: which database users will do, and what is said of those that will not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from django.conf import settings

from orchestrator_project.embedded_postgres import TENANT_ROLE, EmbeddedPostgres

SEEN_BEHIND_THE_WALL = """
import django
django.setup()
from uuid import uuid4
from executions.models import Tenant
from executions.tenancy import only
Tenant.objects.create(identifier="acme", name="Acme")
with only(uuid4()):
    print("seen:", Tenant.objects.count())
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server of its own, as its administrator sees it: roles belong to the server, not to a database."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("own") / "postgres")
    server.ensure_running()
    with psycopg.connect(host=str(server.socket_dir), user="postgres", dbname="postgres", autocommit=True) as admin:
        admin.execute(f"DROP ROLE {TENANT_ROLE}")
        yield server.socket_dir, admin
    server.release()


@pytest.fixture
def owned_by(server, tmp_path):
    """Make a database whose owner has these rights; returns how to run Python on it."""
    socket_dir, admin = server

    def make(rights):
        admin.execute(f"CREATE ROLE owner LOGIN {rights}")
        admin.execute("CREATE DATABASE theirs OWNER owner")
        url = f"postgresql://owner@/theirs?host={quote(str(socket_dir), safe='')}"
        environment = os.environ | {
            "DATABASE_URL": url, "ANUMATE_ENV": "development", "DATA_DIR": str(tmp_path),
            "DJANGO_SETTINGS_MODULE": "orchestrator_project.settings",
        }  # fmt: skip
        return lambda *words: python(environment, *words)

    yield make
    admin.execute("DROP DATABASE theirs")
    admin.execute(f"DROP ROLE IF EXISTS {TENANT_ROLE}")
    admin.execute("DROP ROLE owner")


def python(environment, *words):
    command = [sys.executable, *words]
    return subprocess.run(
        command, cwd=Path(settings.BASE_DIR), env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("rights", ["CREATEROLE", "SUPERUSER"])
def test_a_user_who_may_create_roles_needs_nobodys_help(owned_by, rights):
    run = owned_by(rights)
    migrated = run("manage.py", "migrate", "-v0")
    assert migrated.returncode == 0, migrated.stderr
    seen = run("-c", SEEN_BEHIND_THE_WALL)
    assert "seen: 0" in seen.stdout, seen.stderr


def test_a_plain_user_is_told_what_an_administrator_has_to_run(owned_by, server):
    run = owned_by("")
    refused = run("manage.py", "migrate", "-v0")
    assert refused.returncode != 0
    assert f'CREATE ROLE {TENANT_ROLE} NOLOGIN; GRANT {TENANT_ROLE} TO "owner";' in refused.stderr
    server[1].execute(f"CREATE ROLE {TENANT_ROLE} NOLOGIN")
    server[1].execute(f"GRANT {TENANT_ROLE} TO owner")
    assert run("manage.py", "migrate", "-v0").returncode == 0
    assert "seen: 0" in run("-c", SEEN_BEHIND_THE_WALL).stdout


def test_a_role_that_sees_everything_is_no_wall(owned_by, server):
    run = owned_by("")
    server[1].execute(f"CREATE ROLE {TENANT_ROLE} NOLOGIN BYPASSRLS")
    server[1].execute(f"GRANT {TENANT_ROLE} TO owner")
    refused = run("manage.py", "migrate", "-v0")
    assert "NOBYPASSRLS" in refused.stderr
