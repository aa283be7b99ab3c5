"""API keys: made, rotated and revoked over HTTP, in the admin and by commands; what a key may give; what is written down."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.urls import reverse
from django.utils import timezone

from executions.actions.tenants import create_api_key, revoke_api_key, rotate_api_key
from executions.errors import Conflict, InvalidRequest
from executions.models import ApiKey, AuditEntry, IdempotencyRecord, Scope
from tests.conftest import Api, personal_api
from tests.factories.models import ApiKeyFactory, UserFactory, staff_of

DAY = 86_400
KEEPER = ("view_apikey", "add_apikey", "change_apikey")


def key_of(tenant, *scopes, days=None, user=None, principal="ops"):
    expires_at = None if days is None else timezone.now() + timedelta(days=days)
    return create_api_key(tenant=tenant, principal=principal, scopes=scopes, user=user, expires_at=expires_at)


@pytest.fixture
def ops(acme):
    """A service that keeps the keys of acme."""
    return Api(key_of(acme, Scope.READ, Scope.ADMIN)[1])


@pytest.fixture
def reader(acme):
    """A key that may be replaced by `ops`, and its secret."""
    return key_of(acme, Scope.READ, days=90, principal="report-agent")


# -- making


def test_a_new_key_is_shown_once_and_works_at_once(ops, acme):
    made = ops.post("/v1/api-keys", {"principal": "report-agent", "scopes": ["read"], "lifetime": DAY}, expect=201)
    assert Api(made["secret"]).get("/v1/executions")["results"] == []
    assert (made["created_by"], made["prefix"], made["user"]) == ("ops", made["secret"][:12], None)
    listed = json.dumps(ops.get("/v1/api-keys"))
    assert made["id"] in listed
    assert made["secret"] not in listed
    assert ApiKey.objects.get(pk=made["id"]).lifetime == timedelta(days=1)


def test_a_repeat_makes_no_second_key_and_its_secret_is_stored_nowhere(ops):
    order = {"principal": "report-agent", "scopes": ["read"]}
    first = ops.post("/v1/api-keys", order, expect=201, **{"idempotency-key": "k"})
    again = ops.post("/v1/api-keys", order, expect=201, **{"idempotency-key": "k"})
    assert again == first | {"secret": None}
    assert first["secret"].encode() not in bytes(IdempotencyRecord.objects.get().response_body)
    assert ApiKey.objects.filter(principal="report-agent").count() == 1


def test_no_cache_on_the_way_may_keep_a_secret(ops):
    response = ops.client.post("/v1/api-keys", {"principal": "a", "scopes": ["read"]}, "application/json")
    assert "no-store" in response["Cache-Control"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"scopes": ["read"]}, "/principal"),
        ({"principal": "a", "scopes": []}, "/scopes"),
        ({"principal": "a", "scopes": ["fly"]}, "/scopes/0"),
        ({"principal": "a", "scopes": ["read"], "lifetime": 59}, "/lifetime"),
        ({"principal": "a", "scopes": ["read"], "lifetime": "3600"}, "/lifetime"),
        ({"principal": "a", "scopes": ["read"], "tenant": "globex"}, "/tenant"),
        ({"principal": "a", "scopes": ["read"], "user": "bob"}, "/user"),
    ],
)
def test_a_wrong_wish_is_refused_with_its_place(ops, body, pointer):
    problem = ops.post("/v1/api-keys", body, expect=422)
    assert pointer in [error["pointer"] for error in problem["errors"]]


# -- what a key may give


@pytest.mark.parametrize("scope", [Scope.EXECUTE, Scope.CONTROL, Scope.DECIDE])
def test_a_key_gives_no_scope_that_it_has_not(ops, acme, scope):
    problem = ops.post("/v1/api-keys", {"principal": "a", "scopes": ["read", scope]}, expect=403)
    assert f"'{scope}'" in problem["detail"]
    assert not ApiKey.objects.filter(principal="a").exists()


def test_a_key_gets_no_scope_by_rotating_one_that_has_it(ops, acme):
    strong, _ = key_of(acme, Scope.EXECUTE)
    ops.post(f"/v1/api-keys/{strong.pk}/rotate", {}, expect=403)
    assert not strong.replaced_by.exists()


@pytest.mark.parametrize("lifetime", [10 * DAY + 1, 90 * DAY])
def test_a_key_makes_none_that_was_made_to_live_longer(acme, reader, lifetime):
    short = Api(key_of(acme, Scope.READ, Scope.ADMIN, days=10)[1])
    short.post("/v1/api-keys", {"principal": "a", "scopes": ["read"], "lifetime": lifetime}, expect=403)
    short.post(f"/v1/api-keys/{reader[0].pk}/rotate", {}, expect=403)


@pytest.mark.parametrize("lifetime", [None, 10 * DAY, 60])
def test_a_key_makes_some_that_live_as_long_or_shorter(acme, lifetime):
    short = Api(key_of(acme, Scope.READ, Scope.ADMIN, days=10)[1])
    made = short.post("/v1/api-keys", {"principal": "a", "scopes": ["read"], "lifetime": lifetime}, expect=201)
    assert ApiKey.objects.get(pk=made["id"]).lifetime == timedelta(seconds=lifetime or 10 * DAY)


def test_a_persons_key_makes_keys_of_that_person_only(acme, bob):
    mine = Api(key_of(acme, Scope.READ, Scope.DECIDE, Scope.ADMIN, user=bob, principal="bob")[1])
    made = mine.post("/v1/api-keys", {"principal": "bobs-phone", "scopes": ["decide"]}, expect=201)
    assert made["user"] == "bob"


def test_a_service_never_gets_a_key_that_decides_and_nobody_gets_anothers(acme, person, bob):
    bobs, _ = key_of(acme, Scope.READ, user=bob, principal="bob")
    carols = Api(key_of(acme, Scope.READ, Scope.ADMIN, user=person("carol"), principal="carol")[1])
    service = Api(key_of(acme, Scope.READ, Scope.ADMIN)[1])
    services, _ = key_of(acme, Scope.READ)
    for caller, key in ((carols, bobs), (service, bobs), (carols, services)):
        caller.post(f"/v1/api-keys/{key.pk}/rotate", {}, expect=403)
    service.post("/v1/api-keys", {"principal": "bob", "scopes": ["decide"]}, expect=403)


@pytest.mark.parametrize("name", ["carol", "Carol", "carol@example.com", "root"])
def test_no_key_acts_under_the_name_of_somebody_else(ops, acme, bob, keeper, person, name):
    person("carol", email="carol@example.com")
    UserFactory(username="root", is_superuser=True)
    order = {"principal": name, "scopes": ["read"]}
    assert "name of a person" in ops.post("/v1/api-keys", order, expect=400)["detail"]
    page = keeper.post(reverse("admin:executions_apikey_add"), order | {"tenant": acme.pk}).content.decode()
    assert "name of a person" in page
    with pytest.raises(InvalidRequest, match="principal"):
        key_of(acme, Scope.READ, user=bob, principal=name)
    assert not ApiKey.objects.filter(principal=name).exists()


def test_names_of_another_tenants_people_are_not_told(ops, globex):
    staff_of(globex, username="gina")
    ops.post("/v1/api-keys", {"principal": "gina", "scopes": ["read"]}, expect=201)


def test_keys_of_another_tenant_are_neither_listed_nor_touched(ops, globex):
    theirs, _ = key_of(globex, Scope.READ, principal="theirs")
    for verb in ("rotate", "revoke"):
        ops.post(f"/v1/api-keys/{theirs.pk}/{verb}", {}, expect=404)
    assert "theirs" not in json.dumps(ops.get("/v1/api-keys"))
    theirs.refresh_from_db()
    assert (theirs.revoked_at, theirs.expires_at) == (None, None)


def test_only_the_scope_admin_sees_keys(api):
    assert "admin" in api.get("/v1/api-keys", expect=403)["detail"]


# -- rotating


def test_both_keys_work_while_they_overlap_then_the_new_one_only(ops, reader):
    old, secret = reader
    made = ops.post(f"/v1/api-keys/{old.pk}/rotate", {"overlap": 3600}, expect=201)
    for text in (secret, made["secret"]):
        Api(text).get("/v1/executions")
    old.refresh_from_db()
    new = ApiKey.objects.get(pk=made["id"])
    assert abs(old.expires_at - timezone.now() - timedelta(hours=1)) < timedelta(minutes=1)
    assert (new.principal, new.scopes, new.user, new.replaces) == (old.principal, old.scopes, old.user, old)
    assert new.lifetime == timedelta(days=90)


def test_without_an_overlap_the_old_key_ends_at_once(ops, reader):
    old, secret = reader
    ops.post(f"/v1/api-keys/{old.pk}/rotate", {"overlap": 0}, expect=201)
    Api(secret).get("/v1/executions", expect=401)


def test_an_overlap_never_makes_a_key_live_longer(acme):
    old, _ = key_of(acme, Scope.READ, days=2)
    end = old.expires_at
    rotate_api_key(old, by="ops", overlap=timedelta(days=30))
    old.refresh_from_db()
    assert old.expires_at == end


def test_a_key_that_never_expires_gets_an_end_and_its_successor_none(acme):
    old, _ = key_of(acme, Scope.READ)
    new, _ = rotate_api_key(old, by="ops")
    old.refresh_from_db()
    assert new.expires_at is None
    assert old.expires_at - timezone.now() <= timedelta(days=1)


def test_a_key_has_one_successor_which_the_refusal_names(ops, reader):
    address = f"/v1/api-keys/{reader[0].pk}/rotate"
    made = ops.post(address, {}, expect=201)
    refused = ops.post(address, {}, expect=409)
    assert refused["replaced_by"] == made["id"]
    lost = ops.post(f"/v1/api-keys/{made['id']}/rotate", {"overlap": 0}, expect=201)
    Api(made["secret"]).get("/v1/executions", expect=401)
    Api(lost["secret"]).get("/v1/executions")


def test_the_repeat_of_a_rotation_has_the_same_key_without_its_secret(ops, reader):
    address = f"/v1/api-keys/{reader[0].pk}/rotate"
    first = ops.post(address, {}, expect=201, **{"idempotency-key": "r"})
    assert ops.post(address, {}, expect=201, **{"idempotency-key": "r"}) == first | {"secret": None}


@pytest.mark.django_db(transaction=True)
def test_of_two_rotations_at_once_one_is_refused(reader):
    key, _ = reader

    def rotate(_):
        try:
            rotate_api_key(key, by="ops")
        except Conflict:
            return "refused"
        finally:
            connection.close()
        return "done"

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(rotate, range(2))) == ["done", "refused"]


@pytest.mark.parametrize("change", ["revoked_at", "expires_at"])
def test_a_key_that_has_ended_is_not_rotated(acme, reader, change):
    key, _ = reader
    ApiKey.objects.filter(pk=key.pk).update(**{change: timezone.now()})
    with pytest.raises(Conflict, match="cannot be used any more"):
        rotate_api_key(key, by="ops")


@pytest.mark.parametrize("overlap", [timedelta(days=30, seconds=1), timedelta(seconds=-1)])
def test_an_overlap_beyond_its_bounds_is_refused(reader, overlap):
    with pytest.raises(InvalidRequest, match="overlap"):
        rotate_api_key(reader[0], by="ops", overlap=overlap)


# -- revoking


def test_a_revoked_key_is_refused_by_the_very_next_request(ops, reader):
    key, secret = reader
    client = Api(secret)
    client.get("/v1/executions")
    answer = ops.post(f"/v1/api-keys/{key.pk}/revoke", {"reason": "The laptop is gone."}, expect=200)
    client.get("/v1/executions", expect=401)
    assert answer["revoked_by"] == "ops"


def test_a_key_may_revoke_itself_and_a_second_time_changes_nothing(ops, acme):
    key = ApiKey.objects.get(principal="ops")
    ops.post(f"/v1/api-keys/{key.pk}/revoke", {}, expect=200)
    key.refresh_from_db()
    ops.get("/v1/api-keys", expect=401)
    revoke_api_key(key, by="somebody else")
    again = ApiKey.objects.get(pk=key.pk)
    assert (again.revoked_at, again.revoked_by) == (key.revoked_at, "ops")
    assert AuditEntry.objects.filter(action="api_key.revoked").count() == 1


# -- what is written down


def test_every_deed_is_in_the_audit_log_without_the_secret(ops, reader, acme):
    old, secret = reader
    made = ops.post(f"/v1/api-keys/{old.pk}/rotate", {"overlap": 60}, expect=201)
    ops.post(f"/v1/api-keys/{made['id']}/revoke", {"reason": "A trial."}, expect=200)
    old.refresh_from_db()
    rotated, revoked = (AuditEntry.objects.get(action=f"api_key.{deed}") for deed in ("rotated", "revoked"))
    created = AuditEntry.objects.get(subject=f"api_key/{made['id']}", action="api_key.created")
    assert [one.actor for one in (created, rotated, revoked)] == ["ops"] * 3
    assert (rotated.subject, rotated.after["replaced_by"]) == (f"api_key/{old.pk}", made["id"])
    assert rotated.before["expires_at"] > rotated.after["expires_at"]
    assert created.after == {
        "principal": "report-agent", "user": None, "scopes": ["read"], "prefix": made["prefix"], "replaces": str(old.pk),
        "expires_at": ApiKey.objects.get(pk=made["id"]).expires_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    }  # fmt: skip
    assert (revoked.subject, revoked.reason) == (f"api_key/{made['id']}", "A trial.")
    everything = str(list(AuditEntry.objects.values()))
    for text in (secret, made["secret"], *ApiKey.objects.values_list("digest", flat=True)):
        assert text not in everything


def test_a_deed_that_is_taken_back_is_not_in_the_audit_log(acme):
    with suppress(ZeroDivisionError), transaction.atomic():
        key_of(acme, Scope.READ)
        raise ZeroDivisionError
    assert not AuditEntry.objects.filter(action="api_key.created").exists()


# -- in the admin


@pytest.fixture
def keeper(acme, client):
    """A person who keeps acme's keys, at a browser."""
    person = staff_of(acme, username="kim", permissions=KEEPER)
    client.force_login(person)
    client.person = person
    return client


def page_of(key):
    return reverse("admin:executions_apikey_change", args=[key.pk])


def test_a_key_is_rotated_by_a_button_and_the_new_one_shown_once(keeper, reader):
    old, _ = reader
    page = keeper.post(page_of(old), {"command": "rotate", "overlap": "60"})
    secret = re.search(r"orc_[\w-]{43}", page.content.decode())[0]
    new = ApiKey.objects.get(digest=ApiKey.digest_of(secret))
    assert (new.replaces, new.created_by) == (old, "kim")
    assert "no-store" in page["Cache-Control"]
    assert secret not in keeper.get(page_of(new)).content.decode()
    later = keeper.get(page_of(old)).content.decode()
    assert page_of(new) in later
    assert 'value="rotate"' not in later


def test_a_second_rotation_is_refused_in_words(keeper, reader):
    keeper.post(page_of(reader[0]), {"command": "rotate"})
    again = keeper.post(page_of(reader[0]), {"command": "rotate"}, follow=True).content.decode()
    assert "has been replaced by" in again


def test_looking_at_a_key_rotates_nothing(keeper, reader):
    keeper.get(page_of(reader[0]) + "?command=rotate")
    assert ApiKey.objects.count() == 1


def test_nobody_gets_anothers_key_or_one_with_admin_by_rotating_it(keeper, acme, bob, client):
    own, _ = key_of(acme, Scope.READ, user=keeper.person)
    bobs, strong = key_of(acme, Scope.READ, user=bob)[0], key_of(acme, Scope.ADMIN)[0]
    for key in (bobs, strong):
        assert 'value="rotate"' not in keeper.get(page_of(key)).content.decode()
        assert keeper.post(page_of(key), {"command": "rotate"}).status_code == 403
    assert keeper.post(page_of(own), {"command": "rotate"}).status_code == 200
    client.force_login(UserFactory(username="root", is_staff=True, is_superuser=True))
    for key in (bobs, strong):
        assert client.post(page_of(key), {"command": "rotate"}).status_code == 200


def test_rotating_needs_the_permission_to_make_keys_and_an_overlap_that_is_offered(keeper, reader, acme, client):
    assert keeper.post(page_of(reader[0]), {"command": "rotate", "overlap": "999999"}).status_code == 403
    client.force_login(staff_of(acme, username="eve", permissions=("view_apikey", "change_apikey")))
    assert client.post(page_of(reader[0]), {"command": "rotate"}).status_code == 403
    assert not reader[0].replaced_by.exists()


def test_keys_of_other_tenants_are_404_to_staff_whatever_they_press(keeper, globex):
    theirs = ApiKeyFactory(tenant=globex)
    for command in ("rotate", "revoke"):
        assert keeper.post(page_of(theirs), {"command": command}).status_code == 404


def test_only_a_superuser_gives_the_scope_admin(keeper, acme, client):
    form = {"tenant": acme.pk, "principal": "ops", "scopes": ["admin"]}
    address = reverse("admin:executions_apikey_add")
    assert "Select a valid choice" in keeper.post(address, form).content.decode()
    client.force_login(UserFactory(username="root", is_staff=True, is_superuser=True))
    assert "The key is made" in client.post(address, form).content.decode()


def test_the_list_says_which_keys_are_refused_although_they_are_neither_revoked_nor_expired(keeper, acme, person):
    dora = person("dora")
    key_of(acme, Scope.READ, user=dora, principal="doras-laptop")
    key_of(acme, Scope.READ, principal="in-use")
    acme.members.remove(dora)
    listed = reverse("admin:executions_apikey_changelist")
    assert "Refused" in keeper.get(listed).content.decode()
    found = {
        choice: [one.principal for one in keeper.get(f"{listed}?usable={choice}").context["cl"].result_list]
        for choice in ("yes", "no")
    }
    assert found == {"yes": ["in-use"], "no": ["doras-laptop"]}


# -- tenants


def test_members_change_nothing_that_holds_for_them(acme, client, bob):
    client.force_login(staff_of(acme, username="olga", permissions=("view_tenant", "change_tenant")))
    everything = {"name": "Acme Ltd", "allowed_tools": "wire_money", "rate_limit": "9", "concurrency_limit": "9"}
    stranger = UserFactory(username="stranger", is_staff=True)
    before = acme.members.count()
    client.post(
        reverse("admin:executions_tenant_change", args=[acme.pk]), everything | {"members": [stranger.pk]}, follow=True
    )
    acme.refresh_from_db()
    assert (acme.name, acme.is_active, acme.allowed_tools) == ("Acme Ltd", True, None)
    assert (acme.rate_limit, acme.concurrency_limit, acme.members.count()) == (None, None, before)


# -- by commands


def test_commands_rotate_and_revoke_a_key_named_by_how_it_begins(acme, reader, capsys):
    old, _ = reader
    call_command("rotate_api_key", old.prefix, "--overlap-hours", "2")
    new = ApiKey.objects.get(digest=ApiKey.digest_of(capsys.readouterr().out.strip()))
    assert (new.replaces, new.created_by) == (old, "command line")
    call_command("revoke_api_key", str(new.pk), "--reason", "A trial.", "--by", "olga")
    new.refresh_from_db()
    assert (new.revoked_by, "is revoked" in capsys.readouterr().out) == ("olga", True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("revoke_api_key", "orc_nothing0"), "no such key"),
        (("rotate_api_key", "orc_nothing0"), "no such key"),
        (("create_api_key", "acme", "agent", "--days", "999999999"), "--days"),
        (("revoke_api_key", "orc_nothing0", "--by", ""), "--by"),
    ],
)
def test_commands_name_bad_input(acme, words, says):
    with pytest.raises(CommandError, match=says):
        call_command(*words)


def test_a_command_rotates_no_more_than_a_month_of_overlap(reader):
    with pytest.raises(CommandError, match="overlap"):
        call_command("rotate_api_key", reader[0].prefix, "--overlap-hours", "721")


def test_a_person_who_left_is_refused_with_every_key(acme, bob):
    mine = personal_api(bob, acme)
    mine.get("/v1/approvals")
    acme.members.remove(bob)
    mine.get("/v1/approvals", expect=401)


@pytest.mark.parametrize("name", ["orchestrator", "Portia", " command line ", "anonymous"])
def test_no_key_acts_under_a_name_of_the_service(ops, name):
    order = {"principal": name, "scopes": ["read"]}
    assert "service itself" in ops.post("/v1/api-keys", order, expect=400)["detail"]
