"""What a caller would like, in the `Prefer` header (RFC 7240): `wait=N`, seconds it would rather wait than ask again."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request

from executions.waiting import LONGEST_WAIT, place

WAIT = re.compile(r'(?:^|[,\s])wait\s*=\s*(?:"(\d{1,6})"|(\d{1,6}))\s*(?=$|[;,])', re.IGNORECASE)

PREFER = OpenApiParameter(
    "Prefer",
    {"type": "string", "examples": ["wait=10"]},
    OpenApiParameter.HEADER,
    description=(
        f"`wait=N` (RFC 7240): wait up to N seconds, {LONGEST_WAIT} at most. `Preference-Applied` in the answer says how long "
        "it would have waited; without that header every place to wait was taken, and the answer came at once."
    ),
)


def seconds_to_wait(request: Request) -> int | None:
    """The seconds of `Prefer: wait=N`, None where there is none; what cannot be read is ignored, as RFC 7240 says."""
    match = WAIT.search(request.headers.get("Prefer", ""))
    return min(int(match[1] or match[2]), LONGEST_WAIT) if match else None


@contextmanager
def waiting(
    request: Request, *, otherwise: float = 0.0, began: float | None = None
) -> Iterator[tuple[float, dict[str, str]]]:
    """Give the seconds this request may still wait, and the headers that say so.

    `otherwise`: seconds when it has no preference; `began`: since when it waits already (monotonic clock).
    """
    asked = seconds_to_wait(request)
    spent = time.monotonic() - began if began is not None else 0.0
    with place(seconds=(otherwise if asked is None else asked) - spent) as seconds:
        yield seconds, {"Preference-Applied": f"wait={asked}"} if asked is not None and seconds else {}
