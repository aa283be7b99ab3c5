"""Reading a request body: strict JSON (RFC 8259), bounded in size and depth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

import pydantic_core
from django.conf import settings
from rest_framework.exceptions import APIException, ParseError
from rest_framework.parsers import BaseParser

from executions.canonical_json import doubled_name


class PayloadTooLarge(APIException):
    """The body is longer than the service accepts."""

    status_code = 413
    default_code = "payload_too_large"


class StrictJSONParser(BaseParser):
    """JSON that every reader reads alike, and that can be stored; anything else is a 400.

    No NaN, no name twice in an object (RFC 7493), no lone surrogates, no NUL characters, no nesting beyond reason.
    """

    media_type = "application/json"

    def parse(
        self, stream: IO[bytes], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        """Decode the body. Raises PayloadTooLarge or ParseError with the place of the error."""
        limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        raw = stream.read(limit + 1)
        if len(raw) > limit:
            raise PayloadTooLarge(f"The body is longer than {limit} bytes; send a smaller one.")
        try:
            data = pydantic_core.from_json(raw, allow_inf_nan=False)
        except ValueError as error:
            raise ParseError(f"The body is not valid JSON: {error}.") from None
        if (name := doubled_name(raw)) is not None:
            raise ParseError(
                f"The body has an object with two members of the name {name[:100]!r}; leave one of them out."
            )
        if b"\\u0000" in raw and _has_nul(data):
            raise ParseError("The body holds a NUL character (\\u0000), which cannot be stored.")
        return data


def _has_nul(data: Any) -> bool:
    if isinstance(data, str):
        return "\x00" in data
    if isinstance(data, dict):
        return any(_has_nul(key) or _has_nul(value) for key, value in data.items())
    return isinstance(data, list) and any(map(_has_nul, data))
