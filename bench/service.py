"""The running service, measured from outside: web, worker and embedded runtime as `manage.py up` starts them."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import requests
from django.contrib.auth import get_user_model
from django.db import connection

from approvals_bridge.actions import decide
from approvals_bridge.models import Clarification
from executions.actions.tenants import ensure_demo
from executions.models import Run
from orchestrator_project.management.commands.up import migrate
from orchestrator_project.stack import Stack, running_stack

Row = tuple[str, str]
CLIENTS = 8
TWO_STEPS = {
    "name": "two steps",
    "main_flow": "main",
    "flows": [
        {
            "flow_id": "main",
            "steps": [
                {"step_id": name, "step_type": "action", "tool": "echo", "parameters": {"text": name}}
                for name in ("a", "b")
            ],
        }
    ],
}
APPROVAL = {
    "name": "one approval",
    "main_flow": "main",
    "flows": [
        {
            "flow_id": "main",
            "steps": [
                {"step_id": "gate", "step_type": "approval", "parameters": {"title": "Go on?", "message": "Go on?"}},
                {"step_id": "after", "step_type": "action", "tool": "echo", "parameters": {}},
            ],
        }
    ],
}


def measure() -> Iterator[Row]:
    """Start everything, and give one row per measurement: what, and the numbers."""
    began = time.monotonic()
    migrate()
    access = ensure_demo(password="bench-only")
    connection.close()
    with running_stack() as stack:
        yield "start of everything, database included", f"{time.monotonic() - began:.1f} s"
        api = Api(stack.web_url, access.api_key)
        yield "two-step run on the idle system, submit -> completed", spread(api.idle_runs(40))
        yield "approval given -> accepted by Portia, idle", spread(decisions(api, 30))
        yield from submissions(api)
        yield from burst(api, 500)
        yield from at_rest(stack)


class Api:
    """One consumer; a session per thread, as a careful client has."""

    def __init__(self, base: str, key: str) -> None:
        self.base, self.key, self.local = base, key, threading.local()

    @property
    def session(self) -> requests.Session:
        """This thread's session."""
        if not hasattr(self.local, "session"):
            self.local.session = requests.Session()
            self.local.session.trust_env = False
            self.local.session.headers["Authorization"] = f"Bearer {self.key}"
        return self.local.session

    def submit(self, plan: dict[str, Any], key: str | None = None) -> str:
        """Submit a plan; the run's id."""
        headers = {"Idempotency-Key": key or str(uuid4())}
        answer = self.session.post(
            f"{self.base}/v1/execute", json={"executable_plan": plan}, headers=headers, timeout=60
        )
        answer.raise_for_status()
        return answer.json()["run_id"]

    def idle_runs(self, count: int) -> list[float]:
        """Seconds from the call to the end, by the service's own clock, one run at a time."""
        seconds = []
        for _ in range(count):
            run_id = self.submit(TWO_STEPS)
            while (run := self.session.get(f"{self.base}/v1/executions/{run_id}", timeout=60).json())[
                "status"
            ] != "completed":
                time.sleep(0.02)
            seconds.append(run["timings"]["duration"])
            time.sleep(0.3)
        return seconds


def decisions(api: Api, count: int) -> list[float]:
    """Seconds from a person's decision to Portia's acceptance."""
    bob = get_user_model().objects.get(username="bob")
    seconds = []
    for _ in range(count):
        asked = _question_of(api.submit(APPROVAL))
        decide(
            clarification_id=UUID(str(asked.pk)),
            user=bob,
            decision="approve",
            action_digest=asked.action_digest,
            source="command",
        )
        done = _delivered(asked)
        seconds.append((done.delivered_at - done.decided_at).total_seconds())
        time.sleep(0.3)
    return seconds


def _question_of(run_id: str) -> Clarification:
    return wait_for(Clarification.objects.filter(run_id=run_id, status="pending").first)


def _delivered(asked: Clarification) -> Clarification:
    return wait_for(Clarification.objects.filter(pk=asked.pk, delivered_at__isnull=False).first)


def submissions(api: Api) -> Iterator[Row]:
    """Durable submissions by several clients at once, new ones and replayed duplicates."""
    stamp = time.time_ns()

    def timed(number: int) -> float:
        began = time.monotonic()
        api.submit(TWO_STEPS, f"bench-{stamp}-{number}")
        return time.monotonic() - began

    for what in ("submissions, 8 clients, new", "submissions, 8 clients, replayed"):
        began = time.monotonic()
        with ThreadPoolExecutor(CLIENTS) as pool:
            seconds = list(pool.map(timed, range(400)))
        yield what, f"{len(seconds) / (time.monotonic() - began):.0f}/s, {spread(seconds)}"
    wait_for(lambda: not Run.objects.exclude(status__in=["completed", "failed", "cancelled"]).exists(), seconds=120)


def burst(api: Api, count: int) -> Iterator[Row]:
    """Many runs at once."""
    began = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        ids = list(pool.map(lambda _: api.submit(TWO_STEPS), range(count)))
    accepted = time.monotonic() - began
    wait_for(lambda: Run.objects.filter(pk__in=ids, status="completed").count() == count, seconds=120)
    yield (
        f"{count} two-step runs at once, first call -> last completed",
        f"{time.monotonic() - began:.1f} s ({accepted:.1f} s to accept)",
    )


def at_rest(stack: Stack) -> Iterator[Row]:
    """What the processes cost when nothing happens."""
    groups = {name: members(stack.pid(name)) for name in ("web", "worker", "portia")}
    before = {name: sum(map(cpu_seconds, pids)) for name, pids in groups.items()}
    time.sleep(20)
    used = {name: (sum(map(cpu_seconds, pids)) - before[name]) / 20 for name, pids in groups.items()}
    memory = {name: sum(map(pss_mb, pids)) for name, pids in groups.items()}
    parts = ", ".join(f"{name} {100 * used[name]:.1f} % {memory[name]:.0f} MB" for name in groups)
    yield (
        "at rest, without PostgreSQL: CPU of one core, PSS",
        f"{100 * sum(used.values()):.1f} %, {sum(memory.values()):.0f} MB ({parts})",
    )


def wait_for(look: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Look every 5 ms until there is something."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not seen within {seconds} s")
        time.sleep(0.005)
    return found


def spread(seconds: list[float]) -> str:
    """Median, 95th and 99th percentile in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return f"p50 {1000 * cuts[49]:.0f} ms, p95 {1000 * cuts[94]:.0f} ms, p99 {1000 * cuts[98]:.0f} ms"


def members(leader: int | None) -> list[int]:
    """The processes of a session, which the supervisor starts each program in."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader:
            found.append(int(path.parent.name))
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pss_mb(pid: int) -> float:
    """Proportional set size: shared pages count by their share."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
