"""Everything that comes in has a bound; what is beyond it is refused at its place, and refusing it costs little."""

from __future__ import annotations

import json
import resource
from typing import Any

import pytest

from executions.bounds import excess
from executions.models import Run
from executions.plan_document import PlanInvalid, parse
from tests.conftest import personal_api
from tests.factories.documents import action, flow, plan, step
from tests.factories.models import ClarificationFactory

Document = dict[str, Any]


def deep(levels: int) -> Any:
    """Lists in each other."""
    return json.loads("[" * levels + "]" * levels)


def short(value: Any) -> str:
    """A parameter as part of a test's name."""
    return str(value)[:40]


def many(count: int, value: Any = 1) -> dict[str, Any]:
    """An object with so many names."""
    return {f"name{number}": value for number in range(count)}


# -- what comes in beside a plan


@pytest.mark.parametrize(
    ("fields", "pointer", "code"),
    [
        ({"parameters": many(1001)}, "/parameters", "too_many"),
        ({"parameters": {"": 1}}, "/parameters", "invalid_name"),
        ({"parameters": {"n" * 129: 1}}, "/parameters", "invalid_name"),
        ({"parameters": {"a": {"b": {"n" * 257: 1}}}}, "/parameters/a/b", "name_too_long"),
        ({"parameters": {"a": deep(64)}}, "/parameters/a" + "/0" * 63, "too_deep"),
        ({"parameters": {"a": [1, 2**53]}}, "/parameters/a/1", "number_too_large"),
        ({"variables": many(1001)}, "/variables", "too_many"),
        ({"variables": {"n" * 129: 1}}, "/variables", "invalid_name"),
        ({"variables": {"a": deep(64)}}, "/variables/a" + "/0" * 63, "too_deep"),
        ({"hooks": ["h"] * 21}, "/hooks", "max_length"),
        ({"hooks": [[]] * 100_000}, "/hooks", "max_length"),
        ({"hooks": ["h" * 129]}, "/hooks/0", "max_length"),
        ({"retry_policy": {"max_attempts": 101}}, "/retry_policy/max_attempts", "max_value"),
        ({"retry_policy": {"initial_delay": 3601}}, "/retry_policy/initial_delay", "max_value"),
        ({"retry_policy": {"max_delay": 86_401}}, "/retry_policy/max_delay", "max_value"),
        ({"retry_policy": {"exponential_base": 11}}, "/retry_policy/exponential_base", "max_value"),
        ({"retry_policy": many(101)}, "/retry_policy", "too_many"),
        ({"timeout": 31_536_001}, "/timeout", "max_value"),
        ({"triggered_by": "t" * 129}, "/triggered_by", "max_length"),
        ({"correlation_id": "c" * 129}, "/correlation_id", "invalid"),
        ({"request_id": "r" * 129}, "/request_id", "max_length"),
        ({"timestamp": "t" * 65}, "/timestamp", "max_length"),
        ({"plan_hash": "0" * 65}, "/plan_hash", "invalid"),
        ({"capability_token": "t" * 8193}, "/capability_token", "max_length"),
        ({"labels": many(51, "x")}, "/labels", "too_many"),
        ({"labels": {"n" * 64: "x"}}, "/labels/" + "n" * 64, "invalid_name"),
        ({"labels": {"n": "x" * 256}}, "/labels/n", "invalid_value"),
        (many(101), "", "too_many"),
    ],
    ids=short,
)  # fmt: skip
def test_a_submission_beyond_a_bound_is_refused_at_its_place(api, fields, pointer, code):
    problem = api.post("/v1/execute", {"executable_plan": plan()} | fields, expect=422)
    assert [(one["pointer"], one["code"]) for one in problem["errors"]] == [(pointer, code)]
    assert not Run.objects.exists()


@pytest.mark.parametrize("deduplicate", [True, False])
def test_a_submission_at_the_bounds_is_stored_as_it_came(api, deduplicate):
    at_most = {
        "parameters": many(999) | {"n" * 128: deep(63)},
        "variables": many(999) | {"n" * 128: {"i" * 256: 2**53 - 1}},
        "triggered_by": "t" * 128,
        "correlation_id": "c" * 128,
    }
    body = {"executable_plan": plan(), "deduplicate": deduplicate} | at_most
    run = Run.objects.get(pk=api.post("/v1/execute", body, expect=202)["run_id"])
    assert {name: getattr(run, name) for name in at_most} == at_most


@pytest.mark.parametrize(
    ("fields", "pointer", "code"),
    [
        ({"reason": "r" * 4001, "value": 1}, "/reason", "max_length"),
        ({"value": deep(65)}, "/value" + "/0" * 64, "too_deep"),
        ({"value": {"n" * 257: 1}}, "/value", "name_too_long"),
        ({"value": 1, "action_digest": "0" * 65}, "/action_digest", "invalid"),
    ],
)
def test_an_answer_beyond_a_bound_is_refused_at_its_place(bob, acme, fields, pointer, code):
    question = ClarificationFactory(run__tenant=acme, typed_input=True)
    problem = personal_api(bob, acme).post(f"/v1/approvals/{question.pk}/answer", fields, expect=422)
    assert [(one["pointer"], one["code"]) for one in problem["errors"]] == [(pointer, code)]


def test_the_reason_of_a_release_is_bounded(api):
    problem = api.post("/v1/idempotency-keys/k/release", {"reason": "r" * 501}, expect=422)
    assert problem["errors"][0]["pointer"] == "/reason"


@pytest.mark.parametrize(
    ("address", "headers", "status", "names"),
    [
        ("/v1/executions?cursor=" + "c" * 8192, {}, 400, "query string"),
        ("/v1/executions?limit=201", {}, 400, "limit"),
        ("/v1/executions?triggered_by=" + "t" * 129, {}, 400, "triggered_by"),
        ("/v1/executions?correlation_id=" + "c" * 129, {}, 400, "correlation_id"),
        ("/v1/executions?label=" + "n" * 64, {}, 400, "label"),
        ("/v1/plans/" + "0" * 65, {}, 404, "plan_hash"),
        ("/v1/idempotency-keys/" + "k" * 256, {}, 404, "key"),
        ("/v1/executions", {"X-Anything": "x" * 8193}, 400, "X-Anything"),
        ("/v1/executions", {"If-None-Match": '"' + "x" * 8192 + '"'}, 400, "If-None-Match"),
    ],
    ids=short,
)
def test_an_address_or_a_header_beyond_a_bound_is_refused_by_name(api, address, headers, status, names):
    assert names in api.get(address, expect=status, **headers)["detail"]


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("Idempotency-Key", "k" * 256, 400),
        ("X-Capability-Token", "t" * 8193, 400),
        ("Prefer", "wait=" + "9" * 9000, 400),
    ],
    ids=short,
)
def test_a_header_of_a_submission_beyond_a_bound_is_refused_by_name(api, header, value, status):
    body = {"executable_plan": plan()}
    assert header in api.post("/v1/execute", body, expect=status, **{header: value})["detail"]


def test_a_correlation_id_beyond_its_bound_is_replaced(api):
    response = api.client.get("/v1/executions", headers={"X-Correlation-ID": "c" * 129})
    assert (response.status_code, len(response["X-Correlation-ID"])) == (200, 32)


def test_a_body_too_long_or_nested_without_end_is_refused_before_it_is_read(api, settings):
    too_long = b" " * (settings.DATA_UPLOAD_MAX_MEMORY_SIZE + 1)
    assert str(settings.DATA_UPLOAD_MAX_MEMORY_SIZE) in api.post("/v1/execute", raw=too_long, expect=413)["detail"]
    assert api.post("/v1/execute", raw=b"[" * 1000 + b"]" * 1000, expect=400)["code"] == "parse-error"


def test_of_very_many_errors_the_first_are_told(api):
    api.post("/v1/execute", {"executable_plan": plan(), "labels": dict.fromkeys(map(str, range(50)), 1)}, expect=422)
    body = {"executable_plan": plan(action("a", parameters={"x": ["{{b.c}}"] * 2000}))}
    assert len(api.post("/v1/execute", body, expect=422)["errors"]) == 501


# -- a plan


@pytest.mark.parametrize(
    ("document", "pointer", "code"),
    [
        (plan(name="n" * 257), "/name", "too_long"),
        (plan(plan_id="n" * 257), "/plan_id", "too_long"),
        (plan(version="v" * 65), "/version", "too_long"),
        (plan(description="d" * 10_001), "/description", "too_long"),
        (plan(main_flow="f" * 257), "/main_flow", "too_long"),
        (plan(variables=many(1001)), "/variables", "too_long"),
        (plan(variables={"n" * 129: 1}), "/variables", "invalid_name"),
        (plan(metadata=many(1001)), "/metadata", "too_long"),
        (plan(metadata={"a": deep(95)}), "/metadata/a" + "/0" * 94, "too_deep"),
        (plan(metadata={"a": {"n" * 257: 1}}), "/metadata/a", "name_too_long"),
        (plan(configuration=many(1001)), "/configuration", "too_long"),
        (plan(**many(1001)), "", "too_long"),
        (plan(resource_requirements={"cpu": "1" * 65}), "/resource_requirements/cpu", "too_long"),
        (plan(resource_requirements={"runtime": "r" * 257}), "/resource_requirements/runtime", "too_long"),
        (plan(security_context={"approval_rules": ["r"] * 1001}), "/security_context/approval_rules", "too_long"),
        (plan(security_context={"allowed_tools": ["t" * 257]}), "/security_context/allowed_tools/0", "too_long"),
        (plan(more_flows=tuple(flow(action("a"), flow_id=f"f{n}") for n in range(500))), "/flows", "too_long"),
    ],
)
def test_a_plan_beyond_a_bound_is_refused_at_its_place(document, pointer, code):
    assert (pointer, code) in errors_of(document)


def errors_of(document: Document) -> list[tuple[str, str]]:
    with pytest.raises(PlanInvalid) as refused:
        parse(document)
    return [(error.pointer, error.code) for error in refused.value.errors]


@pytest.mark.parametrize(
    ("one", "below", "code"),
    [
        (action("a" * 65), "step_id", "invalid_id"),
        (action("a" * 257), "step_id", "too_long"),
        (action("a", tool="t" * 257), "tool", "too_long"),
        (action("a", action="v" * 257), "action", "too_long"),
        (action("a", name="n" * 257), "name", "too_long"),
        (action("a", description="d" * 10_001), "description", "too_long"),
        (action("a", step_type="t" * 257), "step_type", "too_long"),
        (action("a", parameters=many(1001)), "parameters", "too_long"),
        (action("a", parameters={"n" * 129: 1}), "parameters", "invalid_name"),
        (action("a", inputs=many(1001, "x")), "inputs", "too_long"),
        (action("a", inputs={"n" * 129: "x"}), "inputs", "invalid_name"),
        (action("a", inputs={"n": "x" * 10_001}), "inputs/n", "too_long"),
        (action("a", outputs=many(1001, "x")), "outputs", "too_long"),
        (action("a", outputs={"": "x"}), "outputs", "invalid_name"),
        (action("a", outputs={"n": "x" * 10_001}), "outputs/n", "too_long"),
        (action("a", depends_on=["b"] * 5001), "depends_on", "too_long"),
        (action("a", depends_on=["b" * 257]), "depends_on/0", "too_long"),
        (action("a", conditions=["true"] * 51), "conditions", "too_long"),
        (action("a", conditions=["true || " * 300 + "true"]), "conditions/0", "expression_too_long"),
        (action("a", tags=["t"] * 1001), "tags", "too_long"),
        (action("a", tags=["t" * 257]), "tags/0", "too_long"),
        (action("a", metadata=many(1001)), "metadata", "too_long"),
        (action("a", timeout=31_536_001), "timeout", "out_of_range"),
        (action("a", retry_policy={"max_attempts": 101}), "retry_policy/max_attempts", "out_of_range"),
        (action("a", retry_policy={"max_delay": 86_401}), "retry_policy/max_delay", "out_of_range"),
        (action("a", approval={"required_approvers": ["p"] * 1001}), "approval/required_approvers", "too_long"),
        (action("a", approval={"message": "m" * 10_001}), "approval/message", "too_long"),
        (step("a", "sequence", steps=[action("b")] * 5001), "parameters/steps", "too_long"),
        (step("a", "sequence", flow="f" * 257), "parameters/flow", "too_long"),
        (step("a", "loop", tool="echo", over=[1] * 100_001), "parameters/over", "too_long"),
        (step("a", "loop", tool="echo", over="o" * 10_001), "parameters/over", "too_long"),
        (step("a", "loop", tool="echo", times=100_001), "parameters/times", "out_of_range"),
        (step("a", "loop", tool="echo", times=1, max_iterations=100_001), "parameters/max_iterations", "out_of_range"),
        (step("a", "loop", tool="echo", times=1, item="i" * 65), "parameters/item", "too_long"),
        (step("a", "loop", tool="echo", times=1, arguments=many(1001)), "parameters/arguments", "too_long"),
        (step("a", "condition", expression="true", then=["b"] * 5001), "parameters/then", "too_long"),
        (step("a", "condition", expression="true", then=["b" * 257]), "parameters/then/0", "too_long"),
        (step("a", "condition", expression="true || " * 300 + "true"), "parameters/expression", "expression_too_long"),
        (step("a", "user_input", message="m" * 10_001), "parameters/message", "too_long"),
        (step("a", "user_input", message="m", options=[1] * 201), "parameters/options", "too_long"),
        (step("a", "exit", message="m" * 10_001), "parameters/message", "too_long"),
        (step("a", "exit", error="e" * 10_001), "parameters/error", "too_long"),
    ],
)  # fmt: skip
def test_a_step_beyond_a_bound_is_refused_at_its_place(one, below, code):
    assert (f"/flows/0/steps/0/{below}", code) in errors_of(plan(one))


def test_steps_are_counted_wherever_they_are_written():
    nested = step("a", "condition", expression="true", then=[1] * 4000, else_=[step("b", "sequence", steps=[1] * 4000)])
    assert errors_of(plan(nested, more_flows=(flow(*[1] * 4000, flow_id="f"),))) == [("/flows", "too_many_steps")]


def test_a_plan_at_its_deepest_can_be_submitted(api):
    inner: Document = action("deepest", parameters={"value": deep(62)})
    for level in range(7):
        inner = step(f"level_{level}", "sequence", steps=[inner])
    api.post("/v1/execute", {"executable_plan": plan(inner), "deduplicate": True}, expect=202)
    api.post("/v1/execute", {"executable_plan": plan(metadata={"a": deep(94)})}, expect=202)


HOSTILE = {
    "long ids": lambda: plan(*(action("x" * 8000 + str(n), depends_on=["b"] * 1000) for n in range(15))),
    "wrong steps": lambda: plan(step("a", "condition", expression="true", then=[1] * 150_000)),
    "wrong lists": lambda: plan(*(action(f"a{n}", depends_on=[1] * 4900) for n in range(120))),
    "unknown steps": lambda: plan(*(action(f"a{n}", depends_on=["b"] * 4900) for n in range(76))),
    "rolled back twice": lambda: plan(action("a"), action("b"), flow_fields={"rollback_steps": ["a"] * 380_000}),
    "unknown fields": lambda: plan(*(action(f"a{n}") | many(900) for n in range(150))),
    "bad numbers": lambda: plan(action("a", parameters={"x": [1e20] * 300_000})),
    "names around errors": lambda: plan(action("a", parameters={"x": {"n" * 500_000: ["{{b.c}}"] * 5000}})),
    "templates": lambda: plan(action("a", parameters={"x": "{{b.c}} " * 200_000})),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_plan_is_refused_without_taking_all_memory_or_answering_with_a_flood(kind):
    document = HOSTILE[kind]()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PlanInvalid) as refused:
        parse(document)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB; one of these took gigabytes
    assert sum(len(error.pointer) + len(error.message) for error in refused.value.errors) < 5_000_000


# -- values


def test_a_value_at_its_bounds_is_within_them():
    assert excess(deep(64)) is excess({"n" * 256: 1}) is excess("text") is excess(None) is None


def test_the_first_thing_beyond_its_bounds_is_named_with_its_place():
    assert excess([1, {"a": deep(63)}])[:2] == ((1, "a", *[0] * 62), "too_deep")
    assert excess({"a": [{}, {"b": {"n" * 257: 1}}]})[:2] == (("a", 1, "b"), "name_too_long")


# -- the OpenAPI document


def test_every_text_list_and_object_of_a_request_body_has_a_published_bound(client):
    document = client.get("/v1/schema", headers={"accept": "application/vnd.oai.openapi+json"}).json()
    bodies = {
        f"{method} {path}": operation["requestBody"]["content"]["application/json"]["schema"]
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if "requestBody" in operation
    }
    assert len(bodies) > 5
    unbounded = [place for name, schema in bodies.items() for place in _unbounded(document, name, schema)]
    assert unbounded == []


def _unbounded(document: Document, place: str, schema: Document, seen: frozenset[str] = frozenset()) -> list[str]:
    while "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name in seen:
            return []
        schema, seen = document["components"]["schemas"][name], seen | {name}
    found = [place for kind, bounds in BOUNDS.items() if kind in _types(schema) and not bounds & schema.keys()]
    if "object" in _types(schema) and schema.get("additionalProperties") and "maxProperties" not in schema:
        found.append(place)
    inner = {f"{place}/{name}": one for name, one in schema.get("properties", {}).items()}
    inner |= {f"{place}[]": schema["items"]} if "items" in schema else {}
    choices = [(place, one) for word in ("oneOf", "anyOf", "allOf") for one in schema.get(word, [])]
    choices += [(place, one["then"]) for place, one in choices if "then" in one]
    below = [_unbounded(document, name, one, seen) for name, one in [*inner.items(), *choices]]
    return found + [deeper for one in below for deeper in one]


def test_a_query_has_a_thousand_parameters_at_most(api):
    assert "1000" in api.get("/v1/executions?" + "&".join(["a"] * 2000), expect=400)["detail"]


BOUNDS = {
    "string": {"maxLength", "pattern", "enum", "format"},
    "array": {"maxItems"},
    "integer": {"maximum"},
}


def _types(schema: Document) -> list[str]:
    kind = schema.get("type", [])
    return kind if isinstance(kind, list) else [kind]
