"""Many submissions at once, over real HTTP to the real processes: as many runs as intents, here and at the runtime."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import local

import pytest
import requests

from executions.actions.tenants import create_api_key
from executions.models import IdempotencyRecord, Plan, Run, Scope
from orchestrator_project.stack import running_stack
from portia_runtime.models import Run as RemoteRun
from tests.factories import documents
from tests.flows.test_kills import wait_for_the_end
from tests.orchestrator_project.processes import on_the_test_database

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.processes, pytest.mark.timeout(300)]

CLIENTS = 32
PLAN = documents.plan(documents.action("greet", parameters={"text": "{{parameters.number}}"}))


@pytest.fixture
def stack(transactional_db):
    lines: list[str] = []
    with running_stack(
        environment=on_the_test_database(), write=lambda name, line: lines.append(f"{name} | {line}")
    ) as stack:
        yield stack
    print("\n".join(lines[-200:]))


@pytest.fixture
def post(stack, acme):
    """POST /v1/execute with a key and the number of an order; a session for each thread."""
    secret = create_api_key(tenant=acme, principal="agent", scopes=[Scope.EXECUTE])[1]
    threads = local()

    def call(key: str, number: int) -> requests.Response:
        if not hasattr(threads, "session"):
            threads.session = requests.Session()
            threads.session.trust_env = False
        body = {"executable_plan": PLAN, "parameters": {"number": number}}
        headers = {"Authorization": f"Bearer {secret}", "Idempotency-Key": key, "Prefer": "wait=0"}
        return threads.session.post(f"{stack.web_url}/v1/execute", json=body, headers=headers, timeout=60)

    return call


def test_two_hundred_equal_submissions_at_once_are_one_run(post):
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(lambda _: post("the-key", 1), range(200)))
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) <= {202, 409}, statuses
    bodies = {answer.content for answer in answers if answer.status_code == 202}
    assert (len(bodies), Run.objects.count(), Plan.objects.count()) == (1, 1, 1)
    assert sum("Idempotency-Replayed" not in answer.headers for answer in answers if answer.status_code == 202) == 1
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} <= {"request-in-progress"}


def test_a_thousand_different_submissions_are_a_thousand_runs(post):
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(lambda number: post(f"order-{number}", number), range(1000)))
    assert {answer.status_code for answer in answers} == {202}
    ids = {answer.json()["run_id"] for answer in answers}
    wait_for_the_end(ids, seconds=200)
    assert len(ids) == Run.objects.filter(status="completed").count() == Run.objects.count() == 1000
    assert IdempotencyRecord.objects.count() == 1000
    assert RemoteRun.objects.count() == len(set(Run.objects.values_list("portia_run_id", flat=True))) == 1000
    assert len(set(RemoteRun.objects.values_list("parameters__number", flat=True))) == 1000
