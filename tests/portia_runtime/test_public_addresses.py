"""Only public addresses are reached, however they are written."""

from ipaddress import ip_address

import pytest
from requests_hardened.ip_filter import InvalidIPAddress

from portia_runtime.tools.public_addresses import AddressRefused, as_sent, is_public, is_same_site, public_session

PRIVATE = (
    "127.0.0.1", "localhost", "127.1", "0177.0.0.1", "0x7f000001", "0x7f.1", "2130706433", "0", "0.0.0.0", "10.0.0.1",
    "172.16.0.1", "192.168.0.1", "169.254.169.254", "2852039166", "0xa9fea9fe", "100.64.0.1", "100.100.100.200", "192.0.0.192",
    "168.63.129.16", "198.18.0.1", "224.0.0.1", "255.255.255.255", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
    "[::ffff:168.63.129.16]", "[::127.0.0.1]", "[::ffff:0:127.0.0.1]", "[64:ff9b::169.254.169.254]", "[64:ff9b:1::a00:1]",
    "[2002:7f00:1::]", "[2001:0:1::1]", "[fd00:ec2::254]", "[fe80::1]", "[fec0::1]", "[ff02::1]",
)  # fmt: skip


@pytest.mark.parametrize("host", PRIVATE)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_private_and_special_addresses_are_refused_in_every_spelling(scheme, host):
    with public_session("test") as session, pytest.raises(InvalidIPAddress):
        session.get(as_sent(f"{scheme}://{host}:1/"), timeout=5)


@pytest.mark.parametrize("ip", ["93.184.215.14", "8.8.8.8", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:8.8.8.8"])
def test_ordinary_addresses_are_public(ip):
    assert is_public(ip_address(ip))


@pytest.mark.parametrize(
    "url", ["ftp://a.example/", "file:///etc/passwd", "gopher://a.example/", "http://", "http:///x", "//a.example/", "",
            "http://a b/", "http://[::1/", "http://a.example:99999/", "http://a\tb.example/", "http://u@a.example/"],
)  # fmt: skip
def test_what_is_no_plain_http_address_is_refused(url):
    with pytest.raises(AddressRefused):
        as_sent(url)


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("https://a.example/y", True), ("https://a.example:443/y", True), ("http://a.example/y", False),
        ("https://b.example/", False), ("https://a.example:444/", False), ("https://sub.a.example/", False),
    ],
)  # fmt: skip
def test_headers_are_sent_on_to_the_same_site_only_and_never_without_tls(url, same):
    assert is_same_site("https://a.example/x", url) is same


def test_the_same_host_by_tls_is_the_same_site():
    assert is_same_site("http://a.example/x", "https://a.example/x")
