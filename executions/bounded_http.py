"""HTTP with a neighbour that may be slow, broken or hostile: the only module that uses requests and urllib3.

    with session.exchange("GET", url, deadline=time.monotonic() + 10, connect_timeout=3) as answer:
        body = answer.body(at_most=1_000_000) if answer.status == 200 else b""

1. Time: the exchange ends by its deadline, status line, headers and body together, however slowly each of them drips. Only
   looking up the host's name is timed by the system's resolver, and each of several addresses, the TLS handshake and the
   sending has the connect timeout anew.
2. Size: a body is read only when it is asked for, and not beyond a number of bytes, counted unpacked. A redirect is an
   answer like any other, and never followed.
3. Errors: what goes wrong is an ExchangeFailed. Its text is for logs and people, and quotes neither header nor body.
4. Nothing but the request goes out: no proxy and no .netrc of whoever started us, no cookie of an earlier answer.

ExchangeFailed
├── NotSendable     the request cannot be made: our own mistake
├── Broken          no connection, or it broke, or what came is not HTTP
├── TooSlow         no connection, or no whole answer in time
├── TooLarge        the body is larger than the caller takes
└── CannotUnpack    the body is not compressed as its header says
"""

from __future__ import annotations

import http.client
import io
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import BaseHTTPResponse, HTTPConnectionPool, HTTPSConnectionPool, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import DecodeError, HTTPError, NewConnectionError, ReadTimeoutError

from orchestrator_project.telemetry import ALLOWED, correlation_id, traceparent

CHUNK = 65_536
LONGEST_RETRY_AFTER = 6 * 3600


class ExchangeFailed(Exception):
    """There is no usable answer. `sent`: whether the request may have arrived."""

    def __init__(self, text: str, *, sent: bool = True) -> None:
        super().__init__(text)
        self.sent = sent


class NotSendable(ExchangeFailed):
    """The request cannot be made."""


class Broken(ExchangeFailed):
    """There was no connection, or it broke, or what came is not HTTP."""


class TooSlow(ExchangeFailed):
    """There was no connection, or no whole answer, in time."""


class TooLarge(ExchangeFailed):
    """The body is larger than the caller takes."""


class CannotUnpack(ExchangeFailed):
    """The body is not compressed as its header says."""


@dataclass(frozen=True)
class Answer:
    """What came back: status and headers are there, the body is on its way."""

    status: int
    headers: Mapping[str, str]
    _arriving: BaseHTTPResponse

    def body(self, *, at_most: int) -> bytes:
        """The whole body, unpacked, of at most so many bytes; read it once, before the exchange is left."""
        body = bytearray()
        with _typed_errors():
            while chunk := self._arriving.read1(CHUNK, decode_content=True):
                body += chunk
                if len(body) > at_most:
                    raise TooLarge(f"larger than {at_most} bytes")
        return bytes(body)

    def retry_after(self) -> float | None:
        """Seconds, 0 to 6 hours, of Retry-After (RFC 9110, section 10.2.3: a number or a date); None if unreadable."""
        said = self.headers.get("Retry-After", "").strip()
        try:
            if re.fullmatch(r"[0-9]+", said):
                seconds = float(said)  # not int(), which refuses thousands of digits
            else:
                moment = parsedate_to_datetime(said)
                seconds = (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
        except (ValueError, OverflowError):
            return None
        return min(max(seconds, 0), LONGEST_RETRY_AFTER)


class Session(requests.Session):
    """Pooled connections to one neighbour; safe to share between threads, not across a fork."""

    def __init__(self, *, authorization: str = "", pool_size: int) -> None:
        super().__init__()
        self.trust_env = False
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.headers.update({"Accept": "application/json", "User-Agent": "anumate-orchestrator/1"})
        if authorization:
            self.headers["Authorization"] = authorization
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter(pool_connections=1, pool_maxsize=pool_size))

    @contextmanager
    def exchange(
        self,
        method: str,
        url: str,
        *,
        deadline: float,
        connect_timeout: float,
        read_timeout: float | None = None,
        headers: dict[str, str] | None = None,
        params: dict[str, str] | None = None,
        json: Any = None,
    ) -> Iterator[Answer]:
        """Send the request and hand out its answer; raises ExchangeFailed.

        `deadline` is a moment of time.monotonic(); within it the connection may take `connect_timeout` seconds, and the
        answer, once the request is sent, `read_timeout`.
        """
        left = max(deadline - time.monotonic(), 0.001)
        timeout: Any = Timeout(connect=min(connect_timeout, left), read=read_timeout, total=left)  # not in the stubs
        request = self._prepared(requests.Request(method, url, headers=headers, params=params, json=json))
        with _typed_errors():
            response = self.send(request, timeout=timeout, stream=True, proxies={})
        with response:
            yield Answer(response.status_code, response.headers, response.raw)

    def _prepared(self, request: requests.Request) -> requests.PreparedRequest:
        try:
            return self.prepare_request(request)
        except (requests.RequestException, UnicodeError) as error:
            raise NotSendable(type(error).__name__) from None

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Nowhere: told not to follow, requests would still parse the address and read the body, however long."""
        return


def context_headers(*, tenant: str) -> dict[str, str]:
    """The headers that say for whom, and in the course of what, something is asked; only those there is a value for."""
    correlation = correlation_id()
    named = {
        "X-Tenant-ID": tenant,
        "X-Correlation-ID": correlation if correlation != "-" and ALLOWED.fullmatch(correlation) else "",
        "traceparent": traceparent(),
    }
    return {name: value for name, value in named.items() if value}


# -- what goes wrong


@contextmanager
def _typed_errors() -> Iterator[None]:
    """Turn the errors of requests and urllib3 into ours; theirs may quote headers, and so are never chained."""
    try:
        yield
    except requests.ConnectTimeout:
        raise TooSlow("no connection in time", sent=False) from None
    except requests.Timeout:
        raise TooSlow("its headers did not come") from None
    except ReadTimeoutError:
        raise TooSlow("it sends its answer too slowly") from None
    except DecodeError:
        raise CannotUnpack("an answer that cannot be unpacked") from None
    except UnicodeError as error:  # only while it is sent does a header turn out not to be Latin-1
        raise NotSendable(type(error).__name__) from None
    except (requests.RequestException, HTTPError) as error:
        raise Broken(_reason(error), sent=_was_connected(error)) from None


def _was_connected(error: Exception) -> bool:
    """False where the connection itself failed: refused, no route, no such name."""
    given_up = error.args[0] if error.args else None
    return not isinstance(getattr(given_up, "reason", None), NewConnectionError)


def _reason(error: BaseException) -> str:
    """The operating system's words at the root of the error, else the name of its class."""
    words = type(error).__name__
    cause: BaseException | None = error
    while cause is not None:
        words = (cause.strerror if isinstance(cause, OSError) else None) or words
        cause = cause.__context__
    return words


# -- an answer read against the clock


class _TimedReads(io.RawIOBase):
    """What arrives at a socket, until the socket's timeout has passed since now."""

    def __init__(self, sock: socket.socket, arriving: io.RawIOBase) -> None:
        self._sock = sock
        self._arriving = arriving
        self._deadline = time.monotonic() + (sock.gettimeout() or 0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        return self._arriving.readinto(buffer)

    def close(self) -> None:
        self._arriving.close()
        super().close()


class _TimedResponse(http.client.HTTPResponse):
    """An answer whose read timeout counts for all of it, headers included, and not anew for each packet."""

    def __init__(self, sock: socket.socket, *args: Any, **named: Any) -> None:
        super().__init__(sock, *args, **named)
        self.fp = io.BufferedReader(_TimedReads(sock, self.fp.detach()))


class _HTTPConnection(HTTPConnection):
    response_class = _TimedResponse


class _HTTPSConnection(HTTPSConnection):
    response_class = _TimedResponse


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **named: Any) -> None:
        """Make the pools of connections, with ours for each scheme."""
        super().init_poolmanager(*args, **named)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
