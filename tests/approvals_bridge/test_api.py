"""/v1/approvals: looking and deciding over HTTP."""

import pytest

from approvals_bridge.models import Clarification
from tests.conftest import personal_api
from tests.factories.models import ClarificationFactory, RunFactory

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def asked(acme):
    return ClarificationFactory(run=RunFactory(status="paused", tenant=acme))


@pytest.fixture
def bobs_api(bob, acme):
    return personal_api(bob, acme)


def url(clarification, verb=""):
    return f"/v1/approvals/{clarification.pk}{verb}"


def test_waiting_clarifications_are_listed_with_what_would_run(api, asked):
    (one,) = api.get("/v1/approvals")["results"]
    assert (one["id"], one["action"]["tool"], one["status"]) == (str(asked.pk), "write_record", "pending")


def test_a_person_approves(bobs_api, asked):
    body = {"reason": "fine", "action_digest": asked.action_digest}
    assert bobs_api.post(url(asked, "/approve"), body, expect=200)["status"] == "approved"


def test_the_same_decision_with_the_same_key_is_answered_again(bobs_api, asked):
    body, key = {"action_digest": asked.action_digest}, {"idempotency-key": "d-1"}
    first = bobs_api.post(url(asked, "/approve"), body, expect=200, **key)
    assert bobs_api.post(url(asked, "/approve"), body, expect=200, **key) == first


def test_a_second_decision_is_a_conflict(bobs_api, asked):
    bobs_api.post(url(asked, "/reject"), {"reason": "no", "action_digest": asked.action_digest}, expect=200)
    problem = bobs_api.post(url(asked, "/approve"), {"action_digest": asked.action_digest}, expect=409)
    assert (problem["code"], problem["current_status"]) == ("conflict", "rejected")


def test_a_service_cannot_decide(api, asked):
    assert "scope" in api.post(url(asked, "/approve"), {}, expect=403)["detail"]


def test_without_the_seal_a_decision_is_stale(bobs_api, asked):
    problem = bobs_api.post(url(asked, "/approve"), {}, expect=409)
    assert (problem["code"], problem["action_digest"]) == ("stale-subject", asked.action_digest)


def test_an_answer_is_checked(bobs_api, acme):
    asked = ClarificationFactory(choice=True, run=RunFactory(status="paused", tenant=acme))
    assert bobs_api.post(url(asked, "/answer"), {"value": "other"}, expect=400)["errors"][0]["pointer"] == "/value"
    assert bobs_api.post(url(asked, "/answer"), {}, expect=422)["errors"][0]["pointer"] == "/value"
    assert bobs_api.post(url(asked, "/answer"), {"value": 3}, expect=200)["response"] == 3


def test_another_tenants_clarification_does_not_exist(mallory, bobs_api):
    foreign = ClarificationFactory()
    assert mallory.get("/v1/approvals")["results"] == []
    assert bobs_api.get(url(foreign), expect=404)["code"] == "not-found"
    bobs_api.post(url(foreign, "/approve"), {"action_digest": foreign.action_digest}, expect=404)
    assert Clarification.objects.get(pk=foreign.pk).status == "pending"


def test_looking_decides_nothing(bobs_api, asked):
    for verb in ("/approve", "/reject", "/answer"):
        assert bobs_api.client.get(url(asked, verb)).status_code == 405
    assert Clarification.objects.get().status == "pending"


def test_a_filter_that_is_none_is_refused(api):
    assert "status" in api.get("/v1/approvals?status=odd", expect=400)["detail"]
    assert "run_id" in api.get("/v1/approvals?run_id=odd", expect=400)["detail"]
