"""Answers are held to the schema of their question, whoever wrote that schema."""

import time

import pytest
from pytest_httpserver import HTTPServer

from approvals_bridge import answers
from approvals_bridge.models import Clarification
from executions.errors import InvalidRequest
from tests.conftest import personal_api
from tests.factories.models import ClarificationFactory, RunFactory


def asked_with(schema, **fields):
    return Clarification(category="Input", data={"schema": schema}, **fields)


def refusal(schema, value):
    with pytest.raises(InvalidRequest) as refused:
        answers.check(asked_with(schema), value)
    (error,) = refused.value.errors
    return error["pointer"], error["detail"]


def test_an_answer_that_fits_is_what_was_given():
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "additionalProperties": False}
    assert answers.check(asked_with(schema), {"n": 3}) == {"n": 3}
    assert answers.check(asked_with({}), "anything") == "anything"


def test_a_refusal_points_at_the_part_that_does_not_fit():
    schema = {"properties": {"a/b": {"items": {"type": "integer"}}}}
    assert refusal(schema, {"a/b": [1, "x"]}) == ("/value/a~1b/1", "'x' is not of type 'integer'")


def test_a_refusal_stays_short():
    assert len(refusal({"type": "integer"}, "x" * 10_000)[1]) == answers.LONGEST_MESSAGE


@pytest.mark.parametrize(
    "schema",
    [{"type": 5}, {"pattern": "("}, {"$ref": "#/nope"}, {"$ref": "#"}, {"minLength": "3"}, {"properties": None},
     {"properties": {"a": {"required": 5}}}, {"type": "string", "maxLength": -1}, ["no schema"]],
)  # fmt: skip
def test_a_schema_that_is_none_refuses_the_value_and_says_so(schema):
    pointer, detail = refusal(schema, "abc")
    assert (pointer, "schema of this question" in detail) == ("/value", True)


def test_a_schema_elsewhere_is_not_fetched(httpserver: HTTPServer):
    for reference in (httpserver.url_for("/internal"), "file:///etc/hostname"):
        assert refusal({"$ref": reference}, 5)[0] == "/value"
    assert httpserver.log == []


def test_a_pattern_cannot_hold_the_decision_up():
    began = time.thread_time()
    assert "does not match" in refusal({"pattern": "^(a+)+$"}, "a" * 5_000 + "!")[1]
    assert time.thread_time() - began < 0.5


@pytest.mark.django_db(transaction=True)
def test_over_http_an_unusable_schema_is_a_bad_request(acme, bob):
    asked = ClarificationFactory(typed_input=True, run=RunFactory(status="paused", tenant=acme))
    Clarification.objects.filter(pk=asked.pk).update(data={"schema": {"$ref": "#"}})
    problem = personal_api(bob, acme).post(f"/v1/approvals/{asked.pk}/answer", {"value": 5}, expect=400)
    assert problem["errors"][0]["pointer"] == "/value"
    assert Clarification.objects.get().status == "pending"
