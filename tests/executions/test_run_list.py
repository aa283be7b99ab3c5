"""GET /v1/executions: which runs come back, in which order, page by page, with which fields; and labels, which find them."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from executions.api.run_list import RunListView
from executions.api.serializers import RunSerializer, RunSummarySerializer
from executions.api.sparse import narrow
from executions.labels import merged
from executions.models import Run
from executions.models.ids import first_uuid7
from tests.factories import documents
from tests.factories.models import ClarificationFactory, PlanFactory, RunFactory, RunStepFactory

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FILTERS = [one.name for one in RunListView.filters]
NO_HURRY = {"deadline": None, "suppress_health_check": list(HealthCheck)}


def made(tenant, name, *, minutes=0, **fields):
    """A run known by its correlation id, made so many minutes after noon, with a key of that time."""
    moment = NOON + timedelta(minutes=minutes)
    key = UUID(int=first_uuid7(moment).int + uuid4().int % 2**60)
    return RunFactory(id=key, tenant=tenant, correlation_id=name, created_at=moment, **fields)


def asked(api, query="", **values):
    """The correlation ids that come back."""
    address = f"/v1/executions?{urlencode(values) or query}"
    return [run["correlation_id"] for run in api.get(address)["results"]]


def refused(api, query):
    return api.get(f"/v1/executions?{query}", expect=400)["detail"]


def walk(api, address):
    """The pages from an address to the end: results, and the addresses of their neighbours."""
    while address:
        page = api.get(address)
        yield page
        address = page["next"]


# -- labels


def submitted(api, document_labels=None, **fields):
    document = documents.plan(documents.action("greet", parameters={"text": "hello"}))
    if document_labels is not None:
        document["metadata"] = {"labels": document_labels}
    return api.post("/v1/execute", {"executable_plan": document, "deduplicate": False, **fields}, expect=202)


def test_labels_of_the_submission_win_over_those_of_the_plan(api):
    run = submitted(api, {"team": "billing", "env": "prod"}, labels={"team": "refunds", "case/id": ""})
    assert run["labels"] == {"team": "refunds", "case/id": "", "env": "prod"}
    assert api.get("/v1/executions")["results"][0]["labels"] == run["labels"]
    assert api.get(f"/v1/executions/{run['run_id']}")["labels"] == run["labels"]


def test_words_of_a_plan_become_labels_without_a_text(api):
    assert submitted(api, ["urgent", "vip", 7])["labels"] == {"urgent": "", "vip": ""}


@pytest.mark.parametrize(
    "given", [7, "urgent", None, {"a b": "c"}, {"a": 1}, {"a": "x" * 256}, {"": "x"}, {"x" * 64: ""}]
)
def test_what_can_be_no_label_is_left_out_of_a_plans_labels(given):
    assert merged({"labels": given}, {"b": "c"}) == {"b": "c"}


def test_a_plan_fills_the_room_that_a_submission_leaves():
    plan = {f"plan-{n}": "" for n in range(60)}
    found = merged({"labels": plan}, {"mine": "1"})
    assert (len(found), found["mine"], "plan-48" in found, "plan-49" in found) == (50, "1", True, False)


@pytest.mark.parametrize(
    ("labels", "pointer"),
    [
        ({"a b": "c"}, "/labels/a b"), ({"a": 1}, "/labels/a"), ({"a": None}, "/labels/a"), ({"a": "x" * 256}, "/labels/a"),
        ({"": "x"}, "/labels/"), ({"a/ä": "x"}, "/labels/a~1ä"), ({"x" * 64: ""}, f"/labels/{'x' * 64}"), (["urgent"], "/labels"),
        ({str(n): "" for n in range(51)}, "/labels"),
    ],
)  # fmt: skip
def test_a_wrong_label_is_refused_by_its_name(api, labels, pointer):
    problem = api.post("/v1/execute", {"executable_plan": {}, "labels": labels}, expect=422)
    assert pointer in [error["pointer"] for error in problem["errors"]]


# -- filters


@pytest.fixture
def population(acme, globex):
    """A few runs of acme, and one of globex that fits whatever is asked for."""
    refund, mail = (PlanFactory(tenant=acme, name=name) for name in ("refund", "mail"))
    made(acme, "done", status="completed", plan=refund, labels={"team": "billing", "env": "prod"}, triggered_by="alice")
    made(acme, "failed", minutes=1, status="failed", plan=refund, labels={"team": "ops"}, triggered_by="bob")
    made(
        acme, "rejected", minutes=2, status="failed", reason="rejected", plan=mail, labels={"urgent": "", "team": "ops"}
    )
    made(acme, "waiting", minutes=3, status="paused", plan=mail, labels={}, requested_by="mail-service")
    made(globex, "foreign", minutes=3, status="failed", labels={"team": "ops", "urgent": ""}, triggered_by="bob")
    return {"refund": refund.plan_hash, "mail": mail.plan_hash}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["waiting", "rejected", "failed", "done"]),
        ("status=failed", ["rejected", "failed"]),
        ("status=failed,completed", ["rejected", "failed", "done"]),
        ("status=failed&status=completed", ["rejected", "failed", "done"]),
        ("status=cancelled", []),
        ("reason=rejected", ["rejected"]),
        ("reason=rejected,ok", ["rejected", "done"]),
        ("status=failed,completed&reason=rejected,ok,awaiting_clarification", ["rejected", "done"]),
        ("plan_name=refund", ["failed", "done"]),
        ("plan_name=refund&status=failed", ["failed"]),
        ("plan_name=Refund", []),
        ("plan_hash=" + "0" * 64, []),
        ("label=team:ops", ["rejected", "failed"]),
        ("label=team", ["rejected", "failed", "done"]),
        ("label=team:ops&label=urgent", ["rejected"]),
        ("label=urgent:", ["rejected"]),
        ("label=team:o", []),
        ("label=team:ops&status=failed&plan_name=refund", ["failed"]),
        ("label=team:ops&status=failed,paused", ["rejected", "failed"]),
        ("triggered_by=bob", ["failed"]),
        ("requested_by=mail-service", ["waiting"]),
        ("correlation_id=done", ["done"]),
    ],
)
def test_every_filter_finds_the_tenants_runs_that_fit(api, population, query, expected):
    assert asked(api, query) == expected


def test_a_plan_is_found_by_its_hash(api, population):
    assert asked(api, plan_hash=population["mail"]) == ["waiting", "rejected"]


def test_a_plan_of_many_versions_is_found_by_its_name(api, acme):
    for minutes in range(25):
        made(acme, str(minutes), minutes=minutes, plan=PlanFactory(tenant=acme, name="many"))
    assert asked(api, "plan_name=many&limit=3") == ["24", "23", "22"]


def test_another_tenant_finds_only_its_own(mallory, population):
    assert (
        asked(mallory, "status=failed")
        == asked(mallory, "label=team:ops")
        == asked(mallory, "triggered_by=bob")
        == ["foreign"]
    )
    assert asked(mallory, "plan_name=refund") == asked(mallory, plan_hash=population["refund"]) == []


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("statis=failed", ("statis", "known are", "status", "created_after")),
        ("status=odd", ("status", "pending, running")),
        ("status=", ("status",)),
        ("status=failed,", ("status",)),
        ("reason=Rejected", ("reason", "rejected")),
        ("plan_name=a&plan_name=b", ("plan_name", "once")),
        ("limit=1&limit=2", ("limit", "once")),
        ("plan_hash=ABC", ("plan_hash", "64")),
        ("plan_name=", ("plan_name", "1 to 256")),
        ("triggered_by=" + "x" * 129, ("triggered_by", "128")),
        ("triggered_by=a%00b", ("triggered_by", "NUL")),
        ("label=", ("label", "name:value")),
        ("label=:x", ("label",)),
        ("label=a%20b:x", ("label",)),
        ("label=a:" + "x" * 256, ("label", "255")),
        ("label=a:%00", ("label",)),
        ("&".join(f"label=n{n}" for n in range(51)), ("label", "50")),
        ("limit=0", ("limit", "200")),
        ("limit=201", ("limit", "200")),
        ("limit=٣", ("limit", "200")),
        ("limit=9999999999999999999", ("limit", "200")),
        ("cursor=before-x", ("cursor",)),
        ("fields=run_id,statis", ("fields", "statis", "timings")),
        ("fields=", ("fields",)),
        ("fields=run_id&fields=status", ("fields", "once")),
    ],
)
def test_a_parameter_that_makes_no_sense_is_named(api, query, words):
    detail = refused(api, query)
    assert all(word in detail for word in words), detail


# -- times


@pytest.fixture
def hours(acme):
    """Runs made at noon and the two full hours after it; each ends ten minutes later."""
    for number in range(3):
        ended = NOON + timedelta(hours=number, minutes=10)
        made(acme, f"{12 + number}h", minutes=60 * number, status="completed", finished_at=ended, updated_at=ended)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("created_after=2026-03-01T13:00:00Z", ["14h", "13h"]),
        ("created_before=2026-03-01T13:00:00Z", ["12h"]),
        ("created_after=2026-03-01T13:00:00Z&created_before=2026-03-01T14:00:00Z", ["13h"]),
        ("created_after=2026-03-01T14:00:00%2B01:00&created_before=2026-03-01t13:00:00.000001z", ["13h"]),
        ("created_after=2026-03-01T14:00:00.000001Z", []),
        ("finished_after=2026-03-01T13:10:00Z", ["14h", "13h"]),
        ("finished_before=2026-03-01T13:10:00Z", ["12h"]),
        ("updated_after=2026-03-01T13:10:00Z&updated_before=2026-03-01T14:10:00Z", ["13h"]),
        ("created_after=0001-01-01T00:00:00Z&created_before=9999-12-31T23:59:59Z", ["14h", "13h", "12h"]),
        ("created_before=1969-07-20T20:17:40Z", []),
    ],
)
def test_a_time_range_holds_its_beginning_and_not_its_end(api, hours, query, expected):
    assert asked(api, query) == expected


@pytest.mark.parametrize("name", [name for name in FILTERS if name.endswith(("_after", "_before"))])
@pytest.mark.parametrize(
    ("moment", "word"),
    [
        ("2026-03-01T12:00:00", "offset"), ("2026-03-01", "offset"), ("2026-03-01T12:00:00+01:00", "%2B"), ("now", "RFC 3339"),
        ("2026-02-30T12:00:00Z", "RFC 3339"), ("0001-01-01T00:00:00%2B23:59", "RFC 3339"), ("1772366400", "RFC 3339"),
        ("9999-12-31T23:59:59-23:59", "RFC 3339"), ("2026-03-01T12:00:00%2B99:00", "RFC 3339"), ("", "RFC 3339"),
    ],
)  # fmt: skip
def test_a_moment_that_is_not_certain_is_refused(api, name, moment, word):
    detail = refused(api, f"{name}={moment}")
    assert detail.startswith(f"{name}: ")
    assert word in detail


def test_a_run_is_found_by_when_it_was_made_even_if_its_key_is_a_moment_older(api, acme):
    run = made(acme, "late")
    Run.objects.filter(pk=run.pk).update(created_at=NOON + timedelta(seconds=20))
    assert asked(api, created_after="2026-03-01T12:00:20Z") == ["late"]
    assert asked(api, created_before="2026-03-01T12:00:20Z") == []


# -- pages


@pytest.mark.django_db(transaction=True)
def test_pages_hold_every_old_run_once_while_new_ones_arrive(api, acme):
    old = [made(acme, f"old-{n}", minutes=n).correlation_id for n in range(20)]
    plan, stop = PlanFactory(tenant=acme), threading.Event()

    def arrive():
        try:
            while not stop.is_set():
                RunFactory(tenant=acme, plan=plan)
        finally:
            connection.close()

    arriving = threading.Thread(target=arrive)
    arriving.start()
    try:
        pages = list(walk(api, "/v1/executions?limit=3"))
    finally:
        stop.set()
        arriving.join()
    seen = [run["correlation_id"] for page in pages for run in page["results"]]
    assert [one for one in seen if one.startswith("old-")] == old[::-1]
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize(
    "query", ["limit=3", "limit=3&status=failed,completed", "limit=3&label=team&fields=correlation_id"]
)
def test_previous_pages_lead_back_by_the_same_steps_with_the_same_filters(api, acme, query):
    for n in range(10):
        made(acme, str(n), minutes=n, status="failed" if n % 2 else "completed", labels={"team": "ops"})
    forth = list(walk(api, f"/v1/executions?{query}"))
    back, address = [], forth[-1]["previous"]
    while address:
        assert address.startswith(f"/v1/executions?{query}&cursor=after-")
        page = api.get(address)
        back.append(page["results"])
        address = page["previous"]
    assert back[::-1] == [page["results"] for page in forth[:-1]]
    assert [len(page["results"]) for page in forth] == [3, 3, 3, 1]
    assert forth[0]["previous"] is None


def test_links_are_the_same_by_whatever_name_the_service_is_called(api, acme, settings):
    settings.ALLOWED_HOSTS = ["*"]
    made(acme, "1"), made(acme, "2", minutes=1)
    by_name = [api.get("/v1/executions?limit=1", host=host)["next"] for host in ("internal:8000", "api.example.com")]
    assert by_name[0] == by_name[1]
    assert by_name[0].startswith("/v1/executions?limit=1&cursor=before-")


def test_a_page_that_has_become_empty_leads_back(api, acme):
    runs = [made(acme, str(n), minutes=n) for n in range(3)]
    first = api.get("/v1/executions?limit=2")
    Run.objects.filter(pk=runs[0].pk).delete()
    empty = api.get(first["next"])
    assert (empty["results"], empty["next"]) == ([], None)
    assert api.get(empty["previous"])["results"] == first["results"]


@pytest.mark.parametrize(("cursor", "back"), [("before-" + "0" * 32, "previous"), ("after-" + "f" * 32, "next")])
def test_the_empty_page_beyond_either_end_leads_back(api, acme, cursor, back):
    run = made(acme, "1")
    page = api.get(f"/v1/executions?cursor={cursor}")
    assert page["results"] == []
    assert [one["run_id"] for one in api.get(page[back])["results"]] == [str(run.pk)]


def test_a_page_asks_for_keys_in_their_order_and_then_for_their_rows(api, acme):
    for n in range(4):
        made(acme, str(n), minutes=n)
    second = api.get("/v1/executions?limit=2")["next"]
    with CaptureQueriesContext(connection) as queries:
        assert len(api.get(second)["results"]) == 2
    keys, rows = (q["sql"] for q in queries if 'FROM "executions_run"' in q["sql"])
    assert keys.startswith('SELECT "executions_run"."id" AS "id" FROM')
    assert '"executions_run"."id" < ' in keys
    assert keys.endswith("ORDER BY 1 DESC LIMIT 3")
    assert "OFFSET" not in keys
    assert "results" not in rows


LONG_AGO = {
    "label=campaign:spring": range(99, -1, -1),
    "label=campaign": range(99, -1, -1),
    "label=n:1": range(5199, 100, -2),
    "finished_before=2026-03-01T12:00:30Z": range(29, -1, -1),
    "updated_after=2026-03-01T13:26:30Z": range(5199, 5189, -1),
    "label=campaign&created_after=2026-03-01T12:01:00Z": range(99, 59, -1),
}


def test_what_is_only_long_ago_is_found_beyond_the_newest_thousands(api, acme):
    plan, runs = PlanFactory(tenant=acme), []
    for n in range(5200):
        moment, labels = NOON + timedelta(seconds=n), {"campaign": "spring"} if n < 100 else {"n": str(n % 2)}
        same = {
            "triggered_by": "alice",
            "requested_by": "a",
            "status": "completed",
            "reason": "ok",
            "portia_run_id": str(n),
        }
        times = dict.fromkeys(("created_at", "updated_at", "finished_at"), moment)
        key = UUID(int=first_uuid7(moment).int + n)
        runs.append(Run(id=key, tenant=acme, plan=plan, correlation_id=str(n), labels=labels, **same, **times))
    Run.objects.bulk_create(runs)
    for query, expected in LONG_AGO.items():
        pages = list(walk(api, f"/v1/executions?{query}&limit=200&fields=correlation_id"))
        assert [run["correlation_id"] for page in pages for run in page["results"]] == [str(n) for n in expected], query
        back = api.get(pages[-1]["previous"])["results"] if len(pages) > 1 else None
        assert back is None or back == pages[-2]["results"], query


# -- fields


def test_only_the_wanted_fields_come_back(api, acme):
    made(acme, "1")
    (run,) = api.get("/v1/executions?fields=status,run_id,timings")["results"]
    assert list(run) == ["run_id", "status", "timings"]
    assert "duration" in run["timings"]


@pytest.mark.parametrize("field", RunSummarySerializer().fields)
def test_no_field_of_the_list_costs_a_query_per_run(api, acme, field):
    def queries_for(count):
        made(acme, str(count), minutes=count)
        with CaptureQueriesContext(connection) as queries:
            assert len(api.get(f"/v1/executions?fields={field}")["results"]) == count
        return len(queries)

    queries_for(1)  # notes the use of the key
    assert queries_for(2) == queries_for(3)


@pytest.mark.parametrize("field", RunSerializer().fields)
def test_a_single_field_of_a_run_is_what_it_is_among_all(acme, field):
    run = made(acme, "1", status="paused", results={"a": 1}, variables={"b": 2}, labels={"c": "d"})
    RunStepFactory(run=run)
    ClarificationFactory(run=run)
    whole = RunSerializer(Run.objects.get(pk=run.pk)).data
    one = narrow(Run.objects.filter(pk=run.pk), RunSerializer, {field}).get()
    with CaptureQueriesContext(connection) as queries:
        assert RunSerializer(one, only={field}).data == {field: whole[field]}
    assert not [q["sql"] for q in queries if 'FROM "executions_run"' in q["sql"]]


# -- entity tags


def test_an_unchanged_list_is_not_sent_again(api, acme):
    run = made(acme, "1")
    first = api.client.get("/v1/executions")
    again = api.client.get("/v1/executions", headers={"if-none-match": first["ETag"]})
    assert (again.status_code, again.content, again["ETag"]) == (304, b"", first["ETag"])
    assert "Content-Type" not in again.headers
    Run.objects.filter(pk=run.pk).update(progress=0.5)
    changed = api.client.get("/v1/executions", headers={"if-none-match": first["ETag"]})
    assert (changed.status_code, changed["ETag"] != first["ETag"]) == (200, True)


@pytest.mark.parametrize("form", ["*", "W/{}", '"other", {}', ' "a,b" ,W/"c", {} ,'])
def test_a_list_is_known_by_any_of_the_callers_tags(api, form):
    etag = api.client.get("/v1/executions")["ETag"]
    headers = {"if-none-match": form.format(etag)}
    assert api.client.get("/v1/executions", headers=headers).status_code == 304
    assert api.client.head("/v1/executions", headers=headers).status_code == 304


@pytest.mark.parametrize("header", ['"other"', "", "{} x", '"a" "b"', 'w/"a"'])
def test_a_list_that_no_tag_names_is_sent(api, header):
    etag = api.client.get("/v1/executions")["ETag"]
    response = api.client.get("/v1/executions", headers={"if-none-match": header.format(etag)})
    assert (response.status_code, response["Content-Type"]) == (200, "application/json")


def test_a_refusal_has_no_tag(api):
    response = api.client.get("/v1/executions?status=odd", headers={"if-none-match": "*"})
    assert (response.status_code, "ETag" in response.headers) == (400, False)


# -- whatever comes in


texts = st.text(st.characters(codec="utf-8"), max_size=300)
numbers = st.integers().map(str) | st.floats().map(str)
moments = st.datetimes(timezones=st.timezones() | st.none()).map(lambda moment: moment.isoformat())
words = st.sampled_from(
    ["pending", "failed,completed", "rejected", "team:ops", "a:", "0" * 64, "run_id,labels", "*", "before-"]
)
cursors = st.builds("{}-{:032x}".format, st.sampled_from(["before", "after"]), st.integers(0, 2**128 - 1))
values = texts | numbers | moments | words | cursors


@settings(max_examples=150, **NO_HURRY)
@given(st.lists(st.tuples(st.sampled_from([*FILTERS, "cursor", "limit", "fields"]) | texts, values), max_size=4))
@example([("label", "\ud7ff:\x00")])
@example([("cursor", "after-" + "f" * 32)])
@example([("cursor", "before-" + "0" * 32)])
@example([("status", "failed,cancelled,paused"), ("reason", "rejected,run_lost,ok,executing,timed_out")])
def test_no_query_string_is_too_odd(api, query):
    response = api.client.get("/v1/executions?" + urlencode(query))
    assert response.status_code in (200, 400), response.content
    if response.status_code == 400:
        assert response["Content-Type"] == "application/problem+json"


@settings(max_examples=30, **NO_HURRY)
@given(st.binary(max_size=40))
def test_no_bytes_in_a_filter_are_too_odd(api, raw):
    escaped = "".join(f"%{byte:02x}" for byte in raw)
    for name in ("label", "triggered_by", "created_after", "cursor", "fields"):
        assert api.client.get(f"/v1/executions?{name}={escaped}").status_code in (200, 400)
