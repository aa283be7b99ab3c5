"""The whole service as real processes, each of which may be killed; and `manage.py up` around it."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import requests
from django.conf import settings

from orchestrator_project.stack import Stack, StackError, heartbeat, running_stack
from tests.orchestrator_project.processes import descendants_of, is_alive, on_the_test_database, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.django_db(transaction=True)]


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).status_code < 500
    except requests.ConnectionError:
        return False


def is_up(stack: Stack) -> dict[str, Callable[[], bool]]:
    return {
        "web": lambda: answers(f"{stack.web_url}/health"),
        "portia": lambda: answers(f"{stack.portia_url}/api/v1/health"),
        "worker": lambda: (pid := stack.pid("worker")) is not None and heartbeat(pid) is not None,
    }


def test_every_part_comes_back_when_it_is_killed():
    with running_stack(environment=on_the_test_database()) as stack:
        for name, up in is_up(stack).items():
            killed = stack.pid(name)
            os.kill(killed, signal.SIGKILL)
            wait_until(lambda name=name, killed=killed: stack.pid(name) not in (None, killed))
            wait_until(up)
        pids = [stack.pid(name) for name in is_up(stack)]
    assert not any(map(is_alive, pids))


def test_a_taken_port_is_named_with_the_flag_that_changes_it():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StackError) as refused:
            running_stack(port=port).__enter__()
    assert str(refused.value).startswith(f"Port {port} is in use by another program: choose another with --port")


def start_up(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, settings.BASE_DIR / "manage.py", "up", *arguments], stdout=subprocess.PIPE, text=True,
        stderr=subprocess.STDOUT, env=os.environ | on_the_test_database(),
    )  # fmt: skip


def read_until(process: subprocess.Popen[str], text: str) -> str:
    read = ""
    while text not in read:
        line = process.stdout.readline()
        assert line, f"{text!r} never came:\n{read}"
        read += line
    return read


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_up_shows_where_everything_is_and_stops_in_peace(number):
    with start_up("--free-ports") as up:
        shown = read_until(up, "Ctrl-C stops everything.")
        assert re.search(r"API +http://127\.0\.0\.1:\d+/v1", shown)
        assert "API key of tenant demo: " in shown
        processes, started = descendants_of(up.pid), time.monotonic()
        up.send_signal(number)
        rest, _ = up.communicate(timeout=15)
    assert up.returncode == 0
    assert time.monotonic() - started < 10
    assert "Traceback" not in shown + rest
    assert not any(map(is_alive, processes))


def test_nothing_outlives_a_killed_up():
    with start_up("--free-ports") as up:
        read_until(up, "Ctrl-C stops everything.")
        processes = descendants_of(up.pid)
        up.kill()
        wait_until(lambda: not any(map(is_alive, processes)), seconds=3)
