"""The audit log: what is written into it, by whom and from where, and that it is never written anew."""

import threading
from datetime import timedelta
from io import StringIO
from uuid import UUID

import pytest
from django.contrib.auth.models import Group
from django.core.management import call_command
from django.db import IntegrityError, ProgrammingError, connection, transaction
from django.test import RequestFactory
from django.utils import timezone

from approvals_bridge import actions
from executions import audit
from executions.actions import runs
from executions.actions.audit import check_chain, public_keys
from executions.audit_chain import NO_LINK, link_hash
from executions.models import SERVICE, AuditCheckpoint, AuditEntry, AuditLink, Run, Source
from orchestrator_project.jobs import slots
from orchestrator_project.models import JobSlot
from tests.conftest import work_until
from tests.factories import documents
from tests.factories.models import RunFactory

pytestmark = pytest.mark.django_db(transaction=True)

TABLES = ("executions_auditentry", "executions_auditlink", "executions_auditcheckpoint")


def note(tenant, what="x", **facts):
    return audit.record(action="test.done", subject=what, by="somebody", tenant_id=tenant.pk, **facts)


def submission(document):
    return {"executable_plan": document, "triggered_by": "alice"}


def deeds(**conditions):
    """(action, actor) of the entries, the first one first."""
    return list(AuditEntry.objects.filter(**conditions).order_by("id").values_list("action", "actor"))


def last(action):
    return AuditEntry.objects.filter(action=action).order_by("-id")[0]


# -- the chain


def test_each_entry_takes_the_place_behind_the_one_before(acme):
    note(acme, "first")
    note(acme, "second")
    before = NO_LINK
    for number, link in enumerate(AuditLink.objects.filter(tenant_id=acme.pk).order_by("sequence"), 1):
        entry = AuditEntry.objects.get(pk=link.entry_id)
        expected = link_hash(tenant=str(acme.pk), sequence=number, previous=before, digest=entry.digest)
        assert (link.sequence, link.previous, link.hash) == (number, before, expected)
        before = link.hash
    assert number == 3  # with the making of the tenant


def test_each_tenant_has_a_chain_of_its_own(acme, globex):
    for tenant in (acme, globex, acme):
        note(tenant)
    assert [AuditLink.objects.filter(tenant_id=one.pk).count() for one in (acme, globex)] == [3, 2]


def test_what_is_rolled_back_leaves_neither_an_entry_nor_a_gap(acme):
    with transaction.atomic():
        note(acme)
        transaction.set_rollback(True)
    note(acme)
    assert list(AuditLink.objects.filter(tenant_id=acme.pk).values_list("sequence", flat=True)) == [1, 2]
    assert AuditEntry.objects.filter(tenant_id=acme.pk).count() == 2


def test_the_chain_is_free_until_the_commit(acme):
    """Somebody else's entry of the same tenant is committed while ours is still being worked on."""
    with transaction.atomic():
        note(acme, "ours")
        other = threading.Thread(target=lambda: (note(acme, "theirs"), connection.close()))
        other.start()
        other.join(5)
        assert not other.is_alive()
    order = AuditLink.objects.filter(tenant_id=acme.pk).order_by("sequence").values_list("entry_id", flat=True)
    assert [AuditEntry.objects.get(pk=pk).subject for pk in order][1:] == ["theirs", "ours"]


def test_many_at_once_make_one_chain_without_a_gap(acme):
    def write():
        for _ in range(20):
            with transaction.atomic():
                note(acme)
        connection.close()

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sequences = AuditLink.objects.filter(tenant_id=acme.pk).order_by("sequence").values_list("sequence", flat=True)
    assert list(sequences) == list(range(1, 122))
    assert not check_chain(acme.pk, keys=public_keys()).findings


# -- append-only


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    "statement", ["UPDATE {} SET tenant_id = tenant_id", "DELETE FROM {}", "TRUNCATE {}", "TRUNCATE {} CASCADE"]
)
def test_the_database_lets_nobody_change_delete_or_empty_it(acme, table, statement):
    note(acme)
    call_command("sign_audit", "--tenant", "acme", stdout=StringIO())
    with pytest.raises(ProgrammingError, match=r"Cannot|append-only"), connection.cursor() as cursor:
        cursor.execute(statement.format(table))
    assert AuditEntry.objects.count() == AuditLink.objects.count() == 2
    assert AuditCheckpoint.objects.count() == 1


def test_an_entry_without_the_digest_of_its_content_is_no_entry(acme):
    with pytest.raises(IntegrityError):
        AuditEntry.objects.create(
            tenant_id=acme.pk, at=acme.created_at, actor="x", source="api", action="a.b", digest="no"
        )


# -- from where


def test_a_request_over_the_api_is_written_with_key_address_and_correlation_id(acme, api):
    body = submission(documents.plan(documents.action("greet")))
    run = api.post("/v1/execute", body, expect=202, **{"x-correlation-id": "order-1"})
    entry = last("execution.accepted")
    assert (entry.source, entry.address, entry.actor) == ("api", "127.0.0.1", "agent")
    assert (entry.subject, entry.correlation_id) == (f"execution/{run['run_id']}", "order-1")


@pytest.mark.parametrize(
    ("behind_proxy", "forwarded", "address"),
    [
        (False, "203.0.113.7", "192.0.2.1"),  # anybody may send the header
        (True, "203.0.113.7", "203.0.113.7"),
        (True, "6.6.6.6, 203.0.113.7", "203.0.113.7"),  # only the last hop was written by the proxy
        (True, "2001:DB8::1", "2001:db8::1"),
        (True, "<script>", ""),
        (True, None, "192.0.2.1"),
    ],
)
def test_a_forwarded_address_counts_only_behind_the_proxy(settings, behind_proxy, forwarded, address):
    settings.BEHIND_TLS_PROXY = behind_proxy
    headers = {} if forwarded is None else {"x-forwarded-for": forwarded}
    request = RequestFactory(headers=headers).get("/", REMOTE_ADDR="192.0.2.1")
    assert audit.address_of(request) == address


def test_a_request_over_a_unix_socket_has_no_address():
    assert audit.address_of(RequestFactory().get("/", REMOTE_ADDR="")) == ""


def test_what_is_no_request_and_no_job_is_a_command(acme):
    assert note(acme).source == Source.COMMAND


def test_what_a_worker_does_is_a_jobs(acme, api, portia):
    body = submission(documents.plan(documents.action("greet")))
    run = api.post("/v1/execute", body, expect=202, **{"x-correlation-id": "order-1"})
    JobSlot.objects.ensure({"launch": 1})
    slot = JobSlot.objects.take(kind="launch", slots=1, seconds=60)
    assert slot is not None
    slots.run(slot.id, slot.generation)
    entry = AuditEntry.objects.get(subject=f"execution/{run['run_id']}", action="execution.changed")
    assert (entry.source, entry.address, entry.correlation_id) == ("job", "", "order-1")


# -- runs


def test_a_run_from_its_submission_to_its_end_is_in_the_log(acme, api, portia):
    run = api.post("/v1/execute", submission(documents.plan(documents.action("greet"))), expect=202)
    work_until(run["run_id"], status="completed")
    assert deeds(subject=f"execution/{run['run_id']}") == [
        ("execution.accepted", "agent"),
        ("execution.changed", "portia"),
        ("execution.changed", "portia"),
    ]
    end = last("execution.changed")
    assert end.before == {"status": "running", "reason": "executing"}
    assert end.after == {"status": "completed", "reason": "ok"}
    assert end.correlation_id == Run.objects.get(pk=run["run_id"]).correlation_id
    assert deeds(action="plan.stored") == [("plan.stored", "agent")]


def test_a_cancelled_run_tells_who_cancelled_it(acme, api, portia):
    document = documents.plan(documents.step("ask", "approval", title="Go on?"))
    run_id = api.post("/v1/execute", submission(document), expect=202)["run_id"]
    work_until(run_id, reason="awaiting_clarification")
    runs.cancel(UUID(run_id), by="carol")
    run = work_until(run_id, status="cancelled")
    assert (run.commanded_by, run.awaited) == ("carol", "")
    assert deeds(subject=f"execution/{run_id}")[-2:] == [
        ("execution.cancel_requested", "carol"),
        ("execution.changed", "carol"),
    ]
    assert run.events.get(type="io.anumate.execution.cancelled").actor == "carol"


@pytest.mark.parametrize(("command", "event"), [(runs.pause, ".paused"), (runs.cancel, ".cancelled")])
def test_a_run_that_was_never_sent_tells_who_held_or_cancelled_it(acme, command, event):
    run = RunFactory(tenant=acme, portia_run_id=None)
    command(run.pk, by="carol")
    assert run.events.get(type__endswith=event).actor == "carol"
    assert deeds(subject=f"execution/{run.pk}")[-1] == ("execution.changed", "carol")


def test_a_pause_and_a_resume_tell_who_asked(acme):
    run = RunFactory(tenant=acme, status="running")
    runs.pause(run.pk, by="carol")
    run.refresh_from_db()
    run.transition("paused", "pause_requested")
    runs.resume(run.pk, by="dave")
    run.refresh_from_db()
    run.transition("running", "executing")
    assert list(run.events.order_by("sequence").values_list("actor", flat=True)) == ["carol", "dave"]


def test_an_end_that_nobody_here_asked_for_is_portias(acme):
    run = RunFactory(tenant=acme, status="running")
    runs.pause(run.pk, by="carol")
    run.refresh_from_db()
    run.transition("cancelled", "cancel_requested")  # somebody did it at Portia, before the pause got there
    assert run.events.get().actor == "portia"


def test_a_released_key_is_in_the_log_with_its_reason(acme, api):
    body = submission(documents.plan(documents.action("greet")))
    api.post("/v1/execute", body, expect=202, **{"idempotency-key": "order-1"})
    api.post("/v1/idempotency-keys/order-1/release", {"reason": "Placed anew."}, expect=200)
    entry = last("idempotency_key.released")
    assert (entry.reason, entry.actor, entry.before["key"]) == ("Placed anew.", "agent", "order-1")


def test_deleted_runs_leave_a_deed_behind_and_all_that_was_done_to_them(acme, globex):
    old = timezone.now() - timedelta(days=100)
    kept = [RunFactory(tenant=tenant, status="failed", created_at=old) for tenant in (acme, globex, acme)]
    runs.cancel(RunFactory(tenant=acme, portia_run_id=None).pk, by="carol")
    runs.delete_finished(before=timezone.now() - timedelta(days=90))
    assert Run.objects.filter(pk__in=[run.pk for run in kept]).count() == 0
    assert {entry.tenant_id: entry.after["count"] for entry in AuditEntry.objects.filter(action="execution.deleted")} == {
        acme.pk: 2, globex.pk: 1,
    }  # fmt: skip


# -- approvals


def test_a_decision_is_in_the_log_from_the_question_to_its_delivery(acme, api, bob, portia):
    document = documents.plan(documents.step("ask", "approval", title="Go on?"))
    run_id = api.post("/v1/execute", submission(document), expect=202)["run_id"]
    run = work_until(run_id, reason="awaiting_clarification")
    while not run.clarifications.exists():
        work_until(run_id, reason="awaiting_clarification")
    question = run.clarifications.get()
    actions.decide(
        clarification_id=question.pk, user=bob, decision="approve", action_digest=question.action_digest, source="api"
    )
    work_until(run_id, status="completed")
    assert deeds(subject=f"clarification/{question.pk}") == [
        ("clarification.requested", "portia"),
        ("clarification.voted", "bob"),
        ("clarification.approved", "bob"),
        ("clarification.delivered", "orchestrator"),
    ]
    assert last("clarification.voted").after["decision"] == "approve"
    assert last("clarification.voted").after["run_id"] == run_id


# -- the admin


@pytest.fixture
def root(client, django_user_model):
    user = django_user_model.objects.create_superuser("root", password="correct horse")
    client.force_login(user)
    return user


def test_a_changed_tenant_is_in_its_log_with_what_it_was(acme, root, bob, client):
    data = {"name": "Acme & Co", "is_active": "on", "allowed_tools": "echo", "rate_limit": "60", "members": [root.pk]}
    answer = client.post(f"/admin/executions/tenant/{acme.pk}/change/", data)
    assert answer.status_code == 302, answer.content.decode()
    entry = last("tenant.changed")
    assert (entry.tenant_id, entry.actor, entry.source) == (acme.pk, "root", "admin")
    assert entry.before == {
        "name": "Acme", "allowed_tools": None, "members": ["bob"], "rate_limit": None
    }  # fmt: skip
    assert entry.after == {
        "name": "Acme & Co", "allowed_tools": ["echo"], "members": ["root"], "rate_limit": 60
    }  # fmt: skip


def test_a_save_that_changes_nothing_is_no_deed(acme, root, client):
    client.post(f"/admin/executions/tenant/{acme.pk}/change/", {"name": "Acme", "is_active": "on"})
    assert not AuditEntry.objects.filter(action="tenant.changed").exists()


def test_rights_given_to_a_person_are_in_the_services_log(root, bob, client):
    group = Group.objects.create(name="finance")
    data = {
        "username": "bob", "is_active": "on", "is_staff": "on", "is_superuser": "on", "groups": [group.pk],
        "date_joined_0": "2026-11-01", "date_joined_1": "10:00:00",
    }  # fmt: skip
    answer = client.post(f"/admin/auth/user/{bob.pk}/change/", data)
    assert answer.status_code == 302, answer.content.decode()
    entry = last("user.changed")
    assert (entry.tenant_id, entry.subject, entry.actor) == (SERVICE, "user/bob", "root")
    assert entry.after["is_superuser"] is True
    assert entry.after["groups"] == ["finance"]


def test_a_new_password_is_a_deed_without_the_password(root, bob, client):
    words = {"password1": "quite another horse", "password2": "quite another horse", "usable_password": "true"}
    answer = client.post(f"/admin/auth/user/{bob.pk}/password/", words)
    assert answer.status_code == 302, answer.content.decode()
    entry = last("user.password_changed")
    assert (entry.subject, entry.before, entry.after) == ("user/bob", None, None)
    assert "horse" not in str(list(AuditEntry.objects.values()))


def test_ones_own_new_password_is_a_deed_too_and_a_refused_one_is_none(bob, client):
    client.force_login(bob)
    words = {"old_password": "wrong", "new_password1": "quite another horse", "new_password2": "quite another horse"}
    assert client.post("/admin/password_change/", words).status_code == 200
    assert not AuditEntry.objects.filter(action="user.password_changed").exists()
    answer = client.post("/admin/password_change/", words | {"old_password": "correct horse"})
    assert answer.status_code == 302, answer.content.decode()
    entry = last("user.password_changed")
    assert (entry.subject, entry.actor, entry.before, entry.after) == ("user/bob", "bob", None, None)


def test_a_person_and_a_group_are_made_and_deleted(root, client):
    client.post("/admin/auth/user/add/", {
        "username": "eve", "password1": "correct horse 7", "password2": "correct horse 7", "usable_password": "true",
    })  # fmt: skip
    client.post("/admin/auth/group/add/", {"name": "night shift"})
    eve = type(root).objects.get(username="eve")
    client.post(f"/admin/auth/user/{eve.pk}/delete/", {"post": "yes"})
    client.post("/admin/auth/group/", {
        "action": "delete_selected", "_selected_action": [Group.objects.get().pk], "post": "yes",
    })  # fmt: skip
    made = deeds(tenant_id=SERVICE, source="admin")
    assert [action for action, _ in made] == ["user.created", "group.created", "user.deleted", "group.deleted"]


def test_coming_and_going_is_in_the_services_log(bob, client):
    where = "/admin/login/"
    client.post(where, {"username": "bob", "password": "wrong horse"})
    client.post(where, {"username": "hunter2-typed-into-the-wrong-field", "password": "x"})
    client.post(where, {"username": "bob", "password": "correct horse"})
    client.post("/admin/logout/")
    entries = AuditEntry.objects.filter(tenant_id=SERVICE).order_by("id")
    assert list(entries.values_list("action", "subject", "actor", "source")) == [
        ("session.login_failed", "user/bob", "anonymous", "admin"),
        ("session.login_failed", "user/(unknown)", "anonymous", "admin"),
        ("session.login", "user/bob", "bob", "admin"),
        ("session.logout", "user/bob", "bob", "admin"),
    ]
    assert set(entries.values_list("address", flat=True)) == {"127.0.0.1"}
    assert "hunter2" not in str(list(AuditEntry.objects.values()))
