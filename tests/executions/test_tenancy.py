"""The second wall: what PostgreSQL shows of another tenant where a query of ours forgets to ask for one."""

from __future__ import annotations

from contextlib import suppress

import pytest
from django.apps import apps
from django.db import DatabaseError, DataError, ProgrammingError, connection, transaction
from django.urls import include, path

from approvals_bridge.models import Clarification, Vote
from executions import audit
from executions.admin.runs import RunAdmin
from executions.api.run_list import RunListView
from executions.api.tenant_view import TenantView
from executions.models import Event, IdempotencyRecord, Kind, Plan, RevokedToken, Run, RunStep, Tenant, Work
from executions.models.rate import RateState
from executions.tenancy import ROLE, every_tenant, only
from orchestrator_project.urls import urlpatterns as all_routes
from tests.executions.test_submission import submit
from tests.factories.models import ClarificationFactory, RunFactory, RunStepFactory, UserFactory, record_event, staff_of

pytestmark = pytest.mark.django_db(transaction=True)


class ForgetfulRuns(RunListView):
    """The list of runs, without its filter."""

    def rows(self):
        return Run.objects.all()


class ForgetfulCrash(TenantView):
    """A view that fails in the middle of a transaction."""

    scopes = RunListView.scopes

    def get(self, request):
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT 1/0")


urlpatterns = [
    path("v1/forgetful/executions", ForgetfulRuns.as_view()),
    path("v1/forgetful/crash", ForgetfulCrash.as_view()),
    path("", include(all_routes)),
]
forgetful = pytest.mark.urls(__name__)


@pytest.fixture
def two(acme, globex):
    """A run with all that belongs to one, of each of two tenants; returns theirs of the first."""
    for tenant in (acme, globex):
        run = RunFactory(tenant=tenant, labels={"team": "a"})
        RunStepFactory(run=run)
        record_event(run)
        asked = ClarificationFactory(run=run, tenant=tenant)
        voter = UserFactory(username=f"voter-of-{tenant.identifier}", is_staff=True)
        Vote.objects.create(clarification=asked, voter=voter, decision="approve")
        Work.objects.schedule(run.pk, Kind.SYNC)
        RateState.objects.create(tenant=tenant, full_at=run.created_at)
        RevokedToken.objects.create(tenant=tenant, token_id="t", revoked_by="root", reason="lost")
        tenant.members.add(voter)
        audit.record(action="execution.accepted", subject=f"execution/{run.pk}", by="x", tenant_id=tenant.pk)
        store_answer(tenant)
    return Run.objects.get(tenant=acme)


def store_answer(tenant):
    from django.utils import timezone

    now = timezone.now()
    IdempotencyRecord.objects.create(
        tenant=tenant, principal="x", key="k", route="POST /x", response_status=200, created_at=now, expires_at=now
    )


def whose():
    """Who the connection is."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_user, current_setting('orchestrator.tenants', true)")
        return cursor.fetchone()


def tables():
    """Every table of ours with rows of tenants, with those that join people to them."""
    found = [m for app in ("executions", "approvals_bridge") for m in apps.get_app_config(app).get_models(True)]
    return {model._meta.db_table for model in found}


def test_every_table_of_ours_is_behind_the_wall():
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname FROM pg_class JOIN pg_policy ON polrelid = pg_class.oid"
            " WHERE relrowsecurity AND polcmd = '*' AND polroles = ARRAY[%s::regrole::oid]",
            [ROLE],
        )
        walled = {name for (name,) in cursor.fetchall()}
    assert tables() - walled == set(), "give the new table a policy, as executions/migrations/0011 does"


@pytest.mark.parametrize(
    "model", [Tenant, Plan, Run, RunStep, Event, Clarification, Vote, Work, RateState, RevokedToken]
)
def test_a_query_without_its_filter_shows_one_tenants_rows(two, acme, model):
    everything = set(model.objects.values_list("pk", flat=True))
    with only(acme.pk):
        mine = set(model.objects.values_list("pk", flat=True))
    with only():
        nothing = set(model.objects.values_list("pk", flat=True))
    assert (len(everything), len(mine), len(nothing)) == (2, 1, 0)


def test_no_table_shows_anything_of_another_tenant(two, acme):
    left = {}
    for table in sorted(tables()):
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT count(*) FROM {table}")
            (everything,) = cursor.fetchone()
            with only(acme.pk):
                cursor.execute(f"SELECT count(*) FROM {table}")
                (mine,) = cursor.fetchone()
        if everything and mine * 2 != everything:
            left[table] = (everything, mine)
    assert left == {}


@forgetful
def test_a_request_sees_its_tenants_rows_though_its_query_forgets_to_say_so(two, api, mallory):
    assert [one["run_id"] for one in api.get("/v1/forgetful/executions")["results"]] == [str(two.pk)]
    assert [one["run_id"] for one in api.get("/v1/forgetful/executions?label=team:a")["results"]] == [str(two.pk)]
    assert str(two.pk) not in str(mallory.get("/v1/forgetful/executions"))


def test_a_person_in_the_admin_sees_the_rows_of_his_tenants_though_the_page_forgets_to_say_so(
    two, acme, client, monkeypatch
):
    client.force_login(staff_of(acme, username="olga", permissions=["view_run"]))
    monkeypatch.setattr(RunAdmin, "get_queryset", lambda self, request: Run.objects.all())
    page = client.get("/admin/executions/run/").content.decode()
    assert str(two.pk) in page
    assert str(Run.objects.exclude(pk=two.pk).get().pk) not in page


def test_a_superuser_sees_all_tenants(two, admin_client):
    page = admin_client.get("/admin/executions/run/").content.decode()
    assert all(str(run.pk) in page for run in Run.objects.all())


def test_a_job_sees_its_runs_tenant_though_its_query_forgets_to_say_so(two):
    seen = {}
    Work.objects.update(due_at=two.created_at)
    for work in Work.objects.claim(Kind.SYNC, limit=10, lease=10):
        with Work.objects.attempt(work):
            seen[work.run_id] = list(Run.objects.values_list("pk", flat=True))
    assert len(seen) == 2
    assert all(found == [run_id] for run_id, found in seen.items())


def test_nothing_of_another_tenant_can_be_written(two, acme, globex):
    other = Run.objects.get(tenant=globex)
    with only(acme.pk):
        assert Run.objects.filter(pk=other.pk).update(triggered_by="mallory") == 0
        assert Plan.objects.filter(tenant=globex).delete()[0] == 0
        with pytest.raises(ProgrammingError, match="row-level security"), transaction.atomic():
            RevokedToken.objects.create(tenant=globex, token_id="theirs", revoked_by="mallory", reason="mine")


def test_behind_the_wall_the_audit_log_can_only_be_added_to(two, acme):
    for statement in (
        "UPDATE executions_auditentry SET actor = 'nobody'",
        "DELETE FROM executions_auditentry",
        "TRUNCATE executions_auditentry",
        "DELETE FROM django_migrations",
    ):
        with only(acme.pk), pytest.raises(ProgrammingError, match="permission denied"), connection.cursor() as cursor:
            cursor.execute(statement)


# What the role may do with tables that are not ours alone; it may do nothing with those that are not here.
OF_OTHERS = {
    "auth_user": "SELECT",
    "auth_group": "SELECT",
    "auth_permission": "SELECT",
    "auth_group_permissions": "SELECT",
    "auth_user_groups": "SELECT",
    "auth_user_user_permissions": "SELECT",
    "django_content_type": "SELECT",
    "django_admin_log": "SELECT INSERT",
    "django_session": "SELECT INSERT UPDATE DELETE",
    "orchestrator_project_jobslot": "SELECT",
    "orchestrator_project_workernode": "SELECT",
}


def rights():
    """(table, what the role may do) of all tables but those with rows of tenants."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.relname, string_agg(may, ' ' ORDER BY place) FILTER (WHERE has_table_privilege(%s, c.oid, may))"
            " FROM pg_class AS c, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER'])"
            " WITH ORDINALITY AS a(may, place)"
            " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm') GROUP BY 1",
            [ROLE],
        )
        return {name: may for name, may in cursor.fetchall() if name not in tables() and may}


def test_behind_the_wall_nothing_else_can_be_touched_than_what_is_listed_here():
    assert rights() == OF_OTHERS
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE new_one (id int)")
        found = rights()
        cursor.execute("DROP TABLE new_one")
    assert found == OF_OTHERS


def test_a_vote_an_event_and_a_plan_stay_as_they_were_written(two, acme):
    for table in ("approvals_bridge_vote", "executions_event", "executions_plan", "executions_revokedtoken"):
        for statement in (f"DELETE FROM {table}", f"UPDATE {table} SET id = id"):
            with only(acme.pk), pytest.raises(ProgrammingError, match="denied"), connection.cursor() as cursor:
                cursor.execute(statement)


@forgetful
def test_after_a_request_the_connection_is_nobodys(api, client, two):
    api.get("/v1/executions")
    assert whose()[0] != ROLE
    api.client.raise_request_exception = False
    assert api.client.get("/v1/forgetful/crash").status_code in (500, 503)
    assert whose()[0] != ROLE
    assert Run.objects.count() == 2


def test_a_connection_that_is_made_anew_stands_behind_the_same_wall(two, acme):
    with only(acme.pk):
        connection.close()
        assert whose() == (ROLE, str(acme.pk))
        with every_tenant():
            assert Run.objects.count() == 2
        assert Run.objects.count() == 1
    assert Run.objects.count() == 2


def test_a_connection_that_breaks_behind_the_wall_leaves_no_trace(two, acme):
    with suppress(DatabaseError), only(acme.pk), connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    assert Run.objects.count() == 2


def test_a_failed_transaction_leaves_the_wall_where_it_was(two, acme):
    with only(acme.pk):
        with suppress(ZeroDivisionError), transaction.atomic():
            Run.objects.count()
            raise ZeroDivisionError
        assert Run.objects.count() == 1


def test_an_error_behind_the_wall_is_told_as_it_is_and_leaves_the_wall_where_it_was(two, acme):
    with only(acme.pk):
        with pytest.raises(DataError), transaction.atomic(), every_tenant(), connection.cursor() as cursor:
            cursor.execute("SELECT 1/0")
        assert whose() == (ROLE, str(acme.pk))
        assert Run.objects.count() == 1
    with pytest.raises(DataError), transaction.atomic(), only(acme.pk), connection.cursor() as cursor:
        cursor.execute("SELECT 1/0")
    assert whose()[0] != ROLE
    assert Run.objects.count() == 2


def test_a_whole_run_goes_through_behind_the_wall(api, portia):
    from tests.conftest import work_until

    run = submit(api)
    assert work_until(run["run_id"], status="completed").steps.count() == 1
    assert api.get(f"/v1/executions/{run['run_id']}")["steps"]
