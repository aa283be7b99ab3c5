"""Looking into the audit log: over the API and in the admin, each only what is theirs. And that its table is complete."""

import ast
import re
from pathlib import Path
from urllib.parse import urlencode

import pytest
from django.contrib.auth.models import Permission

from executions import audit
from executions.actions import runs
from executions.actions.tenants import create_api_key
from executions.models import AuditEntry, AuditLink, Scope
from tests.conftest import Api
from tests.factories.models import RunFactory

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def auditor(acme):
    """A service of acme that may look into the log."""
    return Api(create_api_key(tenant=acme, principal="auditor", scopes=[Scope.ADMIN], by="test")[1])


@pytest.fixture
def run(acme, globex):
    """A run of acme that carol cancelled, and one of globex."""
    run = RunFactory(tenant=acme, portia_run_id=None)
    runs.cancel(run.pk, by="carol")
    runs.cancel(RunFactory(tenant=globex, portia_run_id=None).pk, by="mallory")
    audit.record(action="session.login", subject="user/root", by="root")
    return run


@pytest.mark.django_db(transaction=True)
class TestOverTheApi:
    def test_the_entries_of_the_tenant_come_newest_first_with_their_places(self, acme, auditor, run):
        page = auditor.get("/v1/audit?limit=2")["results"]
        assert [one["action"] for one in page] == ["execution.changed", "execution.cancel_requested"]
        link = AuditLink.objects.get(entry_id=page[0]["id"])
        assert (page[0]["sequence"], page[0]["hash"]) == (link.sequence, link.hash)
        assert page[0]["after"] == {"status": "cancelled", "reason": "cancel_requested"}

    def test_nothing_of_another_tenant_or_the_service_is_shown(self, auditor, run):
        actors = {one["actor"] for one in auditor.get("/v1/audit")["results"]}
        assert "carol" in actors
        assert not actors & {"mallory", "root"}

    @pytest.mark.parametrize(
        ("asked", "count"),
        [
            ({"actor": "carol"}, 2),
            ({"action": "execution.cancel_requested"}, 1),
            ({"actor": "carol", "action": "execution.changed"}, 1),
            ({"actor": "carol", "source": "command,job"}, 2),
            ({"actor": "carol", "source": "api"}, 0),
            ({"actor": "carol", "at_before": "2026-01-01T00:00:00Z"}, 0),
            ({"actor": "carol", "at_after": "2026-01-01T00:00:00Z"}, 2),
        ],
    )
    def test_filters_narrow_it_down(self, auditor, run, asked, count):
        assert len(auditor.get(f"/v1/audit?{urlencode(asked)}")["results"]) == count

    def test_all_that_was_done_to_a_run_is_found_by_its_subject(self, auditor, run):
        found = auditor.get(f"/v1/audit?subject=execution/{run.pk}&fields=action,sequence")["results"]
        assert [set(one) for one in found] == [{"action", "sequence"}] * 2

    def test_the_pages_lead_through_all_of_it(self, acme, auditor, run):
        seen, where = [], "/v1/audit?limit=1"
        while where:
            page = auditor.get(where)
            seen += [one["id"] for one in page["results"]]
            where = page["next"]
        assert len(seen) == len(set(seen)) == AuditEntry.objects.filter(tenant_id=acme.pk).count()

    def test_it_needs_the_scope_admin(self, api):
        assert "admin" in api.get("/v1/audit", expect=403)["detail"]

    @pytest.mark.parametrize("asked", ["action=Delete!", "source=mail", "at_after=yesterday", "colour=red", "actor="])
    def test_what_makes_no_sense_is_named(self, auditor, asked):
        assert auditor.get(f"/v1/audit?{asked}", expect=400)["detail"].startswith(asked.split("=")[0])

    def test_the_scope_admin_alone_reads_no_runs(self, auditor, run):
        auditor.get(f"/v1/executions/{run.pk}", expect=403)


@pytest.mark.django_db(transaction=True)
class TestInTheAdmin:
    LIST = "/admin/executions/auditentry/"

    def entry(self, **conditions):
        return AuditEntry.objects.filter(**conditions).order_by("-id")[0]

    def test_staff_see_the_log_of_their_tenants(self, client, bob, run):
        bob.user_permissions.add(Permission.objects.get(codename="view_auditentry"))
        client.force_login(bob)
        page = client.get(self.LIST).content.decode()
        assert "carol" in page
        assert "mallory" not in page
        assert "session.login" not in page
        shown = client.get(f"{self.LIST}{self.entry(actor='carol').pk}/change/")
        assert shown.status_code == 200
        assert "cancelled" in shown.content.decode()

    @pytest.mark.parametrize("actor", ["mallory", "root"])
    def test_what_is_not_theirs_is_not_there(self, client, bob, run, actor):
        bob.user_permissions.add(Permission.objects.get(codename="view_auditentry"))
        client.force_login(bob)
        assert client.get(f"{self.LIST}{self.entry(actor=actor).pk}/change/").status_code == 404

    def test_it_needs_the_permission(self, client, bob, run):
        client.force_login(bob)
        assert client.get(self.LIST).status_code == 403

    def test_superusers_see_all_of_it_and_change_nothing(self, client, admin_user, acme, run):
        client.force_login(admin_user)
        assert all(name in client.get(self.LIST).content.decode() for name in ("carol", "mallory", "session.login"))
        assert "mallory" not in client.get(f"{self.LIST}?tenant={acme.pk}").content.decode()
        assert "carol" in client.get(f"{self.LIST}?q=carol").content.decode()
        entry = self.entry(actor="carol")
        for way in ("change", "delete"):
            assert client.post(f"{self.LIST}{entry.pk}/{way}/", {"actor": "nobody", "post": "yes"}).status_code == 403
        assert client.post(f"{self.LIST}add/").status_code == 403
        assert self.entry(pk=entry.pk).actor == "carol"


# -- the table in docs/reference/audit.md


ACTION = re.compile(r"[a-z_]+\.[a-z_]+")
PLACES = ("executions", "approvals_bridge", "orchestrator_project")


def documented():
    text = (ROOT / "docs" / "reference" / "audit.md").read_text()
    return set(re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \| `", text, re.MULTILINE))


def sources():
    paths = [path for place in PLACES for path in (ROOT / place).rglob("*.py") if "migrations" not in path.parts]
    return [ast.parse(path.read_text()) for path in paths]


def texts(tree):
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def given_to_record(tree):
    """The constants, and the first words of the f-strings, that are the `action` of a call of audit.record."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "record":
            for keyword in node.keywords:
                if keyword.arg == "action":
                    yield from texts(keyword.value)


def test_every_action_in_the_code_is_in_the_table():
    known = documented()
    nouns = {action.split(".")[0] for action in known}
    for tree in sources():
        if given := set(given_to_record(tree)):
            said = given | {word for word in texts(tree) if ACTION.fullmatch(word) and word.split(".")[0] in nouns}
            unknown = {
                word for word in said - known if ACTION.fullmatch(word) or word.split(".")[0] not in {*nouns, ""}
            }
            assert unknown == set()


def test_every_action_in_the_table_is_in_the_code():
    words = set().union(*map(texts, sources()))
    for action in documented():
        noun, deed = action.split(".")
        in_parts = ({noun, f"{noun}."} & words) and deed in words
        assert action in words or in_parts, action
