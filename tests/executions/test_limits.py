"""How much a tenant may ask at once: the rate and the number of runs, exact under concurrency, and what answers say of them."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, transaction
from django.db.models import F
from django.urls import reverse
from django.utils import timezone

from executions import limits
from executions.models import RateState, Run, Tenant
from tests.factories.documents import plan
from tests.factories.models import RunFactory, UserFactory, staff_of

ITEM = re.compile(r'"([a-z]+)"((?:;[a-z]+=(?:\d+|"[a-z-]+"))+)')


def limited(tenant: Any, *, rate: int | None = None, runs: int | None = None) -> Any:
    """The tenant with these limits, as authentication will load it."""
    tenant.rate_limit, tenant.concurrency_limit = rate, runs
    tenant.save()
    return tenant


def fields(header: str) -> dict[str, dict[str, int | str]]:
    """A structured-field list of strings with parameters (RFC 9651, sections 3.1 and 3.1.2), the part of it we write."""
    items = [ITEM.fullmatch(item) for item in header.split(", ")]
    assert all(items), header
    return {item[1]: dict(_parameter(one) for one in item[2][1:].split(";")) for item in items if item}


def _parameter(text: str) -> tuple[str, int | str]:
    name, _, value = text.partition("=")
    return name, value.strip('"') if value.startswith('"') else int(value)


def together(work: Any, *, times: int, threads: int = 20) -> list[Any]:
    """What `work` gives when so many threads, each with a connection of its own, do it at once."""

    def once(_: int) -> Any:
        try:
            return work()
        finally:
            connection.close()

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(once, range(times)))


def take(tenant: Any, *, times: int) -> None:
    """Use up so many requests."""
    assert not any(limits.take_request(tenant).is_exceeded for _ in range(times))


def pass_time(*, seconds: float) -> None:
    """What so much time does to the allowances, without waiting for it."""
    RateState.objects.update(full_at=F("full_at") - timedelta(seconds=seconds))


# -- requests per minute


@pytest.mark.django_db(transaction=True)
def test_of_many_requests_at_once_exactly_the_limit_gets_through(acme):
    limited(acme, rate=15)
    quotas = together(lambda: limits.take_request(acme), times=100)
    assert sorted(quota.left for quota in quotas if not quota.is_exceeded) == list(range(15))
    assert all(quota.left == 0 and 1 <= quota.seconds <= 4 for quota in quotas if quota.is_exceeded)


@pytest.mark.parametrize("rate", [1, 7, 59, 100])
def test_a_fresh_allowance_is_the_limit_itself(acme, rate):
    first = limits.take_request(limited(acme, rate=rate))
    assert (first.limit, first.left, first.is_exceeded) == (rate, rate - 1, False)


def test_time_brings_the_allowance_back_evenly_and_never_more_than_all_of_it(acme):
    limited(acme, rate=10)
    assert [limits.take_request(acme).is_exceeded for _ in range(11)] == [False] * 10 + [True]
    pass_time(seconds=18)
    assert [limits.take_request(acme).is_exceeded for _ in range(4)] == [False] * 3 + [True]
    pass_time(seconds=3600)
    assert limits.take_request(acme).left == 9


def test_the_highest_rate_is_never_said_to_leave_more_than_itself(acme):
    assert limits.take_request(limited(acme, rate=1_000_000)).left <= 1_000_000


def test_the_database_clock_counts(acme):
    limited(acme, rate=6000)
    RateState.objects.create(tenant=acme, full_at=timezone.now() + timedelta(seconds=60))
    assert limits.take_request(acme).is_exceeded
    time.sleep(0.05)
    assert not limits.take_request(acme).is_exceeded


def test_a_refused_request_counts_nothing(acme):
    limited(acme, rate=1)
    limits.take_request(acme)
    before = RateState.objects.get().full_at
    assert all(limits.take_request(acme).is_exceeded for _ in range(20))
    assert RateState.objects.get().full_at == before


def test_a_changed_limit_holds_at_once(acme):
    limited(acme, rate=2)
    assert [limits.take_request(acme).is_exceeded for _ in range(3)] == [False, False, True]
    pass_time(seconds=30)
    assert limits.take_request(limited(acme, rate=200)).left == 99


def test_no_limit_asks_the_database_nothing(acme, django_assert_num_queries):
    with django_assert_num_queries(0):
        assert limits.take_request(acme) is limits.runs_left(acme) is limits.check_concurrency(acme) is None


def test_a_request_within_the_limit_is_one_statement(acme, django_assert_num_queries):
    limited(acme, rate=5)
    with django_assert_num_queries(1):
        limits.take_request(acme)


def test_counting_requests_waits_for_no_disk(acme):
    with connection.cursor() as cursor:
        cursor.execute("SELECT relpersistence FROM pg_class WHERE relname = %s", [RateState._meta.db_table])
        assert cursor.fetchone() == ("u",)


# -- what answers say of the rate


def test_every_answer_of_a_limited_tenant_says_what_is_left(api, acme):
    limited(acme, rate=100)
    lefts = []
    for path, status in ANSWERS:
        response = ask(api, path, expect=status)
        assert fields(response["RateLimit-Policy"])["requests"] == {"q": 100, "w": 60}
        lefts.append(fields(response["RateLimit"])["requests"]["r"])
    assert lefts == list(range(99, 99 - len(ANSWERS), -1))


ANSWERS = [
    ("/v1/executions", 200),
    ("/v1/executions/7d3a3ee2-1f0e-7f6a-9a55-0e0a3f6f1d11", 404),
    ("/v1/executions?nothing=1", 400),
    ("PUT /v1/executions", 405),
    ("POST /v1/execute", 422),
    ("POST /v1/approvals/7d3a3ee2-1f0e-7f6a-9a55-0e0a3f6f1d11/approve", 403),
    ("/v1/approvals text/csv", 406),
    ("OPTIONS /v1/approvals", 200),
]


def ask(api: Any, words: str, *, expect: int, **headers: str) -> Any:
    """`[METHOD] path [Accept]`."""
    method, path, accept = re.fullmatch(r"(?:([A-Z]+) )?(/\S*)(?: (\S+))?", words).groups("")
    more = {"data": {}, "content_type": "application/json"} if method in ("POST", "PUT") else {}
    headers |= {"accept": accept} if accept else {}
    response = getattr(api.client, (method or "GET").lower())(path, headers=headers, **more)
    assert response.status_code == expect, response.content.decode()
    return response


def test_an_answer_without_a_body_says_it_too(api, acme):
    limited(acme, rate=100)
    etag = ask(api, "/v1/executions", expect=200)["ETag"]
    unchanged = ask(api, "/v1/executions", expect=304, **{"if-none-match": etag})
    assert fields(unchanged["RateLimit"])["requests"]["r"] == 98


def test_what_is_left_comes_back_in_the_time_that_is_told(api, acme):
    limited(acme, rate=120)
    assert fields(ask(api, "/v1/executions", expect=200)["RateLimit"]) == {"requests": {"r": 119, "t": 60}}
    take(acme, times=78)
    assert fields(ask(api, "/v1/executions", expect=200)["RateLimit"]) == {"requests": {"r": 40, "t": 20}}


def test_beyond_the_rate_everything_is_429_with_the_time_to_wait(api, acme):
    take(limited(acme, rate=6), times=6)
    for path, _ in ANSWERS:
        response = ask(api, path, expect=429)
        problem = response.json()
        assert (problem["code"], problem["limit"], problem["retry_after"]) == ("rate-limited", 6, 10)
        assert response["Content-Type"] == "application/problem+json"
        assert response["Retry-After"] == "10"
        assert fields(response["RateLimit"])["requests"] == {"r": 0, "t": 10}


def test_a_refused_submission_can_be_repeated_under_its_key(api, acme):
    take(limited(acme, rate=60), times=60)
    headers = {"idempotency-key": "once"}
    api.post("/v1/execute", {"executable_plan": plan()}, expect=429, **headers)
    pass_time(seconds=5)
    api.post("/v1/execute", {"executable_plan": plan()}, expect=202, **headers)


def test_other_tenants_and_what_needs_no_key_are_not_touched(api, mallory, client, acme, globex):
    take(limited(acme, rate=1), times=1)
    limited(globex, rate=30)
    assert fields(ask(mallory, "/v1/executions", expect=200)["RateLimit"])["requests"]["r"] == 29
    assert "RateLimit" not in client.get("/health", headers=api.client.defaults)
    assert client.get("/v1/schema").status_code == 200
    api.get("/v1/executions", expect=429)


def test_without_a_limit_no_answer_speaks_of_one(api):
    assert "RateLimit" not in ask(api, "/v1/executions", expect=200)


# -- runs at once


@pytest.mark.django_db(transaction=True)
def test_of_many_submissions_at_once_exactly_the_limit_becomes_runs(api, acme):
    limited(acme, runs=5)
    numbers = iter(range(1000))
    statuses = together(lambda: submit(api, name=f"Plan {next(numbers)}").status_code, times=40)
    assert (statuses.count(202), statuses.count(429)) == (5, 35)
    assert Run.objects.not_ended().filter(tenant=acme).count() == 5


def submit(api: Any, *, key: str = "", name: str = "A plan", **fields: Any) -> Any:
    headers = {"idempotency-key": key} if key else {}
    body = {"executable_plan": plan(name=name), "deduplicate": False} | fields
    return api.client.post("/v1/execute", body, "application/json", headers=headers)


def test_one_run_too_many_is_429_and_leaves_nothing(api, acme):
    RunFactory.create_batch(2, tenant=acme, status="paused")
    RunFactory(tenant=acme, status="completed")
    response = submit(api) if limited(acme, runs=2) else None
    assert (response.status_code, response.json()["code"], response.json()["limit"]) == (429, "too-many-runs", 2)
    assert response["Retry-After"] == "5"
    assert (Run.objects.count(), acme.plans.filter(name="A plan").count()) == (3, 0)


def test_answers_to_submissions_say_how_many_runs_are_left(api, acme):
    limited(acme, rate=100, runs=2)
    for left in (1, 0, 0):
        response = submit(api)
        assert fields(response["RateLimit-Policy"]) == {
            "requests": {"q": 100, "w": 60},
            "runs": {"q": 2, "qu": "concurrent-requests"},
        }
        assert fields(response["RateLimit"])["runs"] == {"r": left}
    assert "runs" not in fields(ask(api, "/v1/executions", expect=200)["RateLimit"])


def test_a_run_that_ends_makes_room(api, acme):
    limited(acme, runs=1)
    run_id = submit(api).json()["run_id"]
    assert submit(api).status_code == 429
    api.post(f"/v1/executions/{run_id}/cancel", expect=202)
    assert submit(api).status_code == 202


def test_a_replay_and_a_dry_run_need_no_room(api, acme):
    limited(acme, runs=1)
    first = submit(api, key="once")
    assert (submit(api).status_code, submit(api, dry_run=True).status_code) == (429, 200)
    again = submit(api, key="once")
    assert (again.status_code, again.content) == (202, first.content)
    assert again["Idempotency-Replayed"] == "true"
    assert fields(again["RateLimit"])["runs"] == {"r": 0}


def test_a_submission_refused_for_want_of_room_can_be_repeated_under_its_key(api, acme):
    limited(acme, runs=1)
    run_id = submit(api).json()["run_id"]
    assert submit(api, key="once").status_code == 429
    api.post(f"/v1/executions/{run_id}/cancel", expect=202)
    assert submit(api, key="once").status_code == 202


def test_runs_of_other_tenants_take_no_room(mallory, acme, globex):
    RunFactory.create_batch(3, tenant=acme)
    limited(globex, runs=1)
    assert submit(mallory).status_code == 202


def test_runs_that_have_not_ended_are_counted_through_their_own_index(acme):
    going_on = RunFactory(tenant=acme)
    Run.objects.bulk_create(RunFactory.build(tenant=acme, plan=going_on.plan, status="completed") for _ in range(2000))
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE executions_run")
    assert "run_not_ended" in Run.objects.not_ended().filter(tenant=acme).values("tenant").explain()


# -- who sets limits


@pytest.fixture
def olga(acme, client):
    """Staff of acme who may change everything a tenant's own people may."""
    client.force_login(staff_of(acme, username="olga", permissions=("view_tenant", "change_tenant")))
    return client


@pytest.fixture
def root(client, db):
    client.force_login(UserFactory(username="root", is_staff=True, is_superuser=True))
    return client


def save_in_admin(client: Any, tenant: Any, **fields: Any) -> Any:
    form = {"identifier": tenant.identifier, "name": tenant.name, "is_active": "on"} | fields
    response = client.post(reverse("admin:executions_tenant_change", args=[tenant.pk]), form)
    tenant.refresh_from_db()
    return response


def test_a_superuser_sets_limits_in_the_admin_and_takes_them_away(root, acme):
    save_in_admin(root, acme, rate_limit="120", concurrency_limit="3")
    assert (acme.rate_limit, acme.concurrency_limit) == (120, 3)
    save_in_admin(root, acme, rate_limit="", concurrency_limit="")
    assert (acme.rate_limit, acme.concurrency_limit) == (None, None)


@pytest.mark.parametrize("limit", ["0", "-1", "1000001", "many"])
def test_a_limit_that_makes_no_sense_is_refused_in_the_admin(root, acme, limit):
    assert "rate_limit" in save_in_admin(root, acme, rate_limit=limit).context["adminform"].form.errors
    assert acme.rate_limit is None


def test_a_tenants_own_people_see_its_limits_and_cannot_raise_them(olga, acme):
    limited(acme, rate=10, runs=2)
    page = olga.get(reverse("admin:executions_tenant_change", args=[acme.pk])).content.decode()
    assert 'name="name"' in page
    assert 'name="rate_limit"' not in page
    assert save_in_admin(olga, acme, name="New name", rate_limit="999", concurrency_limit="").status_code == 302
    assert (acme.name, acme.rate_limit, acme.concurrency_limit) == ("New name", 10, 2)


def test_the_page_of_a_tenant_says_what_limits_mean_and_how_many_runs_there_are(root, acme):
    RunFactory.create_batch(2, tenant=acme, status="running")
    RunFactory(tenant=acme, status="failed")
    address = reverse("admin:executions_tenant_change", args=[limited(acme, runs=5).pk])
    page = root.get(address).content.decode()
    assert "2 of 5" in page
    assert "429" in page


def test_the_database_keeps_limits_in_range(acme):
    for fields in ({"rate_limit": 0}, {"rate_limit": 1_000_001}, {"concurrency_limit": 0}):
        with pytest.raises(IntegrityError), transaction.atomic():
            type(acme).objects.update(**fields)


def test_a_tenant_is_made_with_limits(db):
    call_command("create_tenant", "initech", "--rate-limit", "60", "--concurrency-limit", "5")
    initech = Tenant.objects.get(identifier="initech")
    assert (initech.rate_limit, initech.concurrency_limit) == (60, 5)
    with pytest.raises(CommandError, match="rate_limit"):
        call_command("create_tenant", "umbrella", "--rate-limit", "0")
