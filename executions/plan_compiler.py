"""The external Plan Compiler: an ExecutablePlan document by its hash.

    GET {PLAN_COMPILER_BASE_URL}/v1/plans/{plan_hash}
    200  the document, or an object with the document under `executable_plan` (as we answer the same call ourselves)
    404  not known there

1. One call, and a second at once where the connection broke or a gateway said 502, 503 or 504.
2. All of it ends within 10 seconds, and no answer is read beyond the size of our own largest request (bounded_http.py).
3. A process asks for ASKED_AT_ONCE plans at once, so that a slow compiler holds up only those who need it.
4. Nothing in the answer is believed: the document must have the hash that was asked for. None of it is quoted in an error.
"""

from __future__ import annotations

import logging
import math
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from django.conf import settings
from pydantic_core import from_json

from executions.bounded_http import (
    Answer,
    Broken,
    CannotUnpack,
    NotSendable,
    Session,
    TooLarge,
    TooSlow,
    context_headers,
)
from executions.canonical_json import DIGEST_PATTERN, doubled_name
from executions.errors import BadPlanCompilerAnswer, Unavailable
from executions.plan_document import PlanInvalid, canonical_hash

CONNECT_TIMEOUT = 3.0
WHOLE_CALL = 10.0
PAUSE = 0.2
RETRY_AFTER = 5
LONGEST_RETRY_AFTER = 300
ASKED_AT_ONCE = 2  # of the web process's 8 threads
LONGEST_QUEUE = 0.25  # seconds
PLACES = threading.BoundedSemaphore(ASKED_AT_ONCE)

log = logging.getLogger(__name__)


class _Passing(Unavailable):
    """A failure that a second try may not meet."""


def fetch(plan_hash: str, *, tenant: str) -> dict[str, Any] | None:
    """The document with this hash (64 lower-case hex digits), as decoded JSON; None where nobody is asked, or knows it.

    Raises Unavailable (with `retry_after`, in seconds) and BadPlanCompilerAnswer. Takes up to 10 seconds: call it outside
    of any transaction.
    """
    if not settings.PLAN_COMPILER_BASE_URL or not re.fullmatch(DIGEST_PATTERN, plan_hash):
        return None
    body = _ask(plan_hash, tenant=tenant)
    return None if body is None else _checked(_document(body), plan_hash)


def _ask(plan_hash: str, *, tenant: str) -> bytes | None:
    if not PLACES.acquire(timeout=LONGEST_QUEUE):
        raise _unavailable("is being asked for other plans", because=f"{ASKED_AT_ONCE} calls are under way")
    try:
        return _ask_twice(plan_hash, tenant=tenant)
    finally:
        PLACES.release()


def _ask_twice(plan_hash: str, *, tenant: str) -> bytes | None:
    deadline = time.monotonic() + WHOLE_CALL
    try:
        return _exchange(plan_hash, tenant=tenant, deadline=deadline)
    except _Passing:
        if time.monotonic() + PAUSE >= deadline:
            raise
    time.sleep(PAUSE)
    return _exchange(plan_hash, tenant=tenant, deadline=deadline)


def _exchange(plan_hash: str, *, tenant: str, deadline: float) -> bytes | None:
    """The body of the answer; None for a 404."""
    with (
        _typed_errors(),
        _session_of(os.getpid(), settings.PLAN_COMPILER_API_KEY).exchange(
            "GET",
            f"{settings.PLAN_COMPILER_BASE_URL}/v1/plans/{plan_hash}",
            deadline=deadline,
            connect_timeout=CONNECT_TIMEOUT,
            headers=context_headers(tenant=tenant),
        ) as answer,
    ):
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise _refusal(answer)
        return answer.body(at_most=settings.DATA_UPLOAD_MAX_MEMORY_SIZE)


@contextmanager
def _typed_errors() -> Iterator[None]:
    try:
        yield
    except TooSlow as failure:
        raise _unavailable("did not answer in time", because=str(failure)) from None
    except Broken as failure:
        raise _unavailable("cannot be reached", because=str(failure), kind=_Passing) from None
    except (TooLarge, CannotUnpack) as failure:
        raise _bad(f"it is {failure}") from None
    except NotSendable as failure:
        log.error("The Plan Compiler cannot be asked: check PLAN_COMPILER_BASE_URL and PLAN_COMPILER_API_KEY.")
        raise _unavailable("cannot be asked", because=str(failure)) from None


@lru_cache(maxsize=1)
def _session_of(pid: int, api_key: str) -> Session:
    """The session of this process: a fork and a changed key get a new one. Threads share it."""
    return Session(authorization=f"Bearer {api_key}" if api_key else "", pool_size=ASKED_AT_ONCE)


# -- what is made of an answer


def _refusal(answer: Answer) -> Exception:
    status, wait = answer.status, _seconds(answer)
    if status in (401, 403):
        log.error("The Plan Compiler refuses PLAN_COMPILER_API_KEY (HTTP %s): set the key it expects.", status)
        return _unavailable("does not accept this service", because=f"HTTP {status}", retry_after=wait)
    if status == 429 or status >= 500:
        kind = _Passing if status in (502, 503, 504) and "Retry-After" not in answer.headers else Unavailable
        return _unavailable("cannot answer now", because=f"HTTP {status}", retry_after=wait, kind=kind)
    return _bad(f"its status is {status}")


def _seconds(answer: Answer) -> int:
    """Whole seconds, 1 to 300: what Retry-After says, or 5."""
    said = answer.retry_after()
    return RETRY_AFTER if said is None else math.ceil(min(max(said, 1), LONGEST_RETRY_AFTER))


def _document(body: bytes) -> dict[str, Any]:
    try:
        answer = from_json(body, allow_inf_nan=False)
    except ValueError:
        raise _bad("it is not JSON") from None
    if doubled_name(body) is not None:
        raise _bad("an object in it has two members of the same name")
    document = answer.get("executable_plan", answer) if isinstance(answer, dict) else None
    if not isinstance(document, dict):
        raise _bad("it is no JSON object with a plan")
    return document


def _checked(document: dict[str, Any], plan_hash: str) -> dict[str, Any]:
    try:
        is_the_one = canonical_hash(document) == plan_hash and document.get("plan_hash", plan_hash) in (plan_hash, None)
    except PlanInvalid:
        raise _bad("its plan holds values that cannot be hashed or stored") from None
    if not is_the_one:
        raise _bad("its plan has another hash")
    return document


def _unavailable(
    what: str, *, because: str, retry_after: int = RETRY_AFTER, kind: type[Unavailable] = Unavailable
) -> Unavailable:
    log.warning("The Plan Compiler at %s %s: %s.", settings.PLAN_COMPILER_BASE_URL, what, because)
    sentence = f"The Plan Compiler {what}; try again in {retry_after} s, or send the whole plan instead of its hash."
    return kind(sentence, retry_after=retry_after)


def _bad(why: str) -> BadPlanCompilerAnswer:
    log.warning("The answer of the Plan Compiler at %s cannot be used: %s.", settings.PLAN_COMPILER_BASE_URL, why)
    return BadPlanCompilerAnswer(
        f"The Plan Compiler's answer cannot be used: {why}. Send the whole plan instead of its hash."
    )
