"""The embedded server: started by whoever comes first, shared by all, stopped by the last one."""

import os
import signal
import subprocess
import sys

import psycopg
import pytest

from orchestrator_project.embedded_postgres import DATABASE, ROLE, EmbeddedPostgres

pytestmark = pytest.mark.processes

USER = """
import sys
from pathlib import Path
from orchestrator_project.embedded_postgres import EmbeddedPostgres
import psycopg
server = EmbeddedPostgres(Path(sys.argv[1]))
server.ensure_running()
with psycopg.connect(host=str(server.socket_dir), user="orchestrator", dbname="orchestrator") as connection:
    connection.execute(sys.argv[2])
print(server.socket_dir, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "it's a folder" / "postgres"


def start(folder, statement="select 1"):
    return subprocess.Popen(
        [sys.executable, "-c", USER, str(folder), statement], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def finish(process):
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_processes_started_at_once_share_one_server_and_the_last_one_stops_it(folder):
    processes = [start(folder) for _ in range(4)]
    assert len({process.stdout.readline() for process in processes}) == 1
    for process in processes[:3]:
        finish(process)
    assert EmbeddedPostgres(folder).is_running()
    finish(processes[3])
    assert not EmbeddedPostgres(folder).is_running()


def test_the_data_is_still_there_after_a_stop(folder):
    finish(start(folder, "create table kept as select 7 as number"))
    finish(start(folder, "do $$ begin assert (select number from kept) = 7; end $$"))


def test_a_killed_user_leaves_a_server_that_the_next_one_takes_over(folder):
    killed = start(folder)
    killed.stdout.readline()
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert EmbeddedPostgres(folder).is_running()
    finish(start(folder))
    assert not EmbeddedPostgres(folder).is_running()


def test_a_killed_server_comes_back_with_the_next_user(folder):
    first = start(folder, "create table kept as select 7 as number")
    first.stdout.readline()
    os.kill(int((folder / "cluster" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
    finish(start(folder, "do $$ begin assert (select number from kept) = 7; end $$"))
    finish(first)
    assert not EmbeddedPostgres(folder).is_running()


def test_a_deep_folder_gets_a_short_private_socket_folder(tmp_path):
    server = EmbeddedPostgres(tmp_path / ("x" * 120))
    assert len(os.fsencode(server.socket_dir)) < 100
    assert str(os.geteuid()) in server.socket_dir.name


def test_our_role_is_no_superuser(folder):
    process = start(folder)
    host = process.stdout.readline().strip()
    with psycopg.connect(host=host, user=ROLE, dbname=DATABASE) as connection:
        row = connection.execute("select rolsuper, rolbypassrls from pg_roles where rolname = current_user").fetchone()
    assert row == (False, False)
    finish(process)
