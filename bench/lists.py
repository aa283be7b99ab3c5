"""Lists, details and admin pages over a million stored runs: `python -m bench lists`.

The runs are made in SQL, once, in a data folder of their own (DATA_DIR, else .data/bench-lists; 3 GB), and asked for through
Django's test client: routing, authentication, query, serializer and entity tag are in the numbers, the socket is not. They are
uneven in the ways that make lists slow: one tenant has most of them, a few plans, people and labels are in most runs and others
in twenty, and some have not been seen for the last half million runs.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connection, transaction
from django.test import Client

from executions import tenancy
from executions.actions.tenants import create_api_key, create_tenant
from executions.models import Plan, Run, RunStep, Scope, Tenant

RUNS = int(os.environ.get("BENCH_RUNS", "1000000"))
ROUNDS = 40
ENOUGH = 3000  # milliseconds of asking, where an answer is slow
DAYS = 365
TENANTS = ("big", "middle", "small")  # of a hundred runs they have 70, 25 and 5
PLANS = 200  # per tenant
GOAL = 100  # milliseconds, 95th percentile (design, section 13)
Row = tuple[str, str]


def main() -> None:
    """Print one line per question, as it is answered."""
    for what, numbers in measure():
        print(f"{what:54}{numbers}", flush=True)


def measure() -> Iterator[Row]:
    """Fill the data where it is missing, and give one row per question: what, and the numbers."""
    if settings.ENV.database_url is not None:
        raise SystemExit(
            "DATABASE_URL is set: a million made-up runs would go there. Unset it; they get a server of their own."
        )
    call_command("migrate", verbosity=0)
    began = time.monotonic()
    if not Run.objects.exists():
        fill()
        yield f"{RUNS:,} runs made", f"{time.monotonic() - began:.0f} s"
    yield from sizes()
    for name in ("big", "small"):
        asker = Asker(Tenant.objects.get(identifier=name))
        for what, path in asker.questions():
            yield f"{name}, {what}", timed(lambda path=path, asker=asker: asker.api(path))
        with without_the_wall():
            for what, path in list(asker.questions())[-2:]:
                yield f"{name}, {what}, no RLS", timed(lambda path=path, asker=asker: asker.api(path))
            yield f"{name}, first page of 50, no RLS", timed(lambda asker=asker: asker.api("/v1/executions"))
    for what, page in asker.admin_questions():
        yield what, timed(lambda page=page: asker.page(page))


@contextmanager
def without_the_wall() -> Iterator[None]:
    """Let requests see all rows, as if there were no row-level security: what it costs is the difference."""
    stock, tenancy._see = tenancy._see, lambda tenants: None
    try:
        yield
    finally:
        tenancy._see = stock


def timed(ask: Callable[[], Any]) -> str:
    """Ask again and again; median, 95th percentile and worst in milliseconds, and how much came back."""
    for _ in range(3):
        answer = ask()
    seconds: list[float] = []
    while len(seconds) < ROUNDS and (len(seconds) < 5 or sum(seconds) < ENOUGH):
        began = time.perf_counter()
        ask()
        seconds.append(1000 * (time.perf_counter() - began))
    cuts = statistics.quantiles(seconds, n=20, method="inclusive")
    verdict = "" if cuts[18] < GOAL else f"   over {GOAL} ms"
    return f"p50 {cuts[9]:6.1f}  p95 {cuts[18]:6.1f}  max {max(seconds):6.1f} ms  {answer:>9}{verdict}"


def sizes() -> Iterator[Row]:
    """How large the table of runs is, and each of its indexes."""
    with connection.cursor() as cursor:
        cursor.execute(SIZES_SQL)
        yield from ((name, f"{size / 1e6:6.0f} MB") for name, size in cursor.fetchall())


class Asker:
    """A service and people of one tenant, who ask."""

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        _, secret = create_api_key(tenant=tenant, principal="bench", scopes=[Scope.READ])
        self.client = Client(headers={"authorization": f"Bearer {secret}"}, SERVER_NAME="localhost")
        self.admins = {"superuser": person("root", is_superuser=True), "member of one tenant": person("member")}
        Tenant.objects.get(identifier="small").members.add(self.admins["member of one tenant"])
        self.people = {name: Client(SERVER_NAME="localhost") for name in self.admins}
        for name, client in self.people.items():
            client.force_login(self.admins[name])

    def api(self, path: str) -> str:
        """Ask the API; how many came back."""
        answer = self.client.get(path)
        if answer.status_code != 200:
            raise SystemExit(f"{path}: {answer.status_code} {answer.content[:300]!r}")
        found = answer.json()
        is_page = isinstance(found.get("results"), list)
        return f"{len(found['results'])} rows" if is_page else f"{len(answer.content)} bytes"

    def page(self, asked: tuple[str, str]) -> str:
        """Ask the admin, as one of its people."""
        who, path = asked
        answer = self.people[who].get(path)
        if answer.status_code != 200:
            raise SystemExit(f"{path}: {answer.status_code}")
        return f"{len(answer.content) // 1000} kB"

    def questions(self) -> Iterator[Row]:
        """What is asked of the API, and the address."""
        base = "/v1/executions"
        yield "first page of 50", base
        yield "first page of 200", f"{base}?limit=200"
        yield "first page of 200, fields=run_id,status", f"{base}?limit=200&fields=run_id,status"
        far = min(50_000, Run.objects.filter(tenant=self.tenant).count() - 50)
        yield f"page {far // 50:,}", f"{base}?cursor=before-{self.key_at(far):032x}"
        yield f"page {far // 50:,}, previous", f"{base}?cursor=after-{self.key_at(far):032x}"
        for what, query in FILTERS.items():
            yield what, f"{base}?{query.format(**self.facts())}"
        run = RunStep.objects.filter(run__tenant=self.tenant).order_by("id")[:1].get().run
        yield "run detail", f"{base}/{run.pk}"
        yield "run detail, fields=run_id,status", f"{base}/{run.pk}?fields=run_id,status"

    def admin_questions(self) -> Iterator[tuple[str, tuple[str, str]]]:
        """What is asked of the admin, by whom, and the address."""
        run = Run.objects.filter(tenant=self.tenant).order_by("id")[1000]
        for who in self.people:
            for what, query in ADMIN.items():
                yield f"admin, {who}: {what}", (who, f"/admin/executions/run/?{query.format(**self.facts())}")
            yield f"admin, {who}: page of a run", (who, f"/admin/executions/run/{run.pk}/change/")

    def key_at(self, position: int) -> int:
        """The key of the tenant's n-th newest run."""
        return Run.objects.filter(tenant=self.tenant).order_by("-id").values_list("id", flat=True)[position].int

    def facts(self) -> dict[str, str]:
        """Values that occur often, seldom, or only long ago."""
        plans = dict(Plan.objects.filter(tenant=self.tenant).values_list("name", "plan_hash"))
        newest = Run.objects.order_by("-id")[0]
        middle = newest.created_at - timedelta(days=DAYS // 2)
        rare = Run.objects.filter(tenant=self.tenant).exclude(correlation_id="batch-1").order_by("id")[1000]
        return {
            "common_plan": plans["plan 0"],
            "old_plan": plans["plan 1"],
            "rare_plan": plans["plan 2"],
            "correlation": rare.correlation_id,
            "run_id": str(rare.pk),
            "tenant": str(self.tenant.pk),
            "customer": rare.labels["customer"],
            "lately": moment(newest.created_at - timedelta(minutes=5)),
            "hour": moment(middle),
            "hour_later": moment(middle + timedelta(hours=1)),
            "month_later": moment(middle + timedelta(days=30)),
            "long_ago": moment(middle - timedelta(days=150)),
            "never": moment(newest.created_at + timedelta(days=400)),
        }


FILTERS = {
    "status: most (completed)": "status=completed",
    "status: few (paused)": "status=paused",
    "status: several": "status=failed,cancelled",
    "status: live": "status=pending,running,paused",
    "status: none (cancelled by now)": "status=cancelled&created_after={never}",
    "reason: some (step_failed)": "reason=step_failed",
    "reason: few (run_lost)": "reason=run_lost",
    "reason: only long ago (rejected)": "reason=rejected",
    "reason: two of long ago": "reason=rejected,cancel_requested",
    "plan_hash: common": "plan_hash={common_plan}",
    "plan_hash: only long ago": "plan_hash={old_plan}",
    "plan_hash: rare": "plan_hash={rare_plan}",
    "plan_hash: unknown": "plan_hash=" + "0" * 64,
    "plan_name: common": "plan_name=plan 0",
    "plan_name: only long ago": "plan_name=plan 1",
    "plan_name: rare": "plan_name=plan 2",
    "plan_name: 100 versions": "plan_name=plan of many versions",
    "plan_name: unknown": "plan_name=nothing",
    "label: most (env:prod)": "label=env:prod",
    "label: some (team:team-3)": "label=team:team-3",
    "label: few (customer)": "label=customer:{customer}",
    "label: only long ago (campaign:spring)": "label=campaign:spring",
    "label: unknown": "label=team:nobody",
    "label: two": "label=env:staging&label=team:team-5",
    "label: name that most have": "label=team",
    "label: name that few have": "label=urgent",
    "label: name of nothing": "label=nothing",
    "triggered_by: most": "triggered_by=scheduler",
    "triggered_by: some": "triggered_by=user-7",
    "triggered_by: only long ago": "triggered_by=zoe",
    "triggered_by: nobody": "triggered_by=nobody",
    "requested_by: most": "requested_by=service-1",
    "requested_by: only long ago": "requested_by=retired-service",
    "requested_by: nobody": "requested_by=nobody",
    "correlation_id: one": "correlation_id={correlation}",
    "correlation_id: 5,000 runs": "correlation_id=batch-1",
    "correlation_id: unknown": "correlation_id=nothing",
    "created: an hour in the middle": "created_after={hour}&created_before={hour_later}",
    "created: a month in the middle": "created_after={hour}&created_before={month_later}",
    "created: before a moment long ago": "created_before={long_ago}",
    "created: in the future": "created_after={never}",
    "finished: an hour in the middle": "finished_after={hour}&finished_before={hour_later}",
    "finished: a month in the middle": "finished_after={hour}&finished_before={month_later}",
    "finished: the last minutes": "finished_after={lately}",
    "finished: in the future": "finished_after={never}",
    "updated: the last minutes": "updated_after={lately}",
    "updated: an hour in the middle": "updated_after={hour}&updated_before={hour_later}",
    "updated: in the future": "updated_after={never}",
    "status, label, created month": "status=failed&label=team:team-3&created_after={hour}&created_before={month_later}",
    "status, rare label": "status=completed&label=customer:{customer}",
    "plan, status failed": "plan_hash={common_plan}&status=failed",
    "plan of long ago, status failed": "plan_hash={old_plan}&status=failed",
    "status, triggered_by, no such pair": "status=paused&triggered_by=zoe",
    "reason, label, no such pair": "reason=rejected&label=team:team-3&label=urgent",
}
ADMIN = {
    "list": "",
    "one tenant": "tenant__id__exact={tenant}",
    "status failed": "status__exact=failed",
    "reason run_lost": "reason__exact=run_lost",
    "search by run id": "q={run_id}",
    "search by correlation id": "q={correlation}",
    "search by plan name": "q=plan+2",
    "search for nothing": "q=nothing",
}


def moment(time: Any) -> str:
    """As a filter takes it."""
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"


def person(username: str, **fields: Any) -> Any:
    """A member of the staff who may look at everything."""
    from django.contrib.auth.models import Permission

    user, _ = get_user_model().objects.get_or_create(username=username, is_staff=True, **fields)
    user.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    return user


# -- a million runs


def fill() -> None:
    """Make the tenants, their plans and runs, some steps, and the statistics the planner reads."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE part (number serial, tenant uuid) ON COMMIT DROP")
        for name in TENANTS:
            tenant = create_tenant(identifier=name, name=name.capitalize())
            cursor.execute("INSERT INTO part (tenant) VALUES (%s)", [tenant.pk])
        cursor.execute(PLANS_SQL, {"plans": PLANS})
        cursor.execute(RUNS_SQL, {"plans": PLANS, "runs": RUNS, "days": DAYS})
        cursor.execute(STEPS_SQL)
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")


SIZES_SQL = """
    SELECT 'table of runs, with long values', pg_table_size('executions_run')
    UNION ALL
    SELECT * FROM (SELECT '  index ' || indexrelname, pg_relation_size(indexrelid) FROM pg_stat_user_indexes
                   WHERE relname = 'executions_run' ORDER BY 1) AS indexes
"""
PLANS_SQL = """
    INSERT INTO executions_plan (id, tenant_id, plan_hash, name, version, description, document, created_at, created_by)
    SELECT gen_random_uuid(), part.tenant, encode(sha256(convert_to(part.number || '/' || p, 'UTF8')), 'hex'),
           CASE WHEN p < 100 THEN 'plan ' || p ELSE 'plan of many versions' END, '1.' || p, '',
           jsonb_build_object('name', 'plan ' || p, 'notes', repeat('a document of some size; ', 200)), now(), 'bench'
    FROM part, generate_series(0, %(plans)s - 1) p
"""
RUNS_SQL = """
    WITH drawn AS MATERIALIZED (
        SELECT i, i::float / %(runs)s AS age, random() a, random() b, random() c, random() d, random() e, random() f,
               now() - interval '1 day' * %(days)s * (1 - i::float / %(runs)s) AS made, md5(i::text) AS digest,
               CASE WHEN i %% 100 < 70 THEN 1 WHEN i %% 100 < 95 THEN 2 ELSE 3 END AS part
        FROM generate_series(1, %(runs)s) i
    ), told AS (
        SELECT *,
            CASE WHEN i > %(runs)s - 300 THEN 'executing' WHEN i %% 1000 = 7 THEN 'awaiting_clarification'
                 WHEN i %% 50000 = 11 THEN 'run_lost' WHEN a < 0.03 AND age < 0.5 THEN 'cancel_requested'
                 WHEN a < 0.05 AND age < 0.4 THEN 'rejected' WHEN a < 0.1 THEN 'step_failed' ELSE 'ok' END AS reason,
            CASE WHEN i %% 50000 = 21 THEN 2 WHEN age < 0.4 AND b < 0.6 THEN 1 WHEN b < 0.6 THEN 0
                 ELSE 3 + floor(c * c * (%(plans)s - 3)) END AS plan,
            made + interval '1 second' * CASE WHEN f < 0.01 THEN 260000 * e ELSE 1 + 600 * e END AS ended
        FROM drawn
    )
    INSERT INTO executions_run (
        id, tenant_id, plan_id, status, reason, version, parameters, variables, retry_policy, timeout, hooks, capability,
        allowed_tools, triggered_by, requested_by, correlation_id, traceparent, labels, requested, portia_plan_id,
        portia_run_id, portia_version, pause_pending, unsent_attempts, pending_clarifications, progress, current_step,
        commanded_by, awaited, results, rollback, error, created_at, updated_at, started_at, finished_at, event_sequence
    )
    SELECT
        overlay(overlay(lpad(to_hex((extract(epoch FROM made) * 1000)::bigint), 12, '0') || digest placing '7' from 13)
                placing '8' from 17 for 1)::char(32)::uuid,
        part.tenant, plan.id,
        CASE reason WHEN 'executing' THEN 'running' WHEN 'awaiting_clarification' THEN 'paused'
                    WHEN 'cancel_requested' THEN 'cancelled' WHEN 'ok' THEN 'completed' ELSE 'failed' END,
        reason, 6,
        jsonb_build_object('order_id', 'A-' || i, 'amount', round((a * 1000)::numeric, 2), 'currency', 'EUR',
            'customer', jsonb_build_object('id', 'c-' || i %% 20000, 'mail', substr(digest, 1, 12) || '@example.com'),
            'comment', 'The parcel came late, and one of the two glasses was broken: ' || digest),
        '{}', NULL, NULL, '[]',
        jsonb_build_object('validated', true, 'subject', 'service-1', 'issuer', 'https://captokens.example', 'token_id', digest,
            'capabilities', '["payments:refund", "mail:send", "orders:read"]'::jsonb, 'expires_at', made, 'missing', '[]'::jsonb),
        '["calculate", "data_validator", "email_connector", "template_render", "write_record"]',
        CASE WHEN i %% 50000 = 31 THEN 'zoe' WHEN i %% 50000 = 32 AND age < 0.4 THEN 'yves' WHEN d < 0.6 THEN 'scheduler'
             ELSE 'user-' || floor(500 * (d - 0.6) / 0.4) END,
        CASE WHEN age < 0.3 AND e < 0.4 THEN 'retired-service' WHEN e < 0.6 THEN 'service-1'
             ELSE 'service-' || 2 + i %% 4 END,
        CASE WHEN i %% 140 = 50 AND age BETWEEN 0.2 AND 0.9 THEN 'batch-1' ELSE digest::uuid::text END,
        '00-' || digest || '-' || substr(digest, 1, 16) || '-01',
        jsonb_build_object('env', CASE WHEN c < 0.8 THEN 'prod' ELSE 'staging' END, 'team', 'team-' || floor(8 * f),
            'customer', 'c-' || floor(20000 * b))
            || CASE WHEN age < 0.4 AND d < 0.2 THEN '{"campaign": "spring"}'::jsonb ELSE '{}' END
            || CASE WHEN i %% 10000 = 5 THEN '{"urgent": ""}'::jsonb ELSE '{}' END,
        '', 'anumate-' || plan.plan_hash, digest::uuid, 4, false, 0, '[]',
        CASE WHEN reason = 'ok' THEN 1 ELSE 0.5 END, CASE WHEN reason = 'executing' THEN 'pay_back' ELSE '' END, '', '',
        jsonb_build_object(
            'look_up_order', jsonb_build_object('success', true, 'found', true, 'items', jsonb_build_array(
                jsonb_build_object('sku', md5(digest), 'price', 12.5), jsonb_build_object('sku', md5(digest || 1), 'price', 7))),
            'check_amount', jsonb_build_object('success', true, 'value', round((a * 1000)::numeric, 2)),
            'pay_back', jsonb_build_object('success', true, 'receipt', md5(digest || 2), 'reference', md5(digest || 3),
                'booked_at', made, 'text', 'Refund of an order that came late, booked by the orchestrator'),
            'tell_customer', jsonb_build_object('success', true, 'message_id', md5(digest || 4),
                'body', 'Dear customer, we have paid your money back. It takes up to three days until you see it. ' || digest)),
        '{}',
        CASE WHEN reason IN ('step_failed', 'run_lost', 'rejected')
             THEN '{"code": "tool_hard_error", "message": "The account is closed.", "step_id": "pay_back"}'::jsonb END,
        made, CASE WHEN reason IN ('executing', 'awaiting_clarification') THEN made + interval '3 seconds' ELSE ended END,
        made + interval '50 milliseconds',
        CASE WHEN reason NOT IN ('executing', 'awaiting_clarification') THEN ended END, 4
    FROM told
    JOIN part ON part.number = told.part
    JOIN executions_plan plan ON plan.plan_hash = encode(sha256(convert_to(told.part || '/' || told.plan, 'UTF8')), 'hex')
    ORDER BY i
"""
STEPS_SQL = """
    INSERT INTO executions_runstep (run_id, step_id, position, name, step_type, status, attempts, output, reason, started_at,
        completed_at)
    SELECT run.id, name, place, name, 'action', 'completed', 1, run.results -> name, '', run.created_at, run.updated_at
    FROM (SELECT *, row_number() OVER (ORDER BY id) AS number FROM executions_run) run,
         unnest(ARRAY['look_up_order', 'check_amount', 'pay_back', 'tell_customer']) WITH ORDINALITY AS step (name, place)
    WHERE number % 19 = 0
"""
