"""The real processes under kill -9: every run ends as it should, every effect happens once."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
import requests

from executions.actions.tenants import create_api_key
from executions.models import Event, Run, Scope, Work
from orchestrator_project.stack import running_stack
from tests.factories import documents
from tests.factories.documents import action
from tests.orchestrator_project.processes import on_the_test_database

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.processes, pytest.mark.timeout(240)]

RUNS = 50


@pytest.fixture
def stack(transactional_db):
    lines: list[str] = []
    with running_stack(
        environment=on_the_test_database(),
        write=lambda name, line: lines.append(f"{name} | {line}"),
    ) as stack:
        yield stack
    print("\n".join(lines[-200:]))


@pytest.fixture
def consumer(acme):
    secret = create_api_key(tenant=acme, principal="agent", scopes=[Scope.EXECUTE, Scope.READ, Scope.CONTROL])[1]
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {secret}"
    session.trust_env = False
    return session


def counting_plan():
    """Three steps with an effect each, counted in one record per run, and time to be killed between them."""
    steps = []
    for n in range(3):
        steps.append(action(f"count_{n}", "write_record", parameters={"key": "{{parameters.key}}", "increment": 1}))
        steps.append(action(f"wait_{n}", "wait", parameters={"seconds": 0.3}))
    return documents.plan(*steps, action("read", "read_record", parameters={"key": "{{parameters.key}}"}))


def submit(stack, consumer, number, *, seconds=60):
    """Submit as a careful consumer does: the same key again until there is an answer."""
    body = {"executable_plan": counting_plan(), "parameters": {"key": f"run-{number}"}}
    deadline = time.monotonic() + seconds
    while True:
        try:
            answer = consumer.post(
                f"{stack.web_url}/v1/execute", json=body, headers={"Idempotency-Key": f"n-{number}"}, timeout=10
            )
            if answer.status_code == 202:
                return answer.json()["run_id"]
            assert answer.status_code in (409, 503), answer.text
        except requests.RequestException:
            pass  # refused, or cut off in the middle of the answer
        assert time.monotonic() < deadline
        time.sleep(0.1)


def kill(stack, name):
    pid = stack.pid(name)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)


def wait_for_the_end(ids, *, seconds=120):
    deadline = time.monotonic() + seconds
    while live := Run.objects.filter(pk__in=ids).exclude(status__in=["completed", "failed", "cancelled"]).count():
        assert time.monotonic() < deadline, f"{live} runs have not ended"
        time.sleep(0.2)


def test_fifty_runs_survive_the_death_of_every_process(stack, consumer):
    victims = ["worker", "portia", "web", "portia", "worker", "web"]
    random.Random(7).shuffle(victims)
    ids = []
    for number in range(RUNS):
        if number % 8 == 7:
            kill(stack, victims.pop())
        ids.append(submit(stack, consumer, number))
    for name in ("worker", "portia", "web"):
        time.sleep(0.5)
        kill(stack, name)
    wait_for_the_end(ids)
    runs = Run.objects.filter(pk__in=ids)
    assert {run.status for run in runs} == {"completed"}, [run.error for run in runs if run.status != "completed"][:3]
    assert len(set(ids)) == Run.objects.count() == RUNS
    assert {(run.results["read"]["value"], run.results["read"]["writes"]) for run in runs} == {(3, 3)}
    for run in runs:
        sequence = list(Event.objects.filter(run=run).values_list("sequence", flat=True))
        assert sequence == list(range(1, len(sequence) + 1))
    assert not Work.objects.exists()
