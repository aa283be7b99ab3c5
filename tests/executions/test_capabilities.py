"""Capability tokens: what is accepted, and that everything else is refused with its reason."""

from __future__ import annotations

import base64
import json
import os
import stat
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws, jwt
from joserfc.jwk import OctKey, OKPKey, RSAKey

from executions.capabilities import Capability, CapabilityDenied, CapabilityValidation, covers, granted, issue
from executions.captokens import read

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
KEY = OKPKey.generate_key("Ed25519")
OTHER_KEY = OKPKey.generate_key("Ed25519")


def write_key_set(path, *keys) -> None:
    path.write_text(json.dumps({"keys": [key.as_dict(private=False) | {"kid": key.thumbprint()} for key in keys]}))


@pytest.fixture(autouse=True)
def key_set(settings, tmp_path):
    settings.CAPTOKENS_JWKS_FILE = tmp_path / "jwks.json"
    settings.CAPTOKENS_ISSUER = "https://captokens.test"
    write_key_set(settings.CAPTOKENS_JWKS_FILE, KEY)
    return settings.CAPTOKENS_JWKS_FILE


def token_of(**changes) -> str:
    facts = {
        "key": KEY,
        "issuer": "https://captokens.test",
        "tenant": "acme",
        "subject": "alice",
        "capabilities": ["payments:refund", "mail:*"],
        "now": NOW,
    }
    return issue(**facts | changes)


def verify(token: str, *, tenant: str, required, now: datetime) -> Capability:
    return granted(read(token, tenant=tenant).claims, tenant=tenant, required=required, now=now)


def claims_of(token: str) -> dict:
    return json.loads(_unpadded(token.split(".")[1]))


def signed(claims: dict, header: dict | None = None, key=KEY, alg: str = "Ed25519") -> str:
    registry = jws.JWSRegistry(algorithms=[alg], strict_check_header=False)
    return jwt.encode({"alg": alg, "kid": KEY.thumbprint(), **(header or {})}, claims, key, registry=registry)


def altered(**changes) -> str:
    claims = claims_of(token_of()) | changes
    return signed({name: value for name, value in claims.items() if value is not ...})


def refusal(token: str, *, tenant="acme", required=(), now=NOW) -> CapabilityDenied:
    with pytest.raises(CapabilityDenied) as caught:
        verify(token, tenant=tenant, required=required, now=now)
    assert not token or token not in str(caught.value)
    return caught.value


def _unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _packed(content: dict | bytes) -> str:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


# -- what is accepted


def test_a_good_token_says_who_may_do_what_until_when():
    capability = verify(token_of(tools=["echo"]), tenant="acme", required=["payments:refund"], now=NOW)
    assert (capability.subject, capability.tools) == ("alice", {"echo"})
    assert capability.capabilities == {"payments:refund", "mail:*"}
    assert capability.expires_at == NOW + timedelta(seconds=300)
    assert len(capability.token_id) >= 16


def test_a_token_without_tools_restricts_none():
    assert verify(token_of(), tenant="acme", required=[], now=NOW).tools is None


def test_a_token_with_an_empty_tool_list_allows_none():
    assert verify(token_of(tools=[]), tenant="acme", required=[], now=NOW).tools == frozenset()


def test_an_older_issuers_name_for_the_algorithm_is_accepted():
    with pytest.warns(match="EdDSA is deprecated"):
        token = signed(claims_of(token_of()), alg="EdDSA")
    assert verify(token, tenant="acme", required=[], now=NOW).subject == "alice"


def test_any_issuer_will_do_where_none_is_set(settings):
    settings.CAPTOKENS_ISSUER = ""
    assert verify(token_of(issuer="someone"), tenant="acme", required=[], now=NOW).subject == "alice"


def test_a_clock_five_seconds_apart_is_forgiven():
    token = token_of(lifetime=60)
    for moment in (NOW - timedelta(seconds=5), NOW + timedelta(seconds=64)):
        assert verify(token, tenant="acme", required=[], now=moment).subject == "alice"


@pytest.mark.parametrize(
    ("held", "needed", "answer"),
    [
        ("payments:refund", "payments:refund", True),
        ("payments:*", "payments:refund", True),
        ("payments:*", "payments:refund:large", True),
        ("payments:refund:*", "payments:refund", False),
        ("payments:*", "payments", False),
        ("payments:*", "paymentsx:refund", False),
        ("pay*", "payments:refund", False),
        ("*", "payments:refund", False),
        (":*", ":x", False),
        ("*:refund", "payments:refund", False),
        ("payments:re?und", "payments:refund", False),
        ("payments:refund", "payments:*", False),
        ("payments:*", "payments:*", True),
        ("Payments:*", "payments:refund", False),
    ],
)
def test_only_a_trailing_wildcard_covers_more_than_itself(held, needed, answer):
    assert covers(held, needed) is answer


def test_a_wildcard_grants_and_what_is_missing_is_named():
    assert verify(token_of(), tenant="acme", required=["mail:send"], now=NOW).covers("mail:read")
    denied = refusal(token_of(), required=["mail:send", "payments:charge", "db:drop"])
    assert (denied.code, denied.missing) == ("missing_capability", ("db:drop", "payments:charge"))
    assert "db:drop, payments:charge" in denied.message


# -- what is refused


def test_another_tenants_token_is_refused():
    assert refusal(token_of(), tenant="mallory").code == "wrong_tenant"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"iss": "https://evil.test"}, "wrong_issuer"),
        ({"iss": ...}, "wrong_issuer"),
        ({"aud": "tenant:mallory"}, "wrong_tenant"),
        ({"aud": "acme"}, "wrong_tenant"),
        ({"aud": ...}, "wrong_tenant"),
        ({"tid": "mallory"}, "wrong_tenant"),
        ({"tid": ["acme", "mallory"]}, "wrong_tenant"),
        ({"tid": ...}, "wrong_tenant"),
        ({"sub": ""}, "invalid_claim"),
        ({"sub": 7}, "invalid_claim"),
        ({"sub": "a\x00b"}, "invalid_claim"),
        ({"jti": ...}, "invalid_claim"),
        ({"jti": "j" * 201}, "invalid_claim"),
        ({"cap": ...}, "invalid_claim"),
        ({"cap": []}, "invalid_claim"),
        ({"cap": "payments:*"}, "invalid_claim"),
        ({"cap": [1]}, "invalid_claim"),
        ({"cap": [""]}, "invalid_claim"),
        ({"tools": "echo"}, "invalid_claim"),
        ({"tools": {}}, "invalid_claim"),
        ({"exp": ...}, "invalid_claim"),
        ({"exp": "soon"}, "invalid_claim"),
        ({"exp": True}, "invalid_claim"),
        ({"exp": float("nan")}, "invalid_claim"),
        ({"exp": float("inf")}, "invalid_claim"),
        ({"iat": ...}, "not_yet_valid"),
        ({"iat": int(NOW.timestamp()) + 6}, "not_yet_valid"),
        ({"nbf": int(NOW.timestamp()) + 6}, "not_yet_valid"),
        ({"exp": int(NOW.timestamp()) + 301}, "lifetime_too_long"),
        ({"exp": 10**400}, "lifetime_too_long"),
        ({"iat": int(NOW.timestamp()) - 600}, "lifetime_too_long"),
        ({"iat": int(NOW.timestamp()), "exp": int(NOW.timestamp())}, "lifetime_too_long"),
        ({"exp": int(NOW.timestamp()) - 5}, "expired"),
    ],
)
def test_a_claim_that_is_wrong_is_named(changes, code):
    assert refusal(altered(**changes)).code == code


def test_an_expired_token_is_refused():
    assert refusal(token_of(lifetime=60), now=NOW + timedelta(seconds=65)).code == "expired"


def test_a_changed_claim_breaks_the_signature():
    header, _, signature = token_of().split(".")
    forged = _packed(claims_of(token_of()) | {"cap": ["db:drop"]})
    assert refusal(f"{header}.{forged}.{signature}").code == "bad_signature"


def test_another_key_under_a_known_kid_is_refused():
    assert refusal(signed(claims_of(token_of()), key=OTHER_KEY)).code == "bad_signature"


def test_a_token_without_signature_is_refused():
    header = _packed({"alg": "none", "kid": KEY.thumbprint()})
    payload = _packed(claims_of(token_of()))
    assert refusal(f"{header}.{payload}.").code == "wrong_algorithm"


@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
def test_the_public_key_as_a_shared_secret_is_refused():
    public = _unpadded(KEY.as_dict(private=False)["x"])
    forged = signed(claims_of(token_of()), key=OctKey.import_key(public), alg="HS256")
    assert refusal(forged).code == "wrong_algorithm"


def test_another_algorithm_is_refused_though_its_key_is_in_the_set(key_set):
    rsa = RSAKey.generate_key(2048)
    write_key_set(key_set, KEY, rsa)
    forged = signed(claims_of(token_of()), {"kid": rsa.thumbprint()}, key=rsa, alg="RS256")
    assert refusal(forged).code == "wrong_algorithm"


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ({"kid": "nobody"}, "unknown_key"),
        ({"kid": ""}, "unknown_key"),
        ({"crit": ["b64"], "b64": True}, "malformed"),
        ({"crit": ["kid"]}, "malformed"),
        ({"jwk": OTHER_KEY.as_dict(private=False), "kid": OTHER_KEY.thumbprint()}, "unknown_key"),
        ({"jku": "https://evil.test/jwks.json", "kid": "evil"}, "unknown_key"),
    ],
)
def test_a_header_cannot_bring_its_own_key_or_rules(header, code):
    key = OTHER_KEY if "jwk" in header else KEY
    signing_input = f"{_packed({'alg': 'Ed25519', 'kid': KEY.thumbprint()} | header)}.{_packed(claims_of(token_of()))}"
    signature = key.get_op_key("sign").sign(signing_input.encode())
    assert refusal(f"{signing_input}.{_packed(signature)}").code == code


def test_a_token_needs_a_key_id():
    signing_input = f"{_packed({'alg': 'Ed25519'})}.{_packed(claims_of(token_of()))}"
    signature = KEY.get_op_key("sign").sign(signing_input.encode())
    assert refusal(f"{signing_input}.{_packed(signature)}").code == "unknown_key"


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "a.b.c",
        "....",
        "é.é.é",
        "\x00",
        "e30.e30.e30",
        "x" * 9000,
        _packed(b"[" * 300) + ".e30.e30",
        "a.b.c.d.e",
    ],
)
def test_what_is_no_token_is_malformed(token):
    assert refusal(token).code == "malformed"


@given(st.text(max_size=60) | st.builds(lambda *parts: ".".join(map(_packed, parts)), *[st.binary(max_size=40)] * 3))
def test_no_text_breaks_the_check(text):
    with pytest.raises(CapabilityDenied) as caught:
        verify(text, tenant="acme", required=[], now=NOW)
    assert caught.value.code in {"malformed", "wrong_algorithm"}


# -- the key set


def test_without_a_key_set_no_token_is_accepted(settings):
    settings.CAPTOKENS_JWKS_FILE = None
    assert refusal(token_of()).code == "no_key_set"


@pytest.mark.parametrize(
    "content",
    [None, "", "{", "[]", "{}", '{"keys": 7}', '{"keys": [7]}', '{"keys": [{"kty": "OKP", "crv": "Ed25519"}]}'],
)
def test_a_key_set_that_cannot_be_used_refuses_every_token(key_set, content):
    key_set.unlink() if content is None else key_set.write_text(content)
    denied = refusal(token_of())
    assert denied.code == "no_key_set"
    assert str(key_set) in denied.message


def test_a_new_key_is_found_without_a_restart(key_set):
    assert refusal(token_of(key=OTHER_KEY)).code == "unknown_key"
    before = key_set.stat().st_mtime_ns
    write_key_set(key_set, KEY, OTHER_KEY)
    os.utime(key_set, ns=(before, before))  # a clock too coarse to see the change
    assert verify(token_of(key=OTHER_KEY), tenant="acme", required=[], now=NOW).subject == "alice"


def test_a_withdrawn_key_is_refused_without_a_restart(key_set):
    assert verify(token_of(), tenant="acme", required=[], now=NOW)
    write_key_set(key_set, OTHER_KEY)
    os.utime(key_set, ns=(1, 1))
    assert refusal(token_of()).code == "unknown_key"


def test_a_key_for_encryption_is_none_for_signatures(key_set):
    entry = KEY.as_dict(private=False) | {"kid": KEY.thumbprint(), "use": "enc"}
    key_set.write_text(json.dumps({"keys": [entry]}))
    assert refusal(token_of()).code == "unknown_key"


# -- the record


def test_the_record_of_an_accepted_token_is_json_without_the_token():
    token = token_of(tools=["echo"])
    record = CapabilityValidation.of(verify(token, tenant="acme", required=[], now=NOW), now=NOW).to_json()
    assert json.loads(json.dumps(record)) == record
    assert (record["valid"], record["mode"], record["subject"]) == (True, "token", "alice")
    assert record["expires_at"] == "2026-03-01T12:05:00+00:00"
    assert token.split(".")[2] not in json.dumps(record)


def test_the_record_of_development_without_token_says_so():
    record = CapabilityValidation.of(None, now=NOW).to_json()
    assert (record["valid"], record["mode"], record["expires_at"]) == (True, "development_without_token", None)


# -- the commands


@pytest.fixture
def files(tmp_path, settings):
    settings.CAPTOKENS_JWKS_FILE = tmp_path / "new" / "public.json"
    return {"private": tmp_path / "new" / "private.jwk", "jwks": settings.CAPTOKENS_JWKS_FILE}


def run(*command: object, **options: object) -> str:
    out = StringIO()
    call_command(*map(str, command), stdout=out, **options)
    return out.getvalue().strip()


def test_a_made_key_signs_tokens_that_are_accepted(files):
    run("create_signing_key", **files)
    options = ["--tenant", "acme", "--subject", "alice", "--cap", "payments:*", "--cap", "mail:send", "--tool", "echo"]
    token = run("issue_captoken", *options, "--key", files["private"])
    capability = verify(token, tenant="acme", required=["payments:refund", "mail:send"], now=datetime.now(UTC))
    assert (capability.subject, capability.tools) == ("alice", {"echo"})


def test_the_private_key_is_its_owners_alone_and_not_in_the_key_set(files):
    said = run("create_signing_key", **files)
    secret = json.loads(files["private"].read_text())["d"]
    assert stat.S_IMODE(files["private"].stat().st_mode) == 0o600
    assert secret not in files["jwks"].read_text() + said


def test_a_key_is_not_overwritten_but_rotated(files):
    run("create_signing_key", **files)
    options = ["--tenant", "acme", "--subject", "alice", "--cap", "a:b", "--key", files["private"]]
    old = run("issue_captoken", *options)
    with pytest.raises(CommandError, match="rotate_signing_key"):
        run("create_signing_key", **files)
    run("rotate_signing_key", **files)
    for token in (old, run("issue_captoken", *options)):
        assert verify(token, tenant="acme", required=["a:b"], now=datetime.now(UTC))


@pytest.mark.parametrize("ttl", [0, -1, 301])
def test_a_token_is_not_issued_for_more_than_five_minutes(files, ttl):
    run("create_signing_key", **files)
    with pytest.raises(CommandError, match="1 to 300 seconds"):
        run("issue_captoken", "--tenant=t", "--subject=s", "--cap=a:b", f"--ttl={ttl}", "--key", files["private"])


@pytest.mark.parametrize(
    "content",
    [None, "{", "[]", json.dumps(KEY.as_dict(private=False)), json.dumps({"kty": "oct", "k": "aa"})],
    ids=["none", "broken", "no-key", "public-key", "symmetric-key"],
)
def test_a_token_needs_a_private_key(files, tmp_path, content):
    path = tmp_path / "key.jwk"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CommandError, match=r"key\.jwk is not"):
        run("issue_captoken", "--tenant=t", "--subject=s", "--cap=a:b", "--key", path)


def test_a_file_that_is_no_key_set_is_left_as_it_is(files):
    files["jwks"].parent.mkdir()
    files["jwks"].write_text("my notes")
    with pytest.raises(CommandError, match="is not a key set"):
        run("create_signing_key", **files)
    assert files["jwks"].read_text() == "my notes"
    assert not files["private"].exists()
