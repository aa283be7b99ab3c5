"""POST /v1/execute: what is accepted, what is refused, and in which words."""

import json

import pytest

from executions.models import Event, IdempotencyRecord, Plan, Run, Work
from tests.conftest import Api
from tests.factories import documents

pytestmark = pytest.mark.django_db(transaction=True)

ECHO = documents.plan(documents.action("greet", parameters={"text": "hello"}))


def submit(api, document=ECHO, *, expect=202, headers=None, **fields):
    """Submit a run that is meant, however much it looks like the last one."""
    body = {"executable_plan": document, "deduplicate": False, **fields}
    return api.post("/v1/execute", body, expect=expect, **(headers or {}))


def test_an_accepted_run_is_pending_with_a_plan_an_event_and_work(api, acme):
    run = submit(api, parameters={"a": 1}, variables={"b": 2}, correlation_id="order-7")
    assert (run["status"], run["reason"], run["correlation_id"]) == ("pending", "accepted", "order-7")
    assert Plan.objects.get(tenant=acme).plan_hash == run["plan_hash"]
    assert [e.type for e in Event.objects.all()] == ["io.anumate.execution.accepted"]
    assert Work.objects.get().kind == "launch"
    assert [step["status"] for step in run["steps"]] == ["pending"]


def test_the_location_leads_to_the_run(api):
    response = api.client.post("/v1/execute", {"executable_plan": ECHO}, content_type="application/json")
    assert api.get(response["Location"])["run_id"] == response.json()["run_id"]


def test_the_same_plan_is_stored_once_and_runs_again_by_its_hash(api):
    first = submit(api)
    again = api.post("/v1/execute", {"plan_hash": first["plan_hash"]}, expect=202)
    assert again["plan_hash"] == first["plan_hash"]
    assert (Plan.objects.count(), Run.objects.count()) == (1, 2)


def test_a_repeat_with_the_same_key_gets_the_first_answer_byte_for_byte(api):
    sent = {
        "data": {"executable_plan": ECHO},
        "content_type": "application/json",
        "headers": {"idempotency-key": '"k1"'},
    }
    first, again = api.client.post("/v1/execute", **sent), api.client.post("/v1/execute", **sent)
    assert again.content == first.content
    assert (again["Location"], again["Idempotency-Replayed"]) == (first["Location"], "true")
    assert Run.objects.count() == 1


def test_another_body_under_the_same_key_is_refused(api):
    submit(api, headers={"idempotency-key": "k1"})
    problem = submit(api, parameters={"other": True}, headers={"idempotency-key": "k1"}, expect=422)
    assert problem["code"] == "idempotency-key-reused"
    assert Run.objects.count() == 1


def test_a_refused_submission_leaves_its_key_free(api):
    submit(api, documents.plan(documents.action("a", depends_on=["x"])), headers={"idempotency-key": "k1"}, expect=422)
    assert IdempotencyRecord.objects.count() == 0
    submit(api, headers={"idempotency-key": "k1"})


@pytest.mark.parametrize("key", ["", '"', "a b", "x" * 256, "ä"])
def test_a_malformed_key_is_refused(api, key):
    assert "Idempotency-Key" in submit(api, headers={"idempotency-key": key}, expect=400)["detail"]


def test_a_name_that_comes_twice_is_refused_wherever_it_is(api):
    raw = json.dumps({"executable_plan": ECHO}).replace('"tool": "echo"', '"tool": "http_request", "tool": "echo"')
    problem = api.post("/v1/execute", raw=raw.encode(), expect=400)
    assert (problem["code"], "'tool'" in problem["detail"]) == ("parse-error", True)


def test_malformed_json_is_a_problem_that_says_where(api):
    problem = api.post("/v1/execute", raw=b'{"executable_plan": {', expect=400)
    assert "not valid JSON" in problem["detail"]
    assert problem["type"] == "urn:anumate:problem:parse-error"


@pytest.mark.parametrize(
    "raw", [b'{"a": NaN}', b'{"a": "\\ud800"}', b"\xff", b"[" * 5000, b'{"a": "\\u0000"}', b'"x"', b"[]"]
)
def test_json_that_cannot_be_kept_is_refused(api, raw):
    assert api.client.post("/v1/execute", raw, content_type="application/json").status_code in (400, 422)


def test_a_body_of_five_megabytes_is_refused(api):
    assert api.post("/v1/execute", raw=b'{"x": "' + b"a" * 5_000_000 + b'"}', expect=413)["code"] == "payload-too-large"


def test_every_error_of_a_plan_comes_with_its_pointer(api):
    cyclic = [documents.action("a", depends_on=["b"]), documents.action("b", depends_on=["a"])]
    broken = documents.plan(*cyclic, documents.action("c", conditions=["a.x =="]), documents.action("d", timeout=-1))
    errors = submit(api, broken, expect=422)["errors"]
    assert len(errors) >= 3
    assert all(e["pointer"].startswith("/executable_plan/flows/0/steps/") and e["detail"] for e in errors)


def test_a_wrong_hash_is_refused(api):
    problem = submit(api, {**ECHO, "plan_hash": "0" * 64}, expect=422)
    assert problem["errors"][0]["code"] == "plan_hash_mismatch"


def test_a_hash_beside_a_document_of_another_hash_is_refused(api):
    assert submit(api, plan_hash="0" * 64, expect=400)["errors"][0]["pointer"] == "/plan_hash"


def test_an_unknown_hash_is_not_found(api):
    assert api.post("/v1/execute", {"plan_hash": "0" * 64}, expect=404)["code"] == "not-found"


def test_a_misspelt_field_is_named(api):
    errors = submit(api, paramters={}, expect=422)["errors"]
    assert [(e["pointer"], e["code"]) for e in errors] == [("/paramters", "unknown_field")]


def test_an_unregistered_hook_is_refused(api):
    assert submit(api, hooks=["audit"], expect=400)["errors"][0]["pointer"] == "/hooks/0"


def test_a_tool_the_tenant_does_not_allow_is_named(api, acme):
    acme.allowed_tools = ["wait"]
    acme.save()
    problem = submit(api, expect=403)
    assert (problem["code"], problem["missing_tools"]) == ("capability-denied", ["echo"])


def test_a_plan_of_another_tenant_is_refused(api):
    assert submit(api, {**ECHO, "tenant_id": "globex"}, expect=422)["errors"][0]["code"] == "foreign_tenant"


def test_a_bad_capability_token_is_refused_in_development_too(api):
    assert submit(api, headers={"x-capability-token": "nonsense"}, expect=403)["code"] == "capability-denied"


def test_production_wants_a_capability_token(api, settings):
    settings.IS_PRODUCTION = True
    assert "capability token" in submit(api, expect=403)["detail"]
    assert submit(api, validate_capabilities=False, expect=403)["code"] == "capability-denied"


def test_a_dry_run_shows_the_portia_plan_and_writes_nothing(api):
    preview = submit(api, dry_run=True, timeout=9, expect=200)
    assert preview["portia_plan"]["steps"][0]["tool"] == "echo"
    assert (preview["step_order"], preview["portia_plan"]["timeout"]) == (["greet"], 9)
    assert not any(model.objects.exists() for model in (Plan, Run, Event, Work))


def test_without_a_key_nothing_is_told(client):
    response = client.get("/v1/executions")
    assert (response.status_code, response["Content-Type"]) == (401, "application/problem+json")
    assert response["WWW-Authenticate"].startswith("Bearer")


def test_another_tenants_run_does_not_exist(api, mallory):
    run = submit(api)
    for path in ("", "/pause", "/resume", "/cancel"):
        url = f"/v1/executions/{run['run_id']}{path}"
        assert (mallory.post(url, expect=404) if path else mallory.get(url, expect=404))["code"] == "not-found"
    assert mallory.get("/v1/executions")["results"] == []


def test_a_tenant_header_must_agree_with_the_key(api):
    assert api.get("/v1/executions", **{"x-tenant-id": "acme"})["results"] == []
    assert "X-Tenant-ID" in api.get("/v1/executions", expect=403, **{"x-tenant-id": "globex"})["detail"]


def test_the_correlation_id_of_the_caller_comes_back(api):
    sent = {"data": {"executable_plan": ECHO}, "content_type": "application/json"}
    response = api.client.post("/v1/execute", **sent, headers={"x-correlation-id": "abc-1"})
    assert (response["X-Correlation-ID"], response.json()["correlation_id"]) == ("abc-1", "abc-1")


def test_lists_are_filtered_and_paged(api):
    runs = [submit(api, triggered_by=f"t{n % 2}")["run_id"] for n in range(5)]
    page = api.get("/v1/executions?limit=2&triggered_by=t0")
    assert [run["run_id"] for run in page["results"]] == [runs[4], runs[2]]
    rest = api.client.get(page["next"]).json()
    assert [run["run_id"] for run in rest["results"]] == [runs[0]]
    assert "status" in api.get("/v1/executions?status=odd", expect=400)["detail"]


@pytest.mark.parametrize("cursor", ["cD1hYmM=", "cD0wMTk=", "cD0lMDA=", "cj0xJnA9", "nonsense"])
@pytest.mark.parametrize("path", ["/v1/executions", "/v1/approvals"])
def test_a_cursor_that_no_page_gave_out_leads_nowhere(api, path, cursor):
    assert "cursor" in api.get(f"{path}?cursor={cursor}", expect=400)["detail"]


@pytest.mark.parametrize("query", ["statis=failed", "limit=-1", "limit=abc", "limit=201"])
@pytest.mark.parametrize("path", ["/v1/executions", "/v1/approvals"])
def test_a_filter_that_is_none_is_refused(api, path, query):
    assert query.partition("=")[0] in api.get(f"{path}?{query}", expect=400)["detail"]


def test_every_wrong_field_is_named_at_once(api):
    errors = submit(api, params={}, timeout="x", triggered_by=["a"], expect=422)["errors"]
    assert {error["pointer"] for error in errors} == {"/params", "/timeout", "/triggered_by"}


def test_a_tool_the_runtime_does_not_have_is_named_at_once(api, portia):
    plan = documents.plan(documents.action("a", "ecko"))
    for dry_run in (True, False):
        (error,) = submit(api, plan, dry_run=dry_run, expect=422)["errors"]
        assert (error["pointer"], error["code"]) == ("/executable_plan/flows/0/steps/0", "unknown_tool")
        assert "echo" in error["detail"]
    assert not Run.objects.exists()


def test_a_chunked_body_is_refused_instead_of_being_read_as_empty(api):
    problem = api.post("/v1/execute", {"executable_plan": ECHO}, expect=411, **{"transfer-encoding": "chunked"})
    assert "Content-Length" in problem["detail"]


def test_another_host_name_gets_a_problem_and_no_traceback(client, caplog):
    response = client.get("/health", headers={"host": "evil.example"})
    assert (response.status_code, response["Content-Type"]) == (400, "application/problem+json")
    assert "Traceback" not in caplog.text


def test_looking_at_the_head_needs_the_scope_of_reading(acme):
    from executions.actions.tenants import create_api_key

    writer = Api(create_api_key(tenant=acme, principal="writer", scopes=["execute"])[1])
    run_id = submit(writer)["run_id"]
    assert writer.client.head(f"/v1/executions/{run_id}").status_code == 403


@pytest.mark.parametrize("change", ["inactive", "left"])
def test_the_key_of_somebody_who_left_opens_nothing(person, acme, change):
    from tests.conftest import personal_api

    bob = person("bob")
    key = personal_api(bob, acme)
    assert key.get("/v1/approvals")["results"] == []
    if change == "inactive":
        type(bob).objects.filter(pk=bob.pk).update(is_active=False)
    else:
        acme.members.remove(bob)
    assert key.get("/v1/approvals", expect=401)["code"] == "authentication-failed"


def test_the_runtime_may_call_what_plan_and_tenant_both_allow(api, acme):
    acme.allowed_tools = ["echo", "wait"]
    acme.save()
    wide = {**ECHO, "security_context": {"allowed_tools": ["echo", "http_request"]}}
    assert submit(api, wide, dry_run=True, expect=200)["allowed_tools"] == ["echo"]


def test_an_address_that_does_not_exist_is_a_problem(api):
    assert api.get("/v1/nothing", expect=404)["code"] == "not-found"
    assert api.get("/v1/executions/not-a-uuid", expect=404)["code"] == "not-found"


def test_the_openapi_document_is_served_with_pages_that_need_no_network(client):
    schema = json.loads(client.get("/v1/schema?format=json").content)
    assert schema["openapi"].startswith("3.1")
    assert "/v1/execute" in schema["paths"]
    for page in ("/v1/docs", "/v1/redoc"):
        html = client.get(page).content.decode()
        assert "https://" not in html
