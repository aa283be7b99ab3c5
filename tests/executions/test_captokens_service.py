"""The CapTokens service, against a real listener: what it is asked, what of its answer counts, and that it fails closed."""

import base64
import json
import logging
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from joserfc.jwk import OKPKey
from werkzeug import Response

from executions.capabilities import CapabilityDenied, issue
from executions.captokens import read
from executions.errors import Unavailable
from executions.models import AuditEntry, Run
from tests.factories import documents

KEY, STRANGER = OKPKey.generate_key("Ed25519"), OKPKey.generate_key("Ed25519")
ECHO = documents.plan(
    documents.action("greet"),
    security_context={"allowed_tools": ["echo"], "required_capabilities": ["mail:send", "mail:read"]},
)


def token_of(key=KEY, **facts):
    facts = {"tenant": "acme", "subject": "alice", "capabilities": ["mail:*"], "now": datetime.now(UTC)} | facts
    return issue(key=key, issuer="captokens", **facts)


def claims(token):
    part = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


class Service:
    """A CapTokens service that answers as told."""

    def __init__(self, server, root):
        self.server, self.path = server, f"{root}/v1/captokens/verify"

    def confirms(self, token, **changes):
        known = claims(token)
        answer = {
            "valid": True,
            "token_id": known["jti"],
            "capabilities": known["cap"],
            "expires_at": None,
            "error": None,
        }
        self.answers(Response(json.dumps(answer | changes)))

    def answers(self, response):
        self.server.expect_request(self.path, method="POST").respond_with_response(response)

    @property
    def asked(self):
        return [request for request, _ in self.server.log]


@pytest.fixture
def service(settings, httpserver):
    root = f"/{uuid4().hex}"
    settings.CAPTOKENS_BASE_URL, settings.CAPTOKENS_API_KEY = httpserver.url_for(root), "key-of-ours"
    settings.CAPTOKENS_JWKS_FILE, settings.CAPTOKENS_ISSUER = None, ""
    return Service(httpserver, root)


def refusal(token, **facts):
    with pytest.raises(CapabilityDenied) as denied:
        read(token, tenant="acme", **facts)
    return denied.value.code


# -- the question


def test_the_service_is_asked_about_the_token_and_what_is_required(service):
    token = token_of()
    service.confirms(token)
    read(token, tenant="acme", required={"mail:send"})
    (request,) = service.asked
    assert request.get_json() == {"token": token, "required_capabilities": ["mail:send"]}
    assert (request.headers["Authorization"], request.headers["X-Tenant-ID"]) == ("Bearer key-of-ours", "acme")


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ({"tenant": "globex"}, "wrong_tenant"),
        ({"now": datetime.now(UTC) - timedelta(hours=1)}, "expired"),
        ({"now": datetime.now(UTC) + timedelta(hours=1)}, "not_yet_valid"),
    ],
)
def test_a_token_against_our_own_rules_is_refused_without_asking(service, facts, code):
    assert refusal(token_of(**facts)) == code
    assert service.asked == []


def test_what_is_no_token_is_refused_without_asking(service):
    assert refusal("a.b.c") == "malformed"
    assert service.asked == []


def test_local_keys_are_looked_at_first_where_there_are_some(service, settings, tmp_path):
    settings.CAPTOKENS_JWKS_FILE = tmp_path / "jwks.json"
    public = KEY.as_dict(private=False) | {"kid": KEY.thumbprint()}
    settings.CAPTOKENS_JWKS_FILE.write_text(json.dumps({"keys": [public]}))
    assert refusal(token_of(key=STRANGER)) == "unknown_key"
    assert service.asked == []
    token = token_of()
    service.confirms(token)
    assert read(token, tenant="acme")


# -- its answer


def test_a_no_is_a_refusal(service):
    token = token_of()
    service.confirms(token, valid=False, error="revoked by the issuer")
    assert refusal(token) == "refused_by_service"


def test_a_yes_can_only_narrow_what_the_token_says(service):
    token = token_of(capabilities=["mail:*", "payments:refund"])
    soon = datetime.now(UTC) + timedelta(seconds=20)
    service.confirms(token, capabilities=["mail:send", "payments:*", "db:drop"], expires_at=soon.isoformat())
    found = read(token, tenant="acme").claims
    assert found["cap"] == ["mail:send"]
    assert found["exp"] == int(soon.timestamp())


def test_a_later_end_than_the_tokens_own_does_not_count(service):
    token = token_of(lifetime=30)
    service.confirms(token, expires_at="2100-01-01T00:00:00Z")
    assert read(token, tenant="acme").claims["exp"] == claims(token)["exp"]


@pytest.mark.parametrize(
    "answer",
    [
        Response(status=500),
        Response(status=401),
        Response(status=404),
        Response(status=302, headers={"Location": "/elsewhere"}),
        Response("yes"),
        Response("[]"),
        Response("{}"),
        Response('{"valid": "true"}'),
        Response('{"valid": 1}'),
        Response('{"valid": true}'),
        Response('{"valid": true, "token_id": "another", "capabilities": ["mail:*"]}'),
        Response('{"valid": false, "valid": true}'),
        Response('{"valid": true, "capabilities": "mail:*"}'),
        Response('{"valid": true, "expires_at": "tomorrow"}'),
        Response('{"valid": true, "error": "' + "x" * 70_000 + '"}'),
    ],
)
def test_whatever_is_no_clear_answer_is_no_answer(service, answer):
    service.answers(answer)
    with pytest.raises(Unavailable) as refused:
        read(token_of(), tenant="acme")
    assert refused.value.extra["retry_after"] == 5


def test_the_services_own_retry_after_is_passed_on(service):
    service.answers(Response(status=503, headers={"Retry-After": "42"}))
    with pytest.raises(Unavailable) as refused:
        read(token_of(), tenant="acme")
    assert refused.value.extra["retry_after"] == 42


# -- over the API


def submit(api, token, *, expect, **fields):
    return api.post("/v1/execute", {"executable_plan": ECHO, **fields}, expect=expect, **{"x-capability-token": token})


@pytest.mark.django_db(transaction=True)
def test_a_submission_is_let_in_on_the_services_word(api, service):
    token = token_of()
    service.confirms(token)
    run = submit(api, token, expect=202)
    assert (run["capability"]["subject"], run["capability"]["capabilities"]) == ("alice", ["mail:*"])
    assert service.asked[0].get_json()["required_capabilities"] == ["mail:read", "mail:send"]


@pytest.mark.django_db(transaction=True)
def test_a_stored_plans_capabilities_are_asked_for_by_its_hash(api, service):
    stored = api.post("/v1/plans", ECHO, expect=201)
    token = token_of()
    service.confirms(token)
    api.post("/v1/execute", {"plan_hash": stored["plan_hash"]}, expect=202, **{"x-capability-token": token})
    assert service.asked[0].get_json()["required_capabilities"] == ["mail:read", "mail:send"]


@pytest.mark.django_db(transaction=True)
def test_what_the_service_does_not_grant_is_missing(api, service):
    token = token_of()
    service.confirms(token, capabilities=["mail:send"])
    problem = submit(api, token, expect=403)
    assert (problem["reason"], problem["missing_capabilities"]) == ("missing_capability", ["mail:read"])


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("production", [False, True])
def test_nothing_runs_while_the_service_is_down_and_the_token_is_in_no_log(api, settings, caplog, production):
    settings.IS_PRODUCTION, settings.CAPTOKENS_BASE_URL = production, "http://127.0.0.1:9"
    token = token_of()
    with caplog.at_level(logging.DEBUG):
        sent = api.client.post(
            "/v1/execute", {"executable_plan": ECHO}, "application/json", headers={"x-capability-token": token}
        )
    assert (sent.status_code, sent["Retry-After"]) == (503, "5")
    assert not Run.objects.exists()
    assert not AuditEntry.objects.filter(action="capability.denied").exists()
    assert token.split(".")[2] not in caplog.text + sent.content.decode()
