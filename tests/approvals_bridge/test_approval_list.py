"""GET /v1/approvals: which clarifications come back, and with which fields."""

from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from approvals_bridge.api.serializers import ClarificationSerializer
from approvals_bridge.api.views import ClarificationListView
from tests.factories.models import ClarificationFactory, RunFactory, VoteFactory

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def run(acme):
    return RunFactory(status="paused", tenant=acme)


@pytest.fixture
def population(run, acme, globex):
    """Three questions of one run and one of another; and one of another tenant, which fits whatever is asked for."""
    decided = {"decided_at": timezone.now(), "decided_by": "bob"}
    ClarificationFactory(run=run, title="first")
    ClarificationFactory(run=run, title="chosen", choice=True, status="approved", **decided)
    ClarificationFactory(run=run, title="refused", status="rejected", **decided)
    ClarificationFactory(run=RunFactory(status="paused", tenant=acme), title="other run", deadline=NOON)
    ClarificationFactory(run=RunFactory(status="paused", tenant=globex), title="foreign", deadline=NOON)


def titles(api, query):
    return {one["title"] for one in api.get(f"/v1/approvals?{query}&fields=title")["results"]}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {"other run", "first"}),
        ("status=pending", {"other run", "first"}),
        ("status=approved,rejected", {"refused", "chosen"}),
        ("category=Multiple%20Choice", set()),
        ("category=Multiple%20Choice&status=approved", {"chosen"}),
        ("category=User%20Verification&category=Multiple%20Choice", {"other run", "first"}),
        ("deadline_before=2026-03-01T12:00:01Z", {"other run"}),
        ("deadline_after=2026-03-01T12:00:01Z", {"first"}),
        ("requested_after=2030-01-01T00:00:00Z", set()),
        ("requested_before=2030-01-01T00:00:00Z", {"other run", "first"}),
    ],
)
def test_every_filter_finds_the_tenants_clarifications_that_fit(api, population, query, expected):
    assert titles(api, query) == expected


def test_all_questions_of_a_run_come_back_when_it_is_named(api, run, population):
    assert titles(api, f"run_id={run.pk}") == {"refused", "chosen", "first"}
    assert titles(api, f"run_id={run.pk}&status=pending") == {"first"}


def test_a_question_is_found_by_when_portia_asked_though_it_came_here_later(api, run):
    asked = timezone.now() - timedelta(minutes=30)
    ClarificationFactory(run=run, title="late", requested_at=asked)
    assert titles(api, urlencode({"requested_after": asked.isoformat()})) == {"late"}
    assert titles(api, urlencode({"requested_before": asked.isoformat()})) == set()


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("status=open", "pending"), ("category=Choice", "Multiple Choice"), ("run_id=7", "UUID"), ("run_id=a&run_id=b", "once"),
        ("deadline_before=tomorrow", "RFC 3339"), ("requested_after=2026-01-01T00:00:00", "offset"),
        ("fields=secret", "known are"),
        ("created_after=2026-01-01T00:00:00Z", "known are"),
    ],
)  # fmt: skip
def test_a_parameter_that_makes_no_sense_is_named(api, query, word):
    detail = api.get(f"/v1/approvals?{query}", expect=400)["detail"]
    assert detail.startswith(query.split("=")[0])
    assert word in detail


@pytest.mark.parametrize("field", ClarificationSerializer().fields)
def test_no_field_costs_a_query_per_clarification(api, run, field):
    def queries_for(count):
        VoteFactory(clarification=ClarificationFactory(run=run))
        with CaptureQueriesContext(connection) as queries:
            assert len(api.get(f"/v1/approvals?fields={field}")["results"]) == count
        return len(queries)

    queries_for(1)  # notes the use of the key
    assert queries_for(2) == queries_for(3)


def test_an_unchanged_list_is_not_sent_again(api, population):
    etag = api.client.get("/v1/approvals")["ETag"]
    assert api.client.get("/v1/approvals", headers={"if-none-match": etag}).status_code == 304


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from([one.name for one in ClarificationListView.filters]),
    st.text(st.characters(codec="utf-8"), max_size=60),
)
def test_no_value_of_a_filter_is_too_odd(api, name, value):
    assert api.client.get(f"/v1/approvals?{urlencode({name: value})}").status_code in (200, 400)
