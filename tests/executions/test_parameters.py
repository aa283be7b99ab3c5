"""Query parameters: who reads them, how often they may be given, what a text may be."""

import re

import pytest
from rest_framework.request import Request
from rest_framework.test import APIRequestFactory

from executions.api.parameters import check_parameters, check_text, text_schema
from executions.errors import InvalidRequest


def asking(query):
    return Request(APIRequestFactory().get(f"/v1/executions?{query}"))


@pytest.mark.parametrize("query", ["", "limit=1", "limit=", "label=a&label=b&limit=1"])
def test_known_parameters_pass_as_often_as_they_may_be_given(query):
    check_parameters(asking(query), ["limit", "label"], may_repeat=["label"])


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("limti=1", "limti: there is no such parameter; known are label, limit."),
        ("limit=1&limit=2&zoo=&limti=1", "limti: there is no such parameter; known are label, limit."),
        ("limit=1&limit=1", "limit: give it once."),
        ("label=a&label=b&limit=1&limit=2", "limit: give it once."),
    ],
)
def test_a_parameter_that_is_unknown_or_given_twice_is_named(query, says):
    with pytest.raises(InvalidRequest, match=f"^{re.escape(says)}$"):
        check_parameters(asking(query), (name for name in ("limit", "label")), may_repeat=["label"])


def test_where_none_are_known_the_refusal_says_so():
    with pytest.raises(InvalidRequest, match="limit: there is no such parameter; this takes none"):
        check_parameters(asking("limit=1"), ())


@pytest.mark.parametrize(
    ("text", "passes"),
    [("a", True), ("é" * 5, True), ("a\nb", True), ("a\n", True), ("", False), ("a" * 6, False), ("a\x00", False)],
)
def test_a_text_is_refused_exactly_where_its_schema_says(text, passes):
    schema = text_schema(5)
    fits = schema["minLength"] <= len(text) <= schema["maxLength"] and re.search(schema["pattern"], text)
    assert bool(fits) is passes
    if passes:
        check_text("principal", text, longest=5)
    else:
        with pytest.raises(InvalidRequest, match="principal: 1 to 5 characters, none of them NUL"):
            check_text("principal", text, longest=5)
