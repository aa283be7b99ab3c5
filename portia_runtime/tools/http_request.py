"""`http_request`: one HTTP request to a public address.

Private, loopback, link-local and other special addresses are refused after the name was resolved, and the connection goes
to the very address that was checked. Hosts in settings.PORTIA_HTTP_ALLOWED_HOSTS (`host` or `host:port`) are exempt.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urljoin

import requests
from django.conf import settings
from requests_hardened.ip_filter import InvalidIPAddress

from portia_runtime.documents import JSON
from portia_runtime.tools.base import HardError, SoftError, Tool, ToolCall
from portia_runtime.tools.public_addresses import AddressRefused, as_sent, is_same_site, public_session

MAX_RESPONSE_BYTES = 1_000_000
MAX_REDIRECTS = 5
CONNECT_TIMEOUT, READ_TIMEOUT = 5.0, 30.0
RETRY_STATUS = {408, 425, 429, 500, 502, 503, 504}
USER_AGENT = "portia-runtime/1"


def _request(call: ToolCall) -> JSON:
    """Statuses from 400 fail the step unless `allow_error_status`; 408, 425, 429 and 5xx may be tried again."""
    arguments = call.arguments
    method = (arguments.get("method") or "GET").upper()
    try:
        url = as_sent(arguments["url"])
    except AddressRefused as refused:
        raise HardError(f"the address is not allowed: {refused}") from None
    try:
        response = _send(method, url, arguments, call)
    except (InvalidIPAddress, AddressRefused, requests.exceptions.InvalidURL) as error:
        raise HardError(f"the address of {url!r} is not allowed: {error}") from None
    except requests.RequestException as error:
        raise SoftError(f"{method} {url} did not work: {type(error).__name__}") from None
    if response["status"] >= 400 and not arguments.get("allow_error_status"):
        kind = SoftError if response["status"] in RETRY_STATUS else HardError
        raise kind(f"{method} {url} answered {response['status']}")
    return response


def _send(method: str, url: str, arguments: JSON, call: ToolCall) -> JSON:
    """Follow redirects of GET and HEAD only, each hop checked like the first.

    Parameters and body go to the first address alone, the sender's headers to its site alone.
    """
    headers = {**(arguments.get("headers") or {}), "Idempotency-Key": call.idempotency_key}
    body: dict[str, Any] = {"json": arguments["json"]} if "json" in arguments else {"data": arguments.get("body")}
    origin = url
    for _ in range(MAX_REDIRECTS + 1):
        is_own = is_same_site(origin, url)
        exempt = settings.PORTIA_HTTP_ALLOWED_HOSTS if is_own else ()  # not where a foreign site redirects to
        with (
            public_session(USER_AGENT, exempt) as session,
            session.request(
                method, url, headers=headers if is_own else {}, params=arguments.get("params"), stream=True,
                allow_redirects=False, timeout=(CONNECT_TIMEOUT, call.timeout or READ_TIMEOUT), **body,
            ) as response,
        ):  # fmt: skip
            if not response.is_redirect or method not in ("GET", "HEAD"):
                return _result(response)
            url, arguments, body = as_sent(urljoin(url, response.headers["Location"])), {}, {}
    raise HardError(f"more than {MAX_REDIRECTS} redirects")


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
