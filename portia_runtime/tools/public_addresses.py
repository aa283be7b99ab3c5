"""HTTP that reaches public addresses only, whatever the URL says and however its name is spelt or resolved.

Leans on requests-hardened, which resolves the name once, looks at the address and connects to that very address, so that a
second answer of the name server (DNS rebinding) is never asked for. Two things are added: networks it lets through, and hosts
that the operator has exempted, compared with the host that is connected to and not with another reading of the URL.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests_hardened.ip_filter import InvalidIPAddress
from requests_hardened.ip_filter_adapter import IPFilterAdapter

STANDARD_PORTS = {"http": 80, "https": 443}

# Python calls these global (IANA's registries of special addresses, RFC 6890); none of them is an ordinary public host.
SPECIAL = tuple(
    ip_network(block)
    for block in (
        "168.63.129.16/32",  # Azure's host, which answers every virtual machine
        "192.0.0.0/24",  # IETF assignments; Oracle Cloud's metadata among them
        "::/8",  # IPv4-compatible, IPv4-translated and NAT64 addresses
        "fec0::/10",  # site-local, RFC 3879
        "2002::/16",  # 6to4
    )
)


class AddressRefused(Exception):
    """The address must not be asked; the text says why, without a password that it may hold."""


def public_session(user_agent: str, exempt: Collection[str] = ()) -> requests.Session:
    """A session that connects to public addresses and to the `exempt` hosts (`host` or `host:port`); it trusts no environment."""
    session = requests.Session()
    session.trust_env = False
    session.headers["User-Agent"] = user_agent
    for scheme in STANDARD_PORTS:
        session.mount(f"{scheme}://", _PublicAddresses(scheme, exempt))
    return session


def as_sent(url: str) -> str:
    """The URL as it will be sent, so that nobody reads it another way; AddressRefused unless it is one of http or https."""
    try:
        sent = requests.Request("GET", url).prepare().url or ""
        parts = urlsplit(sent)
    except (requests.RequestException, ValueError):
        raise AddressRefused("it is not an http or https address") from None
    if parts.scheme not in STANDARD_PORTS or not parts.hostname:
        raise AddressRefused("it is not an http or https address")
    if "@" in parts.netloc:
        raise AddressRefused("it has a user name in it: send credentials in a header")
    return sent


def is_same_site(origin: str, url: str) -> bool:
    """Whether what was meant for the one may be sent to the other: same scheme, host and port, or the same host by TLS."""
    return not requests.Session().should_strip_auth(origin, url)


def is_public(ip: IPv4Address | IPv6Address) -> bool:
    """Whether it is the address of an ordinary host of the internet."""
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped:
        return is_public(ip.ipv4_mapped)
    return ip.is_global and not ip.is_multicast and not any(ip in block for block in SPECIAL)


class _PublicAddresses(IPFilterAdapter):
    def __init__(self, scheme: str, exempt: Collection[str]) -> None:
        super().__init__(is_https_proto=scheme == "https")
        self._scheme = scheme
        self._exempt = exempt

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        """Where to connect: the host itself if it is exempt, else its public address; raises InvalidIPAddress."""
        where, tls = HTTPAdapter.build_connection_pool_key_attributes(self, request, verify, cert)
        if self._is_exempt(where["host"], where["port"]):
            return where, tls
        where, tls = super().build_connection_pool_key_attributes(request, verify, cert)
        ip = ip_address(where["host"].strip("[]"))
        if not is_public(ip):
            raise InvalidIPAddress(ip)
        return where, tls

    def _is_exempt(self, host: str, port: int | None) -> bool:
        return host in self._exempt or f"{host}:{port or STANDARD_PORTS[self._scheme]}" in self._exempt
