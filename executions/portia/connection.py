"""One HTTP exchange with the Portia Runtime: the only module that uses requests towards it.

What goes wrong is a PortiaError of errors.py, never an exception of requests or urllib3. Each call

1. is tried at most `CallRetry.tries` times, and only after failures that a repeat may cure: every call of the contract
   is safe to repeat (GETs; plans by content; runs by key; pause, resume, cancel and respond are idempotent);
2. ends within connect_timeout + read_timeout seconds, pauses and repeats included, so that a job can rely on it;
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
from http.cookiejar import DefaultCookiePolicy
from urllib.parse import urlsplit

import requests
from pydantic_core import from_json
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, InvalidHeader, NewConnectionError, ReadTimeoutError
from urllib3.util import Retry

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
from orchestrator_project.telemetry import ALLOWED, correlation_id, traceparent

API = "/api/v1"
LARGEST_ANSWER = 20_000_000
CHUNK = 65_536
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
        correlation = correlation_id()
        sendable = correlation if correlation != "-" and ALLOWED.fullmatch(correlation) else ""
        named = {
            "X-Tenant-ID": self.tenant,
            "Idempotency-Key": self.idempotency_key,
            "X-Request-ID": sendable,
            "X-Correlation-ID": sendable,
            "traceparent": traceparent(),
        }
        return {name: value for name, value in named.items() if value}


class Connection:
    """A pooled session to one runtime; safe to share between threads, not across a fork."""

    def __init__(
        self, *, base_url: str, api_key: str, connect_timeout: float, read_timeout: float, retry: CallRetry
    ) -> None:
        self.base_url = _checked_url(base_url)
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self._retry = retry
        self._session = _session(_checked_key(api_key))

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
        left = max(deadline - time.monotonic(), 0.001)
        read_timeout = min(call.read_timeout or self._read_timeout, left)
        with (
            self._typed_errors(),
            self._session.request(
                call.method,
                f"{self.base_url}{API}{call.path}",
                params=call.params,
                json=call.body,
                headers=call.headers(),
                timeout=(min(self._connect_timeout, left), read_timeout),
                allow_redirects=False,
                stream=True,
            ) as response,
        ):
            return _understood(response, _body(response, deadline=deadline))

    @contextmanager
    def _typed_errors(self) -> Iterator[None]:
        where = f"The Portia Runtime at {self.base_url}"
        try:
            yield
        except (requests.ReadTimeout, ReadTimeoutError):
            raise PortiaTimeout(f"{where} did not answer in time.") from None
        except requests.ConnectTimeout:
            raise PortiaUnreachable.before_sending(f"{where} cannot be reached: no connection in time.") from None
        except (requests.ConnectionError, HTTPError) as error:
            if _never_connected(error):
                raise PortiaUnreachable.before_sending(f"{where} cannot be reached: {_reason(error)}.") from None
            raise PortiaUnreachable(f"{where} cannot be reached: {_reason(error)}.") from None
        except (requests.RequestException, UnicodeError) as error:  # our own mistake, and its text may quote a header
            raise PortiaError(f"The request to {self.base_url} cannot be made: {type(error).__name__}.") from None


def _session(api_key: str) -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # no proxy and no .netrc of whoever started us
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers.update(
        {"Authorization": f"Api-Key {api_key}", "Accept": "application/json", "User-Agent": "anumate-orchestrator/1"}
    )
    adapter = HTTPAdapter(pool_connections=1, pool_maxsize=POOL_SIZE)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def _checked_url(base_url: str) -> str:
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ValueError("PORTIA_BASE_URL: give http(s)://host[:port] without user, password and query")
    return base_url.rstrip("/")


def _checked_key(api_key: str) -> str:
    if not re.fullmatch(r"[\x21-\x7e]+", api_key):
        raise ValueError("PORTIA_API_KEY: give printable ASCII characters without spaces")
    return api_key


def _body(response: requests.Response, *, deadline: float) -> bytes:
    """The whole body, at most 20 MB and before the deadline, however slowly it drips."""
    body = bytearray()
    while chunk := response.raw.read1(CHUNK, decode_content=True):
        body += chunk
        if len(body) > LARGEST_ANSWER:
            raise BadPortiaAnswer(f"The answer is larger than {LARGEST_ANSWER} bytes.", status=response.status_code)
        if time.monotonic() > deadline:
            raise PortiaTimeout("The Portia Runtime sends its answer too slowly.", status=response.status_code)
    return bytes(body)


def _understood(response: requests.Response, body: bytes) -> JSON:
    status = response.status_code
    data = _json_object(response, body)
    if status >= 400:
        raise _problem(response, data)
    if status >= 300:
        raise BadPortiaAnswer("The answer is a redirect: set PORTIA_BASE_URL to where it leads.", status=status)
    if data is None:
        raise BadPortiaAnswer("The answer is not a JSON object.", status=status)
    return data


def _json_object(response: requests.Response, body: bytes) -> JSON | None:
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        return None
    try:
        data = from_json(ESCAPED_NUL.sub(rb"\1\\ufffd", body), allow_inf_nan=False)
    except ValueError:
        return None
    return data if isinstance(data, dict) else None


def _problem(response: requests.Response, data: JSON | None) -> PortiaError:
    status = response.status_code
    problem = data or {}
    texts = {name: value for name, value in problem.items() if isinstance(value, str)}
    kind = error_class(status=status, code=texts.get("code"))
    said = texts.get("message") or texts.get("detail") or texts.get("title") or f"HTTP {status}"
    return kind(
        f"{kind().message.rstrip('.')}: {said[:500]}",
        status=status,
        code=texts.get("code"),
        retry_after=_retry_after(response),
        details=_details(problem),
    )


def _details(problem: JSON) -> JSON:
    types = {"errors": list, "clarification_ids": list, "options": list, "current_status": str}
    return {name: problem[name] for name, kind in types.items() if isinstance(problem.get(name), kind)}


def _retry_after(response: requests.Response) -> float | None:
    """Seconds (RFC 9110 section 10.2.3: a number or a date), None where missing or unreadable."""
    try:
        return Retry().parse_retry_after(response.headers["Retry-After"])
    except (KeyError, InvalidHeader):
        return None


def _never_connected(error: BaseException) -> bool:
    """Whether the connection itself failed: refused, no route, no such name."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, NewConnectionError):
        cause = cause.__context__
    return cause is not None


def _reason(error: BaseException) -> str:
    """The operating system's words at the root of the error, else the name of its class."""
    words = type(error).__name__
    cause: BaseException | None = error
    while cause is not None:
        words = (cause.strerror if isinstance(cause, OSError) else None) or words
        cause = cause.__context__
    return words
