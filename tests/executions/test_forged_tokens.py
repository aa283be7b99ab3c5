"""Forged and bad tokens over the API: each is refused with its reason, in production and in development, and leaves no trace."""

from __future__ import annotations

import base64
import json
import logging
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from joserfc import jws, jwt
from joserfc.jwk import OctKey, OKPKey

from executions.actions import captokens
from executions.capabilities import claims_of
from executions.models import AuditEntry, Event, IdempotencyRecord, Plan, Run
from tests.executions.conftest import KEY
from tests.factories import documents

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning"),
]

ECHO = documents.plan(
    documents.action("greet", parameters={"text": "hello"}),
    security_context={"allowed_tools": ["echo"], "required_capabilities": ["mail:send"]},
)
STRANGER = OKPKey.generate_key("Ed25519")
ISSUER = "https://captokens.test"


def facts(**changes):
    now = timezone.now()
    return {"issuer": ISSUER, "tenant": "acme", "subject": "carol", "capabilities": ["mail:send"], "now": now} | changes


def claims(**changes):
    return {name: value for name, value in (claims_of(**facts()) | changes).items() if value is not ...}


def packed(content) -> str:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def raw(header=None, payload=None, *, key=KEY) -> str:
    """Sign whatever bytes these are."""
    known = {"alg": "Ed25519", "kid": KEY.thumbprint()}
    text = f"{packed(known if header is None else header)}.{packed(claims() if payload is None else payload)}"
    return f"{text}.{packed(key.get_op_key('sign').sign(text.encode()))}"


def named(**header):
    return {"alg": "Ed25519", "kid": KEY.thumbprint()} | header


def unsigned() -> str:
    return f"{packed(named(alg='none'))}.{packed(claims())}."


def hmac_with_the_public_key() -> str:
    x = KEY.as_dict(private=False)["x"]
    public = base64.urlsafe_b64decode(x + "=" * (-len(x) % 4))
    registry = jws.JWSRegistry(algorithms=["HS256"])
    return jwt.encode(named(alg="HS256"), claims(), OctKey.import_key(public), registry=registry)


def doubled_claim() -> str:
    text = json.dumps(claims())
    return raw(payload=(text[:-1] + ', "cap": ["db:drop"]}').encode())


def doubled_nested_name() -> str:
    text = json.dumps(claims(limits={}))
    return raw(
        payload=text.replace('"limits": {}', '"limits": {"echo": {"type": "object", "type": "object"}}').encode()
    )


def doubled_header() -> str:
    return raw(header=(json.dumps(named())[:-1] + f', "kid": "{STRANGER.thumbprint()}"}}').encode())


def cut() -> str:
    return raw()[:-7]


def another_claim_under_the_same_signature() -> str:
    header, _, signature = raw().split(".")
    return f"{header}.{packed(claims(cap=['mail:*']))}.{signature}"


def seconds(count: int) -> int:
    return int(timezone.now().timestamp()) + count


FORGED = {
    "alg none": (unsigned, "wrong_algorithm"),
    "HS256 with the public key": (hmac_with_the_public_key, "wrong_algorithm"),
    "HS256 named, signed by a stranger": (lambda: raw(named(alg="HS256"), key=STRANGER), "wrong_algorithm"),
    "wrong kid": (lambda: raw(named(kid="nobody")), "unknown_key"),
    "no kid": (lambda: raw({"alg": "Ed25519"}), "unknown_key"),
    "kid that is no text": (lambda: raw(named(kid=["x"])), "unknown_key"),
    "another key under a known kid": (lambda: raw(key=STRANGER), "bad_signature"),
    "changed claims": (another_claim_under_the_same_signature, "bad_signature"),
    "truncated": (cut, "bad_signature"),
    "no signature": (lambda: raw().rsplit(".", 1)[0] + ".", "bad_signature"),
    "two parts": (lambda: raw().rsplit(".", 1)[0], "malformed"),
    "its own key (jwk)": (
        lambda: raw({"alg": "Ed25519", "jwk": STRANGER.as_dict(private=False)}, key=STRANGER), "unknown_key",
    ),
    "its own key beside a known kid": (
        lambda: raw(named(jwk=STRANGER.as_dict(private=False)), key=STRANGER), "bad_signature",
    ),
    "a key of its own address (jku)": (lambda: raw(named(kid="evil", jku="https://evil.test/jwks.json")), "unknown_key"),
    "crit": (lambda: raw(named(crit=["exp"])), "malformed"),
    "unencoded payload (b64)": (lambda: raw(named(crit=["b64"], b64=False)), "malformed"),
    "a claim twice": (doubled_claim, "malformed"),
    "a name twice inside a claim": (doubled_nested_name, "malformed"),
    "a header twice": (doubled_header, "malformed"),
    "claims that are a list": (lambda: raw(payload=[1]), "malformed"),
    "claims that are no UTF-8": (lambda: raw(payload=b'{"iss": "\xff"}'), "malformed"),
    "other issuer": (lambda: raw(payload=claims(iss="https://evil.test")), "wrong_issuer"),
    "other tenant": (lambda: raw(payload=claims(aud="tenant:globex", tid="globex")), "wrong_tenant"),
    "tenant of another audience": (lambda: raw(payload=claims(aud="tenant:globex")), "wrong_tenant"),
    "expired": (lambda: raw(payload=claims(iat=seconds(-400), exp=seconds(-100))), "expired"),
    "not yet valid": (lambda: raw(payload=claims(nbf=seconds(60))), "not_yet_valid"),
    "issued tomorrow": (lambda: raw(payload=claims(iat=seconds(86_400), exp=seconds(86_500))), "not_yet_valid"),
    "exp too far": (lambda: raw(payload=claims(exp=seconds(3600))), "lifetime_too_long"),
    "no end": (lambda: raw(payload=claims(exp=...)), "invalid_claim"),
    "a limit that limits nothing": (lambda: raw(payload=claims(limits={"echo": {"maximun": 1}})), "invalid_claim"),
    "limits that are a list": (lambda: raw(payload=claims(limits=[])), "invalid_claim"),
    "endless parents": (lambda: raw(payload=claims(parents=["p"] * 9)), "invalid_claim"),
    "too little": (lambda: raw(payload=claims(cap=["mail:read"])), "missing_capability"),
}  # fmt: skip


@pytest.fixture(params=["development", "production"])
def mode(request, settings, captoken):
    """Either mode, with the issuer's public key in the key set."""
    settings.IS_PRODUCTION, settings.CAPTOKENS_ISSUER = request.param == "production", ISSUER
    return request.param


def submit(api, token, *, expect, **fields):
    body = {"executable_plan": ECHO, "deduplicate": False, **fields}
    return api.post("/v1/execute", body, expect=expect, **{"x-capability-token": token})


def written() -> str:
    """Everything that was kept, as one text."""
    models = (Run, Plan, Event, AuditEntry, IdempotencyRecord)
    return "\n".join(str(row) for model in models for row in model.objects.values())


def test_a_good_token_is_taken(api, mode):
    assert submit(api, raw(), expect=202)["capability"]["subject"] == "carol"


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_token_is_refused_with_its_reason_and_leaves_no_trace_of_itself(api, mode, kind, caplog):
    make, reason = FORGED[kind]
    token = make()
    with caplog.at_level(logging.DEBUG):
        problems = [
            submit(api, token, expect=403),
            submit(api, token, expect=403, dry_run=True),
            api.post("/v1/execute", {"executable_plan": ECHO, "capability_token": token}, expect=403),
            api.post("/v1/captokens/attenuate", {"token": token, "capabilities": ["mail:send"]}, expect=403),
        ]
        seen = api.post("/v1/captokens/verify", {"token": token, "required_capabilities": ["mail:send"]}, expect=200)
    assert {(problem["code"], problem["reason"]) for problem in problems} == {("capability-denied", reason)}
    assert (seen["valid"], seen["reason"]) == (False, reason)
    assert not Run.objects.exists()
    assert AuditEntry.objects.filter(action="capability.denied", after__reason=reason).count() == 5
    secret = token.split(".")[1][:200]
    assert all(secret not in place for place in (caplog.text, written(), json.dumps([*problems, seen])))


def test_a_revoked_token_is_no_good_a_second_time(api, acme, mode):
    token = raw()
    run = submit(api, token, expect=202)
    captokens.revoke(tenant=acme, token_id=run["capability"]["token_id"], by="admin", reason="The laptop is gone.")
    assert submit(api, token, expect=403)["reason"] == "revoked"


def test_a_token_revoked_for_another_tenant_is_still_good(api, globex, mode):
    payload = claims()
    captokens.revoke(tenant=globex, token_id=payload["jti"], by="mallory", reason="Not mine to revoke.")
    submit(api, raw(payload=payload), expect=202)


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_token_of_a_megabyte_is_refused_before_it_is_read(api, mode, dry_run):
    token = raw(payload=claims(note="x" * 1_000_000))
    assert submit(api, token, expect=400, dry_run=dry_run)["code"] == "invalid-request"
    problem = api.post("/v1/execute", {"executable_plan": ECHO, "capability_token": token}, expect=422)
    assert problem["errors"][0]["pointer"] == "/capability_token"
    for path in ("verify", "attenuate"):
        assert api.post(f"/v1/captokens/{path}", {"token": token}, expect=422)["errors"][0]["pointer"] == "/token"


def test_the_text_of_a_good_token_is_kept_nowhere(api, mode, caplog):
    token = raw()
    with caplog.at_level(logging.DEBUG):
        shown = [
            submit(api, token, expect=202),
            submit(api, token, expect=200, dry_run=True),
            api.post("/v1/execute", {"executable_plan": ECHO, "capability_token": token}, expect=202),
            api.post("/v1/captokens/verify", {"token": token}, expect=200),
        ]
    assert all(one.get("capability", one)["valid"] for one in shown)
    for secret in (token, *token.split(".")[1:]):
        assert all(secret not in place for place in (caplog.text, written(), json.dumps(shown)))


def test_a_missing_token_is_allowed_in_development_only_and_marked(api, mode):
    body = {"executable_plan": ECHO}
    if mode == "production":
        assert "capability token" in api.post("/v1/execute", body, expect=403)["detail"]
        assert AuditEntry.objects.filter(action="capability.denied").count() == 1
    else:
        assert api.post("/v1/execute", body, expect=202)["capability"]["mode"] == "development_without_token"


def test_a_denial_names_the_missing_tool_and_is_kept(api, mode):
    token = raw(payload=claims(tools=["wait"]))
    assert submit(api, token, expect=403)["missing_tools"] == ["echo"]
    (entry,) = AuditEntry.objects.filter(action="capability.denied")
    assert (entry.actor, entry.source, entry.after) == ("agent", "api", {"missing_tools": ["echo"]})


def test_a_denial_of_thousands_of_tools_is_kept_short(api, mode):
    steps = [documents.action(f"s{number}", tool=f"{number:0180}") for number in range(2000)]
    problem = submit(api, raw(payload=claims(tools=["wait"])), expect=403, executable_plan=documents.plan(*steps))
    assert len(problem["missing_tools"]) == 100
    assert len(problem["detail"]) < 5_000
    (entry,) = AuditEntry.objects.filter(action="capability.denied")
    assert len(entry.reason) + len(json.dumps(entry.after)) < 30_000


def test_a_denial_names_the_missing_capability_and_is_kept(api, mode):
    payload = claims(cap=["payments:*"])
    assert submit(api, raw(payload=payload), expect=403)["missing_capabilities"] == ["mail:send"]
    (entry,) = AuditEntry.objects.filter(action="capability.denied")
    assert entry.subject == f"capability-token/{payload['jti']}"
    assert entry.after == {"reason": "missing_capability", "missing_capabilities": ["mail:send"]}


def test_an_argument_beyond_the_tokens_limits_is_refused_with_its_place(api, mode):
    limits = {"echo": {"properties": {"text": {"enum": ["bye"]}}}}
    problem = submit(api, raw(payload=claims(limits=limits)), expect=403)
    (error,) = problem["errors"]
    assert (problem["reason"], error["code"]) == ("argument_limits", "argument_not_allowed")
    assert error["pointer"] == "/executable_plan/flows/0/steps/0/parameters/text"


def test_limits_that_the_plan_keeps_to_are_recorded_on_the_run(api, mode):
    limits = {"echo": {"properties": {"text": {"enum": ["hello"]}}}}
    assert submit(api, raw(payload=claims(limits=limits)), expect=202)["capability"]["limits"] == limits


def test_a_token_that_ends_soon_is_warned_of_in_every_answer(api, mode, settings):
    settings.CAPTOKENS_EXPIRY_WARNING = 100
    token = raw(payload=claims(exp=seconds(40)))
    run = submit(api, token, expect=202)
    preview = submit(api, token, expect=200, dry_run=True)
    seen = api.post("/v1/captokens/verify", {"token": token}, expect=200)
    for warnings in (run["capability"]["warnings"], preview["capability"]["warnings"], seen["warnings"]):
        assert [one.startswith("The capability token expires in") for one in warnings] == [True]
    assert preview["warnings"][0].startswith("The capability token expires in")
    settings.CAPTOKENS_EXPIRY_WARNING = 10
    assert submit(api, token, expect=202)["capability"]["warnings"] == []


def test_the_clocks_may_be_five_seconds_apart(api, mode):
    late = timezone.now() - timedelta(seconds=62)
    submit(api, raw(payload=claims_of(**facts(now=late, lifetime=60))), expect=202)


def test_the_command_refuses_a_bad_token_too(acme, settings, captoken, tmp_path):
    settings.CAPTOKENS_ISSUER = ISSUER
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(ECHO))
    with pytest.raises(CommandError, match="signature is not valid"):
        call_command("execute", plan, tenant="acme", capability_token=raw(key=STRANGER))
    (entry,) = AuditEntry.objects.filter(action="capability.denied")
    assert (entry.source, entry.actor, entry.after) == ("command", "operator", {"reason": "bad_signature"})
    assert not Run.objects.exists()
