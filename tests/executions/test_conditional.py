"""Entity tags in `If-None-Match` and `If-Match`, as RFC 9110 writes them."""

from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from executions.api.conditional import etag_matches, if_match_versions
from executions.errors import InvalidRequest


@pytest.mark.parametrize(
    "header", ['"7"', 'W/"7"', "*", " * ", '"a", "7"', '"a,b" , W/"7"', ',"7",,', '"a"\t,\t"7"', '"é","7"']
)
def test_a_tag_is_found_in_a_list(header):
    assert etag_matches(header, '"7"')


@pytest.mark.parametrize(
    "header", [None, "", "7", '"77"', '"7', "'7'", '"a" "7"', '"7" x', 'w/"7"', '"*"', "**", '"7",*']
)
def test_a_tag_is_not_found_in_what_does_not_name_it(header):
    assert not etag_matches(header, '"7"')


def test_a_weak_tag_of_ours_is_compared_weakly_too():
    assert etag_matches('"7"', 'W/"7"')


@pytest.mark.parametrize(
    ("header", "versions"),
    [(None, None), ("*", None), ('"7"', {7}), ('"7", "8"', {7, 8}), (' "10" ', {10}), ('"7",,"7"', {7})],
)
def test_the_versions_a_command_is_meant_for_are_read(header, versions):
    assert if_match_versions(header) == versions


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("7", "quotes"), ("", "quotes"), ('"0"', "quotes"), ('"07"', "quotes"), ('"-1"', "quotes"), ('"٧"', "quotes"),
        ('W/"7"', "weak"), ('"7", W/"8"', "weak"), ('"7" "8"', "quotes"), ('"7", *', "quotes"), ('"' + "9" * 11 + '"', "quotes"),
        (", ".join(['"7"'] * 21), "quotes"),
    ],
)  # fmt: skip
def test_an_if_match_that_names_no_version_is_refused(header, words):
    with pytest.raises(InvalidRequest, match="If-Match: ") as refusal:
        if_match_versions(header)
    assert words in str(refusal.value)


@given(st.text())
@example('"' * 5000)
@example('"a"' + " ," * 50_000 + "x")
def test_whatever_a_header_says_is_read_or_refused(header):
    assert isinstance(etag_matches(header, '"7"'), bool)
    with suppress(InvalidRequest):
        if_match_versions(header)
