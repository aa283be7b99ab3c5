"""The supervisor with small programs: they are shown, restarted, watched, stopped, and never left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator_project import supervisor
from orchestrator_project.supervisor import Program, Supervisor
from tests.orchestrator_project.processes import is_alive, wait_until

pytestmark = pytest.mark.processes

SLEEPS = "import time; print('ready'); time.sleep(60)"
IGNORES_TERM = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready'); time.sleep(60)"
HAS_A_CHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("child", child.pid)
time.sleep(60)
"""


class Lines(list):
    """What the programs printed, as (name, line)."""

    def write(self, name: str, line: str) -> None:
        self.append((name, line))

    def of(self, start: str) -> list[str]:
        return [line for _, line in self if line.startswith(start)]


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def supervise(tmp_path: Path, lines: Lines) -> Iterator[Callable[..., Supervisor]]:
    running: list[Supervisor] = []

    def start(code: str, **options) -> Supervisor:
        program = Program(name="it", command=[sys.executable, "-c", code], **options)
        running.append(Supervisor([program], folder=tmp_path, write=lines.write).__enter__())
        return running[-1]

    yield start
    for one in running:
        one.stop(1)


def test_what_a_program_prints_is_shown_with_its_name(supervise, lines):
    supervise("import sys; print('out'); print('err', file=sys.stderr); import time; time.sleep(9)")
    wait_until(lambda: {("it", "out"), ("it", "err")} <= set(lines))


def test_a_program_that_dies_is_started_again_and_says_so(supervise, lines):
    running = supervise(SLEEPS)
    wait_until(lambda: lines.of("ready"))
    first = running.pid("it")
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: len(lines.of("ready")) == 2)
    assert running.pid("it") != first
    assert lines.of("!!") == ["!! was ended by SIGKILL; starting it again in 0.5 s"]


def test_a_program_that_keeps_dying_waits_longer_each_time(supervise, lines, monkeypatch):
    monkeypatch.setattr(supervisor, "FIRST_DELAY", 0.05)
    monkeypatch.setattr(supervisor, "LONGEST_DELAY", 0.1)
    running = supervise("raise SystemExit(3)")
    wait_until(lambda: running.deaths("it") >= 3)
    assert [line.rsplit(" ", 2)[1] for line in lines.of("!!")[:3]] == ["0.05", "0.1", "0.1"]
    assert lines.of("!!")[0].startswith("!! ended with exit status 3")


def test_the_children_of_a_killed_program_are_killed_before_its_restart(supervise, lines):
    running = supervise(HAS_A_CHILD)
    wait_until(lambda: lines.of("child"))
    os.kill(running.pid("it"), signal.SIGKILL)
    wait_until(lambda: len(lines.of("child")) == 2)
    assert not is_alive(int(lines.of("child")[0].split()[1]))


def test_a_program_that_cannot_be_started_is_reported_and_the_others_run(tmp_path, lines):
    missing = Program(name="missing", command=["/nowhere/at/all"])
    other = Program(name="other", command=[sys.executable, "-c", SLEEPS])
    with Supervisor([missing, other], folder=tmp_path, write=lines.write):
        wait_until(lambda: ("other", "ready") in lines)
        assert lines.of("!! cannot be started: [Errno 2]")


def test_a_program_without_a_pulse_is_killed_and_started_again(supervise, lines, monkeypatch):
    for name, seconds in {"PULSE_EVERY": 0.05, "NO_PULSE_SECONDS": 0.3, "START_SECONDS": 0.2}.items():
        monkeypatch.setattr(supervisor, name, seconds)
    running = supervise(SLEEPS, pulse=lambda pid: "flat")
    wait_until(lambda: running.deaths("it") == 1)
    assert lines.of("!! gave no sign of life")


def test_a_pulse_that_cannot_be_felt_kills_nobody(supervise, monkeypatch):
    for name, seconds in {"PULSE_EVERY": 0.05, "NO_PULSE_SECONDS": 0.2, "START_SECONDS": 0.0}.items():
        monkeypatch.setattr(supervisor, name, seconds)
    felt = threading.Event()

    def pulse(pid: int) -> object:
        felt.set()
        raise ConnectionError

    running = supervise(SLEEPS, pulse=pulse)
    assert felt.wait(5)
    time.sleep(0.5)
    assert running.deaths("it") == 0


def test_stopping_ends_the_program_and_its_children(supervise, lines):
    running = supervise(HAS_A_CHILD)
    wait_until(lambda: lines.of("child"))
    pid, child = running.pid("it"), int(lines.of("child")[0].split()[1])
    running.stop(5)
    assert not is_alive(pid)
    wait_until(lambda: not is_alive(child))
    assert not lines.of("!!")


def test_a_program_that_ignores_the_request_to_end_is_killed(supervise, lines):
    running = supervise(IGNORES_TERM)
    wait_until(lambda: lines.of("ready"))
    pid, started = running.pid("it"), time.monotonic()
    running.stop(0.3)
    assert not is_alive(pid)
    assert 0.3 <= time.monotonic() - started < 2


def test_nothing_is_left_when_the_supervisor_is_killed(tmp_path):
    code = f"""
import sys, time
from pathlib import Path
from orchestrator_project.supervisor import Program, Supervisor
from tests.orchestrator_project.processes import is_alive, wait_until
program = Program(name="it", command=[sys.executable, "-c", {HAS_A_CHILD!r}])
with Supervisor([program], folder=Path({str(tmp_path)!r}), write=lambda _, line: print(line, flush=True)) as running:
    while not running.pid("it"):
        time.sleep(0.01)
    print("leader", running.pid("it"), flush=True)
    time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=Path.cwd())
    pids = [int(parent.stdout.readline().split()[1]) for _ in range(2)]
    assert all(map(is_alive, pids))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not any(map(is_alive, pids)))
