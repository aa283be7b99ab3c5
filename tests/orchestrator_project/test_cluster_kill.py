"""A real cluster whose processes are killed: work goes on, is done once, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from django.conf import settings
from django.db import connection, transaction

from orchestrator_project.jobs import kick
from orchestrator_project.models import JobSlot, WorkerNode
from tests.orchestrator_project import scratch_jobs
from tests.orchestrator_project.processes import is_alive, living, wait_until
from tests.orchestrator_project.scratch_jobs import add, rows

pytestmark = [
    pytest.mark.processes,
    pytest.mark.django_db(transaction=True, available_apps=["orchestrator_project", "django_q"]),
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere django-q2's own cluster runs"),
]


class Cluster:
    """`manage.py qcluster` as a process of its own, on the test database."""

    def __init__(self, log: Path) -> None:
        self.log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, settings.BASE_DIR / "manage.py", "qcluster"], start_new_session=True, stderr=output,
                stdout=output, env=os.environ | {
                    "DJANGO_SETTINGS_MODULE": "tests.orchestrator_project.scratch_settings",
                    "SCRATCH_DATABASE": connection.settings_dict["NAME"], "DATA_DIR": str(settings.DATA_DIR),
                    "PYTHONPATH": str(settings.BASE_DIR),
                },
            )  # fmt: skip
        wait_until(lambda: WorkerNode.objects.filter(pid=self.process.pid).exists())

    def pids(self, role: str = "q-") -> list[int]:
        """The living processes of the cluster of that role: q-main, q-sentinel, q-pusher, q-monitor, q-worker."""
        return [pid for pid, name, _, group in living() if group == self.process.pid and name.startswith(role)]

    def kill(self, role: str) -> None:
        killed = self.pids(role)
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, killed)))

    def exit_status(self, seconds: float = 8) -> int:
        return self.process.wait(seconds)


def submit(kind: str = "quick", **options) -> None:
    with transaction.atomic():
        add(kind, **options)
        kick(kind)


def all_done() -> bool:
    return all(done for (done,) in rows("done"))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running_cluster(tmp_path / "cluster.log") as running:
        yield running


@contextmanager
def running_cluster(log: Path) -> Iterator[Cluster]:
    JobSlot.objects.all().delete()
    with connection.cursor() as cursor:
        cursor.execute(scratch_jobs.CREATE)
    running = Cluster(log)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            os.killpg(running.process.pid, signal.SIGKILL)
            running.process.wait()
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE scratch_job")


@pytest.mark.parametrize("role", ["q-worker", "q-pusher", "q-monitor"])
def test_an_idle_process_may_be_killed(cluster, role):
    cluster.kill(role)
    submit(count=20)
    assert wait_until(all_done) < 3
    cluster.kill(role)
    submit(count=20)
    assert wait_until(all_done) < 3
    assert set(rows("done, starts")) == {(1, 1)}
    with connection.cursor() as cursor:
        wait_until(lambda: cursor.execute("SELECT 1 FROM django_q_ormq").rowcount == 0, seconds=3)


def test_the_work_of_a_killed_worker_is_done_by_another(cluster):
    submit("slow", seconds=1.0)
    wait_until(lambda: rows("starts") == [(1,)])
    ((pid,),) = rows("pid")
    os.kill(pid, signal.SIGKILL)
    submit("quick")
    assert wait_until(lambda: rows("done, kind")[-1] == (1, "quick")) < 1
    wait_until(all_done)
    assert rows("id, kind, starts, done")[0][1:] == ("slow", 2, 1)


@pytest.mark.parametrize("kind", ["slow", "deaf"])
def test_a_job_that_hangs_is_ended_and_rests(cluster, kind):
    submit(kind, seconds=60)
    wait_until(lambda: rows("starts") == [(1,)])
    ((pid,),) = rows("pid")
    wait_until(lambda: pid not in cluster.pids("q-worker"), seconds=8)
    submit("quick")
    assert wait_until(lambda: (1, "quick") in rows("done, kind")) < 1
    wait_until(lambda: len(cluster.pids("q-worker")) == 5)


@pytest.mark.parametrize("role", ["q-sentinel", "q-main"])
def test_nothing_outlives_a_killed_cluster(cluster, role):
    cluster.kill(role)
    assert cluster.exit_status() == (71 if role == "q-sentinel" else -signal.SIGKILL)
    wait_until(lambda: not cluster.pids(), seconds=2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_lets_running_work_end(cluster, number):
    submit("slow", seconds=1.0)
    wait_until(lambda: rows("starts") == [(1,)])
    os.killpg(cluster.process.pid, number)
    assert cluster.exit_status() == 0
    assert rows("done, starts") == [(1, 1)]
    assert "Traceback" not in cluster.log.read_text()


def test_an_idle_cluster_stops_at_once(cluster):
    started = time.monotonic()
    cluster.process.terminate()
    assert cluster.exit_status() == 0
    assert time.monotonic() - started < 3
    assert not cluster.pids()


def test_work_goes_on_after_every_database_session_was_lost(cluster):
    with psycopg.connect(**connection.get_connection_params(), autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> %s"
            " AND pid <> pg_backend_pid()",
            [connection.connection.info.backend_pid],
        )
    submit(count=20)
    assert wait_until(all_done) < 3
    assert set(rows("done")) == {(1,)}


def test_two_clusters_share_the_work(cluster, tmp_path):
    second = Cluster(tmp_path / "second.log")
    try:
        submit("slow", count=8, seconds=0.2)
        wait_until(all_done)
        assert set(rows("starts, done")) == {(1, 1)}
    finally:
        second.process.terminate()
        assert second.exit_status() == 0


def test_a_cluster_without_its_tables_says_what_to_do(cluster):
    done = subprocess.run(
        [sys.executable, settings.BASE_DIR / "manage.py", "qcluster"], capture_output=True, text=True, check=False,
        env=os.environ | {
            "DJANGO_SETTINGS_MODULE": "tests.orchestrator_project.scratch_settings", "SCRATCH_DATABASE": "postgres",
            "DATA_DIR": str(settings.DATA_DIR), "PYTHONPATH": str(settings.BASE_DIR),
        },
    )  # fmt: skip
    assert done.returncode == 1
    assert "manage.py migrate" in done.stderr
    assert "Traceback" not in done.stderr
