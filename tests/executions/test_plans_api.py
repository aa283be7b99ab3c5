"""/v1/plans: store, list, look, validate; and plans that are run by their hash alone."""

from __future__ import annotations

import json

import pytest
from pytest_httpserver import HTTPServer

from executions.models import Plan, Run
from executions.plan_document import canonical_hash
from tests.factories import documents

pytestmark = pytest.mark.django_db(transaction=True)

ECHO = documents.plan(
    documents.action("greet", parameters={"text": "hello"}), version="2.1.0", description="Says hello"
)
HASH = canonical_hash(ECHO)


@pytest.fixture
def compiler(settings):
    """A Plan Compiler that knows ECHO."""
    with HTTPServer() as server:
        server.expect_request(f"/v1/plans/{HASH}").respond_with_json(ECHO)
        settings.PLAN_COMPILER_BASE_URL = server.url_for("").rstrip("/")
        yield server


def store(api, document=ECHO, *, expect=201, **headers):
    return api.post("/v1/plans", document, expect=expect, **headers)


def test_a_plan_is_stored_once_under_its_hash(api):
    first, again = store(api), store(api, expect=200)
    assert first == again
    assert (first["plan_hash"], first["name"], first["version"], first["created_by"]) == (
        HASH,
        "A plan",
        "2.1.0",
        "agent",
    )
    assert Plan.objects.count() == 1


def test_a_stored_plan_is_shown_word_for_word(api):
    location = api.client.post("/v1/plans", ECHO, "application/json")["Location"]
    shown = api.get(location)
    assert shown["executable_plan"] == ECHO
    assert shown["links"]["validate"] == f"{location}/validate"


def test_a_plan_never_changes_and_is_sent_once(api):
    store(api)
    unchanged = api.client.get(f"/v1/plans/{HASH}", headers={"if-none-match": f'"{HASH}"'})
    assert (unchanged.status_code, unchanged.content) == (304, b"")


def test_a_plan_with_errors_is_refused_with_pointers_into_the_body(api):
    problem = store(api, ECHO | {"main_flow": "nowhere"}, expect=422)
    assert (problem["code"], problem["errors"][0]["pointer"]) == ("invalid-plan", "/main_flow")
    assert Plan.objects.count() == 0


@pytest.mark.parametrize("body", [[], "text", 1, None, {}])
def test_what_is_no_plan_is_refused(api, body):
    assert api.post("/v1/plans", raw=json.dumps(body).encode(), expect=422)["code"] == "invalid-plan"


def test_storing_under_a_key_is_done_once(api):
    for replayed in (None, "true"):
        response = api.client.post("/v1/plans", ECHO, "application/json", headers={"idempotency-key": "p"})
        assert (response.status_code, response.get("Idempotency-Replayed")) == (201, replayed)


def test_plans_are_listed_newest_first_without_their_documents(api):
    store(api)
    store(api, ECHO | {"name": "Another"})
    listed = api.get("/v1/plans")["results"]
    assert [plan["name"] for plan in listed] == ["Another", "A plan"]
    assert "executable_plan" not in listed[0]
    assert [plan["name"] for plan in api.get("/v1/plans?name=Another")["results"]] == ["Another"]
    assert api.get("/v1/plans?title=x", expect=400)


def test_another_tenants_plan_does_not_exist(api, mallory):
    store(api)
    for path in (f"/v1/plans/{HASH}", f"/v1/plans/{HASH}/validate"):
        call = mallory.post if path.endswith("validate") else mallory.get
        assert call(path, expect=404)["code"] == "not-found"
    assert mallory.get("/v1/plans")["results"] == []
    assert mallory.post("/v1/execute", {"plan_hash": HASH}, expect=404)


@pytest.mark.parametrize("plan_hash", ["x", HASH.upper(), HASH[:-1], "0" * 64])
def test_an_unknown_hash_is_not_found(api, plan_hash):
    assert api.get(f"/v1/plans/{plan_hash}", expect=404)["code"] == "not-found"
    assert api.post(f"/v1/plans/{plan_hash}/validate", expect=404)["code"] == "not-found"


def test_a_stored_plan_is_validated_without_being_run(api):
    store(api)
    says = api.post(f"/v1/plans/{HASH}/validate", {"parameters": {"a": 1}}, expect=200)
    assert (says["dry_run"], says["plan_hash"], says["step_order"]) == (True, HASH, ["greet"])
    assert says == api.post("/v1/execute", {"plan_hash": HASH, "dry_run": True, "parameters": {"a": 1}}, expect=200)
    assert Run.objects.count() == 0


def test_validation_refuses_what_a_submission_would_be_refused_for(api, acme):
    store(api)
    acme.allowed_tools = ["other"]
    acme.save()
    validated = api.post(f"/v1/plans/{HASH}/validate", expect=403)
    submitted = api.post("/v1/execute", {"plan_hash": HASH}, expect=403)
    assert {**validated, "correlation_id": ""} == {**submitted, "correlation_id": ""}


def test_a_plan_that_is_not_stored_comes_from_the_compiler_and_is_kept(api, compiler):
    run = api.post("/v1/execute", {"plan_hash": HASH}, expect=202)
    assert run["plan_hash"] == HASH
    assert api.get(f"/v1/plans/{HASH}")["executable_plan"] == ECHO
    api.post("/v1/execute", {"plan_hash": HASH, "deduplicate": False}, expect=202)
    assert len(compiler.log) == 1


def test_a_dry_run_asks_the_compiler_and_keeps_nothing(api, compiler):
    assert api.post(f"/v1/plans/{HASH}/validate", expect=200)["plan_hash"] == HASH
    assert api.post("/v1/execute", {"plan_hash": HASH, "dry_run": True}, expect=200)
    assert Plan.objects.count() == 0


def test_a_plan_the_compiler_does_not_know_is_not_found(api, compiler):
    compiler.expect_request(f"/v1/plans/{'0' * 64}").respond_with_json({}, status=404)
    assert api.post("/v1/execute", {"plan_hash": "0" * 64}, expect=404)["code"] == "not-found"


def test_a_compiler_that_is_down_means_later_and_nothing_is_stored(api, settings):
    settings.PLAN_COMPILER_BASE_URL = "http://127.0.0.1:9"
    headers = {"idempotency-key": "k"}
    response = api.client.post("/v1/execute", {"plan_hash": HASH}, "application/json", headers=headers)
    assert (response.status_code, response.json()["code"], "Retry-After" in response) == (503, "unavailable", True)
    assert (Plan.objects.count(), Run.objects.count()) == (0, 0)
    assert api.get("/v1/idempotency-keys/k", expect=404)


def test_a_repeat_is_answered_without_asking_the_compiler(api, compiler, settings):
    first = api.post("/v1/execute", {"plan_hash": HASH}, expect=202, **{"idempotency-key": "k"})
    Run.objects.all().delete()
    Plan.objects.all().delete()
    settings.PLAN_COMPILER_BASE_URL = "http://127.0.0.1:9"
    assert api.post("/v1/execute", {"plan_hash": HASH}, expect=202, **{"idempotency-key": "k"}) == first
    other = api.post("/v1/execute", {"plan_hash": "0" * 64}, expect=422, **{"idempotency-key": "k"})
    assert other["code"] == "idempotency-key-reused"


def test_a_compiler_that_gives_another_plan_is_not_believed(api, compiler):
    compiler.clear()
    compiler.expect_request(f"/v1/plans/{HASH}").respond_with_json(ECHO | {"name": "Another"})
    assert api.post("/v1/execute", {"plan_hash": HASH}, expect=502)["code"] == "bad-plan-compiler-answer"
    assert (Plan.objects.count(), Run.objects.count()) == (0, 0)


def test_a_plan_of_the_compilers_that_is_not_valid_is_refused_and_not_kept(api, compiler):
    broken = ECHO | {"main_flow": "nowhere"}
    compiler.expect_request(f"/v1/plans/{canonical_hash(broken)}").respond_with_json(broken)
    problem = api.post("/v1/execute", {"plan_hash": canonical_hash(broken)}, expect=422)
    assert (problem["code"], "Plan Compiler" in problem["detail"]) == ("invalid-plan", True)
    assert Plan.objects.count() == 0


def test_a_replay_needs_no_compiler(api, compiler, settings):
    headers = {"idempotency-key": "k"}
    first = api.post("/v1/execute", {"plan_hash": HASH}, expect=202, **headers)
    settings.PLAN_COMPILER_BASE_URL = "http://127.0.0.1:9"
    assert api.post("/v1/execute", {"plan_hash": HASH}, expect=202, **headers) == first
