"""Conditional requests (RFC 9110, section 13): answer a GET with 304 where the caller has it already, and read `If-Match`.

`If-None-Match` compares weakly: `W/"a"` and `"a"` are the same. `If-Match` compares strongly, so that it takes no weak tag.
"""

from __future__ import annotations

import re

from django.http import HttpResponse, HttpResponseBase
from rest_framework.request import Request

from executions.errors import InvalidRequest

ENTITY_TAG = r'"[\x21\x23-\x7e\x80-\xff]*"'
LIST_OF_TAGS = re.compile(rf"[ \t,]*(?:W/)?{ENTITY_TAG}(?:[ \t]*,[ \t,]*(?:W/)?{ENTITY_TAG})*[ \t,]*")
ONE_VERSION = re.compile(r'"([1-9][0-9]{0,9})"')
VERSIONS_ACCEPTED = 20  # in one If-Match
VERSIONS_PATTERN = rf"^(\*|{ONE_VERSION.pattern}([ \t]*,[ \t]*{ONE_VERSION.pattern}){{0,{VERSIONS_ACCEPTED - 1}}})$"


def conditional(request: Request, response: HttpResponseBase, etag: str) -> HttpResponseBase:
    """Give a 200 answer its entity tag, quotes included; return a 304 without a body where the caller has that already."""
    if response.status_code != 200 or request.method not in ("GET", "HEAD"):
        return response
    response["ETag"] = etag
    response["Cache-Control"] = "private, no-cache"
    if not etag_matches(request.headers.get("If-None-Match"), etag):
        return response
    not_modified = HttpResponse(status=304)
    for name, value in response.items():
        not_modified[name] = value
    for name in ("Content-Type", "Content-Length"):
        del not_modified[name]
    not_modified.cookies = response.cookies
    return not_modified


def etag_matches(header: str | None, etag: str) -> bool:
    """Whether `If-None-Match` names this entity tag. A header that is no list of tags names none: the answer is sent."""
    if header is None:
        return False
    if header.strip(" \t") == "*":
        return True
    if LIST_OF_TAGS.fullmatch(header) is None:
        return False
    return etag.removeprefix("W/") in re.findall(ENTITY_TAG, header)


def if_match_versions(header: str | None) -> frozenset[int] | None:
    """Return the versions of an object a command is meant for: those of `If-Match: "7"` or `"7", "8"`; None is any.

    None comes back where there is no such header, and for `*`. Raises InvalidRequest for everything else.
    """
    if header is None or header.strip(" \t") == "*":
        return None
    tags = [tag for tag in (part.strip(" \t") for part in header.split(",")) if tag]
    versions = [ONE_VERSION.fullmatch(tag) for tag in tags]
    if not tags or len(tags) > VERSIONS_ACCEPTED or None in versions:
        raise InvalidRequest(f"If-Match: {_what_is_wrong(tags)}")
    return frozenset(int(version[1]) for version in versions if version)


def _what_is_wrong(tags: list[str]) -> str:
    if any(tag.startswith("W/") for tag in tags):
        return 'a weak tag cannot be matched; send the version in quotes, as in "7".'
    return f'send the version you saw, in quotes, as in "7", or {VERSIONS_ACCEPTED} of them at most; or * for any.'
