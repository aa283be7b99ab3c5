"""Capability tokens over the API: issue, verify, attenuate, revoke, and the public keys."""

from __future__ import annotations

import json
import logging

import pytest
from django.core.management import call_command

from executions.actions.tenants import create_api_key
from executions.models import AuditEntry, IdempotencyRecord, RevokedToken, Scope
from tests.conftest import Api
from tests.factories import documents

pytestmark = pytest.mark.django_db(transaction=True)

ECHO = documents.plan(documents.action("greet", parameters={"text": "hello"}))
WANTED = {"subject": "alice", "capabilities": ["mail:*", "payments:refund"], "tools": ["echo", "wait"]}
SMALL = {"properties": {"text": {"type": "string", "maxLength": 5}}}


@pytest.fixture(autouse=True)
def signing_key(settings, tmp_path):
    """A key to sign with, as the command makes it."""
    settings.CAPTOKENS_JWKS_FILE = tmp_path / "jwks.json"
    settings.CAPTOKENS_SIGNING_KEY_FILE = tmp_path / "private.jwk"
    call_command("create_signing_key", private=settings.CAPTOKENS_SIGNING_KEY_FILE, jwks=settings.CAPTOKENS_JWKS_FILE)
    return settings.CAPTOKENS_SIGNING_KEY_FILE


@pytest.fixture
def admin(acme):
    """Whoever may issue and revoke tokens of acme."""
    return Api(create_api_key(tenant=acme, principal="ops", scopes=[Scope.ADMIN])[1])


def issued(admin, **changes):
    return admin.post("/v1/captokens", WANTED | changes, expect=201)


def verified(api, token, *required):
    return api.post("/v1/captokens/verify", {"token": token, "required_capabilities": list(required)}, expect=200)


def attenuated(api, token, *, expect=201, **wanted):
    return api.post("/v1/captokens/attenuate", {"token": token, **wanted}, expect=expect)


def submit(api, token, *, expect, document=ECHO):
    body = {"executable_plan": document, "deduplicate": False}
    return api.post("/v1/execute", body, expect=expect, **{"x-capability-token": token})


def revoke(admin, token_id, *, expect=200, **headers):
    return admin.post(f"/v1/captokens/{token_id}/revoke", {"reason": "The laptop is gone."}, expect=expect, **headers)


# -- issue and verify


def test_an_issued_token_lets_a_run_in(api, admin):
    made = issued(admin, limits={"echo": SMALL})
    capability = submit(api, made["token"], expect=202)["capability"]
    assert {name: capability[name] for name in ("token_id", "subject", "capabilities", "tools", "limits")} == {
        name: made[name] for name in ("token_id", "subject", "capabilities", "tools", "limits")
    }


def test_verifying_says_what_a_token_allows(api, admin):
    made = issued(admin, lifetime=200)
    seen = verified(api, made["token"], "mail:send")
    assert (seen["valid"], seen["token_id"], seen["capabilities"]) == (True, made["token_id"], WANTED["capabilities"])
    assert (seen["expires_at"], seen["error"], seen["warnings"]) == (
        made["expires_at"],
        None,
        [],
    )


def test_verifying_names_what_a_token_does_not_allow(api, admin):
    seen = verified(api, issued(admin)["token"], "mail:send", "db:drop")
    assert (seen["valid"], seen["reason"], seen["capabilities"]) == (False, "missing_capability", [])
    assert "db:drop" in seen["error"]


def test_another_tenants_token_is_no_good_here(mallory, admin):
    assert verified(mallory, issued(admin)["token"])["reason"] == "wrong_tenant"


def test_an_issued_token_is_in_no_log_no_entry_and_no_stored_answer(api, admin, caplog):
    sent = {"content_type": "application/json", "headers": {"idempotency-key": "k1"}}
    with caplog.at_level(logging.DEBUG):
        first, again = (admin.client.post("/v1/captokens", WANTED, **sent) for _ in range(2))
        narrow = attenuated(api, first.json()["token"], tools=["echo"])
    assert first.json()["token"] != again.json()["token"]
    assert first["Cache-Control"] == "no-store"
    assert not IdempotencyRecord.objects.exists()
    kept = caplog.text + "".join(str(row) for row in AuditEntry.objects.values())
    for token in (first.json()["token"], again.json()["token"], narrow["token"]):
        assert token.split(".")[2] not in kept


def test_who_issued_what_is_in_the_audit_log(admin):
    made = issued(admin)
    entry = AuditEntry.objects.get(action="capability_token.issued")
    assert (entry.actor, entry.subject, entry.source) == ("ops", f"capability-token/{made['token_id']}", "api")
    assert (entry.after["subject"], entry.after["tools"]) == ("alice", ["echo", "wait"])


def test_only_an_administrators_key_issues_and_revokes(api):
    assert api.post("/v1/captokens", WANTED, expect=403)["code"] == "permission-denied"
    assert revoke(api, "abc", expect=403)["code"] == "permission-denied"


def test_without_a_key_of_ours_none_is_issued(api, admin, signing_key):
    token = issued(admin)["token"]
    signing_key.unlink()
    problem = admin.post("/v1/captokens", WANTED, expect=409)
    assert (problem["code"], "create_signing_key" in problem["detail"]) == ("no-signing-key", True)
    assert attenuated(api, token, expect=409)["code"] == "no-signing-key"


def test_with_a_captokens_service_tokens_come_from_there(admin, settings):
    settings.CAPTOKENS_BASE_URL = "http://127.0.0.1:9"
    assert "CapTokens service" in admin.post("/v1/captokens", WANTED, expect=409)["detail"]


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"subject": ""}, "/subject"),
        ({"subject": " alice"}, "/subject"),
        ({"capabilities": []}, "/capabilities"),
        ({"capabilities": ["a b"]}, "/capabilities/0"),
        ({"capabilities": ["a"] * 101}, "/capabilities"),
        ({"tools": ["ü"]}, "/tools/0"),
        ({"tools": [0]}, "/tools/0"),
        ({"subject": 7}, "/subject"),
        ({"lifetime": 301}, "/lifetime"),
        ({"lifetime": 0}, "/lifetime"),
        ({"limits": {"echo": {"maximun": 3}}}, "/limits/echo"),
        ({"limits": []}, "/limits"),
        ({"scope": "all"}, "/scope"),
    ],
)
def test_a_wish_that_makes_no_sense_is_named(admin, changes, pointer):
    (error,) = admin.post("/v1/captokens", WANTED | changes, expect=422)["errors"]
    assert error["pointer"] == pointer


def test_a_token_nobody_could_send_is_not_issued(admin):
    words = [f"{number:03}{'x' * 190}" for number in range(100)]
    assert "8192" in admin.post("/v1/captokens", WANTED | {"capabilities": words}, expect=400)["detail"]


# -- attenuate


def test_a_narrower_token_has_what_was_asked_for_and_no_more(api, admin):
    made = issued(admin)
    narrow = attenuated(
        api, made["token"], capabilities=["mail:send"], tools=["echo"], limits={"echo": SMALL}, lifetime=60
    )
    assert (narrow["capabilities"], narrow["tools"], narrow["subject"]) == (["mail:send"], ["echo"], "alice")
    assert (narrow["parents"], narrow["expires_at"] < made["expires_at"]) == ([made["token_id"]], True)
    assert narrow["token_id"] != made["token_id"]
    seen = verified(api, narrow["token"], "mail:send")
    assert (seen["valid"], seen["parents"], seen["limits"]) == (True, [made["token_id"]], {"echo": SMALL})
    assert verified(api, narrow["token"], "mail:read")["reason"] == "missing_capability"


def test_what_is_not_said_stays_as_it_is(api, admin):
    made = issued(admin, limits={"echo": SMALL})
    narrow = attenuated(api, made["token"])
    for name in ("subject", "capabilities", "tools", "limits"):
        assert narrow[name] == made[name]
    assert narrow["expires_at"] <= made["expires_at"]


@pytest.mark.parametrize("wanted", [["payments:*"], ["mail:*", "db:drop"], ["*"], ["mail"]])
def test_a_capability_the_token_does_not_have_is_refused(api, admin, wanted):
    problem = attenuated(api, issued(admin)["token"], expect=403, capabilities=wanted)
    assert (problem["reason"], problem["missing_capabilities"]) == ("missing_capability", wanted[-1:])


def test_a_wildcard_may_be_narrowed_to_a_smaller_one(api, admin):
    narrow = attenuated(api, issued(admin)["token"], capabilities=["mail:draft:*"])
    assert verified(api, narrow["token"], "mail:draft:delete")["valid"]
    assert not verified(api, narrow["token"], "mail:send")["valid"]


def test_a_tool_the_token_does_not_allow_is_refused(api, admin):
    problem = attenuated(api, issued(admin)["token"], expect=403, tools=["echo", "http_request"])
    assert problem["missing_tools"] == ["http_request"]


def test_a_token_without_a_list_may_get_any(api, admin):
    assert attenuated(api, issued(admin, tools=None)["token"], tools=["http_request"])["tools"] == ["http_request"]


def test_a_list_never_goes_away(api, admin):
    token = issued(admin)["token"]
    assert attenuated(api, token, expect=422, tools=None)["errors"][0]["pointer"] == "/tools"
    assert attenuated(api, token, tools=[])["tools"] == []


def test_limits_only_ever_come_on_top(api, admin):
    token = issued(admin, limits={"echo": SMALL})["token"]
    wide = attenuated(api, token, limits={"echo": {"properties": {"text": {"type": "string", "maxLength": 500}}}})
    long = documents.plan(documents.action("greet", parameters={"text": "hello, everybody"}))
    assert submit(api, wide["token"], expect=403, document=long)["reason"] == "argument_limits"
    submit(api, wide["token"], expect=202)


def test_a_longer_life_than_is_left_is_not_given(api, admin):
    made = issued(admin, lifetime=30)
    assert attenuated(api, made["token"], lifetime=300)["expires_at"] <= made["expires_at"]


def test_a_chain_has_an_end(api, admin):
    token = issued(admin)["token"]
    for _ in range(8):
        token = attenuated(api, token)["token"]
    assert "8 times" in attenuated(api, token, expect=400)["detail"]


def test_a_narrower_token_is_written_down_with_whom_it_comes_from(api, admin):
    made = issued(admin)
    narrow = attenuated(api, made["token"])
    entry = AuditEntry.objects.get(action="capability_token.attenuated")
    assert (entry.actor, entry.subject) == ("agent", f"capability-token/{narrow['token_id']}")
    assert entry.after["parents"] == [made["token_id"]]


# -- revoke


def test_a_revoked_token_is_refused_everywhere_with_those_made_from_it(api, admin):
    made = issued(admin)
    child = attenuated(api, made["token"])
    grandchild = attenuated(api, child["token"])
    revoke(admin, made["token_id"])
    for one in (made, child, grandchild):
        assert verified(api, one["token"])["reason"] == "revoked"
        assert submit(api, one["token"], expect=403)["reason"] == "revoked"
        assert attenuated(api, one["token"], expect=403)["reason"] == "revoked"


def test_a_child_is_revoked_without_its_parent(api, admin):
    made = issued(admin)
    child = attenuated(api, made["token"])
    revoke(admin, child["token_id"])
    assert verified(api, made["token"])["valid"]
    assert not verified(api, child["token"])["valid"]


def test_a_second_revocation_changes_nothing(admin):
    first = revoke(admin, "some-token")
    again = admin.post("/v1/captokens/some-token/revoke", {"reason": "Another reason."}, expect=200)
    assert again == first
    assert (first["reason"], first["revoked_by"]) == ("The laptop is gone.", "ops")
    (entry,) = AuditEntry.objects.filter(action="capability_token.revoked")
    assert (entry.subject, entry.reason) == ("capability-token/some-token", "The laptop is gone.")


def test_a_tokens_id_may_have_any_printable_character(admin):
    assert revoke(admin, "a%2Fb%20c")["token_id"] == "a/b c"
    assert revoke(admin, "a%0Ab", expect=404)["code"] == "not-found"
    assert revoke(admin, "x" * 201, expect=404)["code"] == "not-found"


def test_a_reason_is_needed(admin):
    problem = admin.post("/v1/captokens/abc/revoke", {}, expect=422)
    assert problem["errors"][0]["pointer"] == "/reason"


def test_the_command_revokes_too(acme, api, admin, capsys):
    made = issued(admin)
    call_command("revoke_captoken", made["token_id"], tenant="acme", reason="Left the company.", by="root")
    assert made["token_id"] in capsys.readouterr().out
    assert verified(api, made["token"])["reason"] == "revoked"
    assert RevokedToken.objects.get().revoked_by == "root"


# -- the public keys


def test_anybody_may_fetch_the_public_keys_and_keep_them_a_while(client, signing_key):
    response = client.get("/.well-known/jwks.json")
    (key,) = response.json()["keys"]
    assert (key["kty"], key["crv"], key["use"]) == ("OKP", "Ed25519", "sig")
    assert response["Cache-Control"] == "public, max-age=300"
    assert json.loads(signing_key.read_text())["d"] not in response.content.decode()


def test_a_private_key_put_into_the_set_by_mistake_is_not_shown(client, settings, signing_key):
    settings.CAPTOKENS_JWKS_FILE.write_text(json.dumps({"keys": [json.loads(signing_key.read_text())]}))
    (key,) = client.get("/.well-known/jwks.json").json()["keys"]
    assert "d" not in key


def test_without_a_key_set_the_list_is_empty(client, settings):
    settings.CAPTOKENS_JWKS_FILE.unlink()
    assert client.get("/.well-known/jwks.json").json() == {"keys": []}


def test_a_key_set_that_cannot_be_read_is_unavailable(client, settings):
    settings.CAPTOKENS_JWKS_FILE.write_text("{")
    response = client.get("/.well-known/jwks.json")
    assert (response.status_code, response["Retry-After"]) == (503, "5")


def test_a_rotated_key_signs_and_the_old_one_counts_until_its_tokens_have_ended(api, admin, client, settings):
    old = issued(admin)["token"]
    files = {"private": settings.CAPTOKENS_SIGNING_KEY_FILE, "jwks": settings.CAPTOKENS_JWKS_FILE}
    call_command("rotate_signing_key", **files)
    for token in (old, issued(admin)["token"]):
        assert verified(api, token)["valid"]
    assert len(client.get("/.well-known/jwks.json").json()["keys"]) == 2
    call_command("rotate_signing_key", **files, at_once=True)
    assert verified(api, old)["valid"]
    entries = json.loads(files["jwks"].read_text())["keys"]
    entries[0]["exp"] = 1
    files["jwks"].write_text(json.dumps({"keys": entries}))
    assert verified(api, old)["reason"] == "unknown_key"
    call_command("rotate_signing_key", **files)
    assert len(json.loads(files["jwks"].read_text())["keys"]) == 2


def test_a_key_withdrawn_at_once_takes_its_tokens_along(api, admin, settings):
    old = issued(admin)["token"]
    files = {"private": settings.CAPTOKENS_SIGNING_KEY_FILE, "jwks": settings.CAPTOKENS_JWKS_FILE}
    call_command("rotate_signing_key", **files, at_once=True)
    assert verified(api, old)["reason"] == "unknown_key"
    assert verified(api, issued(admin)["token"])["valid"]


def test_a_token_with_more_limits_than_one_may_have_is_refused(api, admin):
    full = issued(admin, limits={f"tool-{number}": SMALL for number in range(50)})["token"]
    refused = attenuated(api, full, expect=400, limits={"one-more": SMALL})
    assert "50 tools" in refused["detail"]
