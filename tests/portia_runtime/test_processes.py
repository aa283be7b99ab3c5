"""Real processes, killed: nothing is lost, no side effect happens twice, and what is uncertain is said to be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from urllib.parse import quote

import pytest
from django.conf import settings
from django.db import connection

from tests.portia_runtime.conftest import Client, step
from tests.portia_runtime.runtime_fixture import PortiaRuntime

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

SLOW = {"id": "slow", "tool": "tests.slow", "parameters": {"seconds": 2}}
COUNTED = [
    {"id": f"w{n}", "tool": "write_record", "parameters": {"key": "{{key}}", "increment": 1}} for n in range(3)
]  # fmt: skip


class Process:
    """A runtime in a process of its own."""

    def __init__(self) -> None:
        database = connection.settings_dict
        url = f"postgresql://{database['USER']}:{database['PASSWORD']}@/{database['NAME']}?host={quote(database['HOST'], '')}"
        environment = {
            **os.environ, "DATABASE_URL": url, "PORTIA_API_KEY": settings.PORTIA_API_KEY, "ANUMATE_ENV": "development",
            "PORTIA_RUNTIME_TOOLS": "tests.portia_runtime.slow_tool.slow",
        }  # fmt: skip
        self.popen = subprocess.Popen(
            [sys.executable, "manage.py", "portia_runtime", "--port", "0"],
            cwd=settings.BASE_DIR, env=environment, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        line = self.popen.stdout.readline()
        assert "ready at" in line, line
        base_url = line.split()[-1].removesuffix("/api/v1")
        self.client = Client(PortiaRuntime(base_url=base_url, api_key=settings.PORTIA_API_KEY))

    def end(self, number: int) -> int:
        self.popen.send_signal(number)
        code = self.popen.wait(20)
        self.popen.stdout.close()
        return code


@pytest.fixture
def start(transactional_db) -> Iterator[Callable[[], Process]]:
    started: list[Process] = []

    def start() -> Process:
        started.append(Process())
        return started[-1]

    yield start
    for process in started:
        if process.popen.poll() is None:
            process.end(signal.SIGKILL)


def until_running(client: Client, run):
    while step(run, "slow")["status"] != "running":
        assert run["status"] in ("pending", "running")
        run = client.get(f"/runs/{run['run_id']}", params={"wait": 5, "since": run["version"]})
    return run


def writes(client: Client, key: str) -> int:
    run = client.run({"id": "r", "tool": "read_record", "parameters": {"key": key}})
    return run["results"]["r"]["writes"]


def test_runs_of_a_killed_runtime_are_finished_by_the_next_with_each_effect_once(start):
    first = start()
    loop = {"id": "l", "type": "loop", "parameters": {"times": 10, "steps": [{"type": "action", **COUNTED[0]}]}}
    plan_id = first.client.plan(loop, *COUNTED)
    runs = [first.client.start(plan_id, variables={"key": f"k{n}"}) for n in range(20)]
    first.end(signal.SIGKILL)
    second = start()
    for n, run in enumerate(runs):
        assert second.client.until(run["run_id"], seconds=60)["status"] == "completed"
        assert writes(second.client, f"k{n}") == 13


def test_a_step_in_flight_at_the_kill_is_interrupted_unless_it_may_be_repeated(start):
    first = start()
    harmless = {**SLOW, "metadata": {"idempotent": True}}
    uncertain, repeatable = (first.client.start(first.client.plan(one)) for one in (SLOW, harmless))
    for run in (uncertain, repeatable):
        until_running(first.client, run)
    first.end(signal.SIGKILL)
    killed_at = time.monotonic()
    second = start()
    failed = second.client.until(uncertain["run_id"])
    assert time.monotonic() - killed_at < 15
    assert (failed["status"], failed["error_details"]["code"]) == ("failed", "interrupted")
    done = second.client.until(repeatable["run_id"])
    assert (done["status"], step(done, "slow")["attempts"]) == ("completed", 2)


def test_two_runtimes_share_the_work_and_one_may_die(start):
    one, other = start(), start()
    plan_id = one.client.plan(*COUNTED)
    runs = [client.start(plan_id, variables={"key": f"k{n}"}) for n in range(20) for client in (one.client,)]
    runs += [other.client.start(plan_id, variables={"key": f"k{n}"}) for n in range(20)]
    one.end(signal.SIGKILL)
    assert {other.client.until(run["run_id"], seconds=60)["status"] for run in runs} == {"completed"}
    assert [writes(other.client, f"k{n}") for n in range(20)] == [6] * 20


def test_a_change_by_one_runtime_ends_a_long_poll_at_the_other(start):
    one, other = start(), start()
    run = one.client.run({"id": "gate", "type": "approval", "parameters": {"message": "?"}})
    assert other.client.answer(other.client.question(run)).status_code == 200
    assert one.client.until(run["run_id"], "completed")["status"] == "completed"


def test_a_runtime_told_to_stop_is_gone_within_five_seconds_and_its_runs_go_on(start):
    first = start()
    run = first.client.start(first.client.plan(SLOW, {"id": "after", "tool": "echo"}))
    until_running(first.client, run)
    began = time.monotonic()
    assert first.end(signal.SIGTERM) == 0
    assert time.monotonic() - began < 5
    assert start().client.until(run["run_id"])["status"] == "completed"
