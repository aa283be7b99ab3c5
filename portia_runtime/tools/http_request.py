"""`http_request`: one HTTP request to a public address.

Private, loopback, link-local and other special addresses are refused after the name was resolved, and the connection goes
to the very address that was checked. Hosts in settings.PORTIA_HTTP_ALLOWED_HOSTS (`host` or `host:port`) are exempt.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from django.conf import settings
from requests_hardened import Config, Manager
from requests_hardened.ip_filter import InvalidIPAddress

from portia_runtime.documents import JSON
from portia_runtime.tools.base import HardError, SoftError, Tool, ToolCall

MAX_RESPONSE_BYTES = 1_000_000
MAX_REDIRECTS = 5
CONNECT_TIMEOUT, READ_TIMEOUT = 5.0, 30.0
RETRY_STATUS = {408, 425, 429, 500, 502, 503, 504}
GUARD = Manager(
    Config(
        ip_filter_enable=True,
        ip_filter_allow_loopback_ips=False,
        never_redirect=True,
        default_timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
        user_agent_override="portia-runtime/1",
    )
)


def _request(call: ToolCall) -> JSON:
    """Statuses from 400 fail the step unless `allow_error_status`; 408, 425, 429 and 5xx may be tried again."""
    arguments = call.arguments
    method = (arguments.get("method") or "GET").upper()
    try:
        response = _send(method, arguments["url"], arguments, call)
    except (InvalidIPAddress, requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
        raise HardError(f"the address of {arguments['url']!r} is not allowed: {error}") from None
    except requests.RequestException as error:
        raise SoftError(f"{method} {arguments['url']} did not work: {type(error).__name__}") from None
    if response["status"] >= 400 and not arguments.get("allow_error_status"):
        kind = SoftError if response["status"] in RETRY_STATUS else HardError
        raise kind(f"{method} {arguments['url']} answered {response['status']}")
    return response


def _send(method: str, url: str, arguments: JSON, call: ToolCall) -> JSON:
    """Follow redirects of GET and HEAD only, each hop checked like the first and without the sender's headers elsewhere."""
    headers = {**(arguments.get("headers") or {}), "Idempotency-Key": call.idempotency_key}
    body: dict[str, Any] = {"json": arguments["json"]} if "json" in arguments else {"data": arguments.get("body")}
    origin = urlsplit(url).netloc
    for _ in range(MAX_REDIRECTS + 1):
        is_own = urlsplit(url).netloc == origin
        with _session(url, may_be_exempt=is_own) as session:
            own = headers if is_own else {}
            with session.request(
                method, url, headers=own, params=arguments.get("params"), stream=True, allow_redirects=False,
                timeout=(CONNECT_TIMEOUT, call.timeout or READ_TIMEOUT), **body,
            ) as response:  # fmt: skip
                if not response.is_redirect or method not in ("GET", "HEAD"):
                    return _result(response)
                url, arguments = urljoin(url, response.headers["Location"]), {}
                _check_scheme(url)
    raise HardError(f"more than {MAX_REDIRECTS} redirects")


def _session(url: str, *, may_be_exempt: bool) -> requests.Session:
    """A session for the address; where a foreign site redirects to is never exempt from the guard."""
    _check_scheme(url)
    parts = urlsplit(url)
    allowed = settings.PORTIA_HTTP_ALLOWED_HOSTS
    exempt = parts.hostname in allowed or f"{parts.hostname}:{parts.port}" in allowed
    session = requests.Session() if exempt and may_be_exempt else GUARD.get_session()
    session.trust_env = False
    return session


def _check_scheme(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise HardError(f"{url!r} is not an http or https address")


def _result(response: requests.Response) -> JSON:
    content = b""
    for chunk in response.iter_content(65_536):
        content += chunk
        if len(content) > MAX_RESPONSE_BYTES:
            raise HardError(f"the response is longer than {MAX_RESPONSE_BYTES} bytes")
    text = content.decode(response.encoding or "utf-8", errors="replace").replace("\x00", "\ufffd")
    result = {"status": response.status_code, "headers": dict(response.headers), "body": text}
    if "json" in response.headers.get("Content-Type", ""):
        try:
            result["json"] = json.loads(content)
        except ValueError:
            result["json"] = None
    return result


http_request = Tool(
    id="http_request",
    name="HTTP request",
    description="Sends one HTTP request to a public address, with the step's Idempotency-Key.",
    args_schema={
        "type": "object",
        "properties": {
            "url": {"type": "string", "pattern": "^https?://", "maxLength": 4000},
            "method": {"enum": ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "get", "post", "put", "delete"]},
            "headers": {
                "type": "object",
                "additionalProperties": {"type": "string", "pattern": r"^[^\r\n]*$", "maxLength": 8000},
            },
            "params": {"type": "object"},
            "json": {},
            "body": {"type": "string"},
            "allow_error_status": {"type": "boolean"},
        },
        "required": ["url"],
        "additionalProperties": False,
    },
    run=_request,
    timeout=READ_TIMEOUT * 2,
)
