"""One HTTP exchange with the Portia Runtime: the only module that speaks HTTP towards it.

What goes wrong is a PortiaError of errors.py. Each call

1. is tried at most `CallRetry.tries` times, and only after failures that a repeat may cure: every call of the contract
   is safe to repeat (GETs; plans by content; runs by key; pause, resume, cancel and respond are idempotent);
2. ends within connect_timeout + read_timeout seconds, pauses and repeats included, so that a job can rely on it (what
   bounded_http.py excepts is all it excepts);
3. carries the tenant, the correlation id and the traceparent of what is being done right now.
"""

from __future__ import annotations

import itertools
import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from pydantic_core import from_json

from executions.bounded_http import Answer, ExchangeFailed, NotSendable, Session, TooLarge, TooSlow, context_headers
from executions.portia.errors import (
    BadPortiaAnswer,
    IdempotencyInProgress,
    PortiaError,
    PortiaTimeout,
    PortiaUnavailable,
    PortiaUnreachable,
    error_class,
)
from executions.portia.wire import JSON

API = "/api/v1"
LARGEST_ANSWER = 20_000_000
POOL_SIZE = 32
CURED_BY_REPEAT = (PortiaUnreachable, PortiaUnavailable, IdempotencyInProgress)
# PostgreSQL's jsonb refuses NUL: an escaped one (behind an even number of backslashes) becomes U+FFFD.
ESCAPED_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")


@dataclass(frozen=True, kw_only=True)
class CallRetry:
    """How often one call is tried and how long it pauses in between, in seconds.

    Few and short: the callers are jobs that come back by themselves.
    """

    tries: int = 3
    first_pause: float = 0.2
    longest_pause: float = 3.0

    def pause(self, *, error: PortiaError, tried: int) -> float | None:
        """Seconds until the next try: exponential with full jitter, or what Retry-After says; None to give up."""
        if tried >= self.tries or (error.retry_after or 0) > self.longest_pause:
            return None
        if error.retry_after is not None:
            return error.retry_after + random.uniform(0, self.first_pause)  # noqa: S311  not a secret
        return random.uniform(0, min(self.longest_pause, self.first_pause * 2 ** (tried - 1)))  # noqa: S311


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of the contract; `path` below /api/v1, `read_timeout` in seconds where it differs from the usual one."""

    method: str
    path: str
    tenant: str = ""
    params: dict[str, str] = field(default_factory=dict)
    body: JSON | None = None
    idempotency_key: str = ""
    read_timeout: float | None = None

    def headers(self) -> dict[str, str]:
        """The headers that differ from call to call."""
        context = context_headers(tenant=self.tenant)
        named = {"Idempotency-Key": self.idempotency_key, "X-Request-ID": context.get("X-Correlation-ID")}
        return context | {name: value for name, value in named.items() if value}


class Connection:
    """A pooled session to one runtime; safe to share between threads, not across a fork."""

    def __init__(
        self, *, base_url: str, api_key: str, connect_timeout: float, read_timeout: float, retry: CallRetry
    ) -> None:
        self.base_url = _checked_url(base_url)
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self._retry = retry
        self._session = Session(authorization=f"Api-Key {_checked_key(api_key)}", pool_size=POOL_SIZE)

    def call(self, call: Call) -> JSON:
        """The JSON object the runtime answers, after repeats where they may help."""
        deadline, sent = self._deadline(call), False
        for tried in itertools.count(1):
            try:
                return self._exchange(call, deadline=deadline)
            except CURED_BY_REPEAT as error:
                sent = error.sent = sent or error.sent
                pause = self._retry.pause(error=error, tried=tried)
                if pause is None or time.monotonic() + pause >= deadline:
                    raise
            time.sleep(pause)
        raise AssertionError("count() does not end")

    def call_once(self, call: Call) -> JSON:
        """The JSON object the runtime answers, or the first failure."""
        return self._exchange(call, deadline=self._deadline(call))

    def _deadline(self, call: Call) -> float:
        return time.monotonic() + self._connect_timeout + (call.read_timeout or self._read_timeout)

    def _exchange(self, call: Call, *, deadline: float) -> JSON:
        with (
            self._typed_errors(),
            self._session.exchange(
                call.method,
                f"{self.base_url}{API}{call.path}",
                deadline=deadline,
                connect_timeout=self._connect_timeout,
                read_timeout=call.read_timeout or self._read_timeout,
                headers=call.headers(),
                params=call.params,
                json=call.body,
            ) as answer,
        ):
            return _understood(answer)

    @contextmanager
    def _typed_errors(self) -> Iterator[None]:
        where = f"The Portia Runtime at {self.base_url}"
        try:
            yield
        except NotSendable as failure:
            raise PortiaError(f"The request to {self.base_url} cannot be made: {failure}.") from None
        except ExchangeFailed as failure:
            if not failure.sent:
                raise PortiaUnreachable.before_sending(f"{where} cannot be reached: {failure}.") from None
            if isinstance(failure, TooSlow):
                raise PortiaTimeout(f"{where} did not answer in time: {failure}.") from None
            raise PortiaUnreachable(f"{where} cannot be reached: {failure}.") from None


def _checked_url(base_url: str) -> str:
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ValueError("PORTIA_BASE_URL: give http(s)://host[:port] without user, password and query")
    return base_url.rstrip("/")


def _checked_key(api_key: str) -> str:
    if not re.fullmatch(r"[\x21-\x7e]+", api_key):
        raise ValueError("PORTIA_API_KEY: give printable ASCII characters without spaces")
    return api_key


def _understood(answer: Answer) -> JSON:
    status = answer.status
    if 300 <= status < 400:
        raise BadPortiaAnswer("The answer is a redirect: set PORTIA_BASE_URL to where it leads.", status=status)
    data = _json_object(answer)
    if status >= 400:
        raise _problem(answer, data)
    if data is None:
        raise BadPortiaAnswer("The answer is not a JSON object.", status=status)
    return data


def _body(answer: Answer) -> bytes:
    try:
        return answer.body(at_most=LARGEST_ANSWER)
    except TooLarge as failure:
        raise BadPortiaAnswer(f"The answer is {failure}.", status=answer.status) from None


def _json_object(answer: Answer) -> JSON | None:
    body = _body(answer)
    media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        return None
    if rb"\u0000" in body:  # looking for one in vain takes longer than reading the JSON
        body = ESCAPED_NUL.sub(rb"\1\\ufffd", body)
    try:
        data = from_json(body, allow_inf_nan=False)
    except ValueError:
        return None
    return data if isinstance(data, dict) else None


def _problem(answer: Answer, data: JSON | None) -> PortiaError:
    status = answer.status
    problem = data or {}
    texts = {name: value for name, value in problem.items() if isinstance(value, str)}
    kind = error_class(status=status, code=texts.get("code"))
    said = texts.get("message") or texts.get("detail") or texts.get("title") or f"HTTP {status}"
    return kind(
        f"{kind().message.rstrip('.')}: {said[:500]}",
        status=status,
        code=texts.get("code"),
        retry_after=answer.retry_after(),
        details=_details(problem),
    )


def _details(problem: JSON) -> JSON:
    types = {"errors": list, "clarification_ids": list, "options": list, "current_status": str}
    return {name: problem[name] for name, kind in types.items() if isinstance(problem.get(name), kind)}
