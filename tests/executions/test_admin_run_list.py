"""The list of runs in the admin: whose runs are shown, and by what they are found."""

from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from executions.models.ids import first_uuid7
from tests.factories.models import PlanFactory, RunFactory, UserFactory, staff_of

pytestmark = pytest.mark.django_db

LIST = reverse("admin:executions_run_changelist")


@pytest.fixture
def olga(acme):
    return staff_of(acme, username="olga", permissions=("view_run",))


@pytest.fixture
def browser(olga, client):
    client.force_login(olga)
    return client


@pytest.fixture
def runs(acme, globex):
    """Two runs of acme, one of them of last year, and one of globex that fits whatever is asked for."""
    long_ago = timezone.now() - timedelta(days=400)
    labels, plan = {"team": "ops", "urgent": ""}, PlanFactory(tenant=acme, name="Pay a refund")
    return {
        "new": RunFactory(tenant=acme, plan=plan, labels=labels, status="failed", triggered_by="carol"),
        "old": RunFactory(
            tenant=acme, id=UUID(int=first_uuid7(long_ago).int + uuid4().int % 2**60), created_at=long_ago
        ),
        "foreign": RunFactory(tenant=globex, labels=labels, status="failed", triggered_by="carol", portia_run_id="far"),
    }


def shown(browser, runs, **query):
    page = browser.get(LIST, query).content.decode()
    return {name for name, run in runs.items() if f"/run/{run.pk}/change/" in page}


def test_a_person_sees_the_runs_of_all_tenants_they_belong_to_and_a_superuser_all(browser, olga, runs, globex, client):
    assert shown(browser, runs) == {"new", "old"}
    globex.members.add(olga)
    assert shown(browser, runs) == {"new", "old", "foreign"}
    client.force_login(UserFactory(username="root", is_staff=True, is_superuser=True))
    assert shown(client, runs) == {"new", "old", "foreign"}


@pytest.mark.parametrize(
    "query",
    [
        {"label": "team:ops"}, {"label": "urgent"}, {"submitted": "365"}, {"status__exact": "failed"},
        {"reason__exact": "step_failed"}, {"q": "team:ops"}, {"q": "carol"}, {"q": " a REFUND "},
    ],
)  # fmt: skip
def test_filters_and_search_find_the_tenants_runs_that_fit(browser, runs, query):
    assert shown(browser, runs, **query) == {"new"}


@pytest.mark.parametrize("column", ["pk", "correlation_id", "portia_run_id"])
def test_a_run_is_found_by_each_of_its_ids(browser, runs, column):
    assert shown(browser, runs, q=getattr(runs["old"], column)) == {"old"}
    assert shown(browser, runs, q=getattr(runs["foreign"], column)) == set()


@pytest.mark.parametrize("query", [{"label": "no label"}, {"label": "team:"}, {"q": "nothing"}, {"q": "team:dev"}])
def test_what_nothing_fits_shows_nothing(browser, runs, query):
    assert shown(browser, runs, **query) == set()


def test_labels_are_links_to_the_runs_that_have_them(browser, acme):
    RunFactory(tenant=acme, labels={"a&b": "<i>", "team": "ops", "env": "prod"})
    page = browser.get(LIST).content.decode()
    assert 'href="?label=a%26b%3A%3Ci%3E"' in page
    assert "<i>" not in page
    assert "+1</span>" in page


def test_the_list_asks_no_row_for_its_tenant_and_loads_no_long_value(browser, runs):
    with CaptureQueriesContext(connection) as queries:
        browser.get(LIST)
    asked = [query["sql"] for query in queries if "executions_run" in query["sql"]]
    assert not [sql for sql in asked if "DISTINCT" in sql or '"results"' in sql or '"document"' in sql]
