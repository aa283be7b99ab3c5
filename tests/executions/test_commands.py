"""Management commands: what they say to good and bad input."""

import json
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from executions.models import ApiKey, IdempotencyRecord, Run, Tenant
from tests.factories import documents
from tests.factories.models import RunFactory

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def plan_file(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(documents.plan(documents.action("greet"))))
    return path


def test_a_tenant_and_a_key_are_made_and_the_key_is_stored_as_a_digest_only(capsys):
    call_command("create_tenant", "acme", name="Acme")
    call_command("create_api_key", "acme", "agent", days=30)
    secret = capsys.readouterr().out.splitlines()[-1]
    key = ApiKey.objects.get()
    assert (key.digest, key.principal, key.scopes) == (
        ApiKey.digest_of(secret),
        "agent",
        ["control", "execute", "read"],
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("create_tenant", "Not Good"), "identifier"),
        (("create_api_key", "nobody", "agent"), "nobody"),
        (("create_api_key", "acme", "agent", "--user", "ghost"), "ghost"),
        (("create_api_key", "acme", "agent", "--days", "-1"), "expires_at"),
        (("create_api_key", "acme", "agent", "--scope", "decide"), "person"),
        (("execute", "/nowhere.json", "--tenant", "acme"), "/nowhere.json"),
        (("cleanup_runs", "--older-than", "soon"), "90d"),
    ],
)
def test_bad_input_is_named(acme, words, says):
    with pytest.raises(CommandError, match=says):
        call_command(*words)


def test_a_second_tenant_of_the_same_name_is_refused(acme):
    with pytest.raises(CommandError, match="identifier"):
        call_command("create_tenant", "acme")
    assert Tenant.objects.count() == 1


def test_execute_accepts_a_plan_from_a_file(acme, plan_file, capsys):
    call_command("execute", str(plan_file), "--param", "n=3", "--param", "word=hi")
    run = Run.objects.get(pk=capsys.readouterr().out.strip())
    assert (run.parameters, run.status) == ({"n": 3, "word": "hi"}, "pending")


def test_execute_shows_every_error_of_a_plan_with_its_place(acme, tmp_path):
    path = tmp_path / "bad.json"
    path.write_text(
        json.dumps(documents.plan(documents.action("a", depends_on=["x"]), documents.action("b", timeout=0)))
    )
    with pytest.raises(CommandError, match=r"/steps/0/depends_on/0[\s\S]*/steps/1/timeout"):
        call_command("execute", str(path))


def test_execute_can_only_check(acme, plan_file, capsys):
    call_command("execute", str(plan_file), "--dry-run")
    assert json.loads(capsys.readouterr().out)["step_order"] == ["greet"]
    assert not Run.objects.exists()


def test_execute_asks_for_the_tenant_where_there_are_several(acme, globex, plan_file):
    with pytest.raises(CommandError, match="acme, globex"):
        call_command("execute", str(plan_file))


def test_old_runs_are_deleted_and_live_ones_stay(capsys):
    long_ago = timezone.now() - timedelta(days=100)
    RunFactory(status="completed", created_at=long_ago)
    kept = {RunFactory(status="completed").pk, RunFactory(status="running", created_at=long_ago).pk}
    call_command("cleanup_runs", older_than="90d", dry_run=True)
    call_command("cleanup_runs", older_than="90d")
    assert capsys.readouterr().out.split(".")[:2] == ["1 runs would be deleted", "\n1 runs deleted"]
    assert set(Run.objects.values_list("pk", flat=True)) == kept


def test_expired_idempotency_records_are_deleted(acme, capsys):
    for hours in (-1, 1):
        IdempotencyRecord.objects.create(
            tenant=acme, principal="a", route="r", key=str(hours), fingerprint="f",
            response_status=202, created_at=timezone.now(), expires_at=timezone.now() + timedelta(hours=hours),
        )  # fmt: skip
    call_command("cleanup_idempotency")
    assert "1 expired" in capsys.readouterr().out
    assert IdempotencyRecord.objects.get().key == "1"
