"""The external CapTokens service: does it stand by a token?

    POST {CAPTOKENS_BASE_URL}/v1/captokens/verify   {"token": "…", "required_capabilities": ["payments:refund"]}
    200  {"valid": true, "token_id": "…", "capabilities": ["payments:*"], "expires_at": "2026-03-01T12:05:00Z", "error": null}

1. One call, within 5 seconds, outside of any transaction. A process makes ASKED_AT_ONCE at once.
2. It fails closed: whatever is not such an answer is Unavailable, with seconds to wait.
3. Its yes can only narrow what the token says itself: the token's own claims are held against our rules before and after.
4. Neither the token nor anything of the answer is quoted or logged.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Any

from django.conf import settings
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from executions.bounded_http import Answer, ExchangeFailed, Session, context_headers
from executions.canonical_json import doubled_name
from executions.capabilities import CapabilityDenied, covers
from executions.errors import Unavailable

CONNECT_TIMEOUT = 3.0
WHOLE_CALL = 5.0
LARGEST = 65_536  # bytes
RETRY_AFTER = 5
LONGEST_RETRY_AFTER = 300
ASKED_AT_ONCE = 4  # of the web process's 8 threads
LONGEST_QUEUE = 0.25  # seconds
PLACES = threading.BoundedSemaphore(ASKED_AT_ONCE)

log = logging.getLogger(__name__)


class Verdict(BaseModel):
    """The service's CapabilityValidation; members we do not know are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    valid: bool
    token_id: str | None = None
    capabilities: list[str] = []
    expires_at: AwareDatetime | None = None


def confirmed(token: str, claims: Mapping[str, Any], *, tenant: str, required: Collection[str]) -> dict[str, Any]:
    """The claims as far as the service stands by them: no other capabilities, and no longer. They have passed our rules.

    Raises CapabilityDenied where it does not, and Unavailable where it cannot be asked or does not give a usable answer.
    """
    verdict = _ask(token, tenant=tenant, required=required)
    if not verdict.valid:
        raise CapabilityDenied("refused_by_service", "The CapTokens service does not accept this token.")
    if verdict.token_id != claims["jti"]:
        raise _unavailable("answered for another token")
    held = [one for one in verdict.capabilities if any(covers(mine, one) for mine in claims["cap"])]
    return {**claims, "cap": held, "exp": _earlier(claims["exp"], verdict.expires_at)}


def _earlier(exp: float, expires_at: datetime | None) -> float:
    return exp if expires_at is None else min(exp, math.floor(expires_at.timestamp()))


def _ask(token: str, *, tenant: str, required: Collection[str]) -> Verdict:
    if not PLACES.acquire(timeout=LONGEST_QUEUE):
        raise _unavailable(f"is being asked about {ASKED_AT_ONCE} other tokens")
    try:
        return _exchange(token, tenant=tenant, required=required)
    finally:
        PLACES.release()


def _exchange(token: str, *, tenant: str, required: Collection[str]) -> Verdict:
    with (
        _typed_errors(),
        _session_of(os.getpid(), settings.CAPTOKENS_API_KEY).exchange(
            "POST",
            f"{settings.CAPTOKENS_BASE_URL}/v1/captokens/verify",
            deadline=time.monotonic() + WHOLE_CALL,
            connect_timeout=CONNECT_TIMEOUT,
            headers=context_headers(tenant=tenant),
            json={"token": token, "required_capabilities": sorted(set(required))},
        ) as answer,
    ):
        if answer.status != 200:
            raise _refusal(answer)
        body = answer.body(at_most=LARGEST)
    return _verdict(body)


@contextmanager
def _typed_errors() -> Iterator[None]:
    try:
        yield
    except ExchangeFailed as failure:
        raise _unavailable(f"cannot be asked ({failure})") from None


@lru_cache(maxsize=1)
def _session_of(pid: int, api_key: str) -> Session:
    """The session of this process: a fork and a changed key get a new one. Threads share it."""
    return Session(authorization=f"Bearer {api_key}" if api_key else "", pool_size=ASKED_AT_ONCE)


def _verdict(body: bytes) -> Verdict:
    try:
        verdict = Verdict.model_validate_json(body, strict=True)
    except ValidationError:
        raise _unavailable("gave an answer that cannot be used") from None
    if doubled_name(body) is not None:
        raise _unavailable("gave an answer in which a name comes twice")
    return verdict


def _refusal(answer: Answer) -> Unavailable:
    said = answer.retry_after()
    wait = RETRY_AFTER if said is None else math.ceil(min(max(said, 1), LONGEST_RETRY_AFTER))
    if answer.status in (401, 403):
        log.error("The CapTokens service refuses CAPTOKENS_API_KEY (HTTP %s): set the key it expects.", answer.status)
    return _unavailable(f"answers HTTP {answer.status}", retry_after=wait)


def _unavailable(what: str, *, retry_after: int = RETRY_AFTER) -> Unavailable:
    log.warning("The CapTokens service at %s %s.", settings.CAPTOKENS_BASE_URL, what)
    sentence = f"The CapTokens service cannot vouch for the capability token now; try again in {retry_after} s."
    return Unavailable(sentence, retry_after=retry_after)
