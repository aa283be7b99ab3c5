"""The Plan Compiler's client against real listeners: what it asks, what it believes, and how long it waits."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pytest_httpserver import HTTPServer
from werkzeug import Response

from executions import plan_compiler
from executions.errors import BadPlanCompilerAnswer, Unavailable
from executions.plan_compiler import fetch
from executions.plan_document import canonical_hash
from orchestrator_project.telemetry import correlated
from tests.factories.documents import large_plan, plan

KEY = "key-of-ours"
PLAN = plan()
HASH = canonical_hash(PLAN)
PATH = f"/v1/plans/{HASH}"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def listener() -> Iterator[HTTPServer]:
    with HTTPServer(threaded=True) as server:
        yield server


@pytest.fixture
def compiler(listener, settings) -> Iterator[HTTPServer]:
    """A listener that answers as told, and the settings that lead to it."""
    settings.PLAN_COMPILER_BASE_URL = listener.url_for("").rstrip("/")
    settings.PLAN_COMPILER_API_KEY = KEY
    yield listener
    listener.clear()


def asked(server: HTTPServer) -> list[Any]:
    return [request for request, _ in server.log]


@contextmanager
def socket_server(settings: Any, serve: Callable[[socket.socket], None]) -> Iterator[None]:
    """A listener that hands each connection, its request read, to `serve`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings.PLAN_COMPILER_BASE_URL = f"http://127.0.0.1:{listener.getsockname()[1]}"
        threading.Thread(target=_accept, args=(listener, serve), daemon=True).start()
        yield
        listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
    while True:
        try:
            connected, _ = listener.accept()
        except OSError:
            return
        with connected:
            connected.recv(65536)
            try:
                serve(connected)
            except OSError:  # the client has hung up
                continue


# -- the question


def test_a_plan_is_asked_for_by_its_hash(compiler):
    compiler.expect_request(PATH, method="GET").respond_with_json(PLAN)
    with correlated("corr-7", TRACE):
        assert fetch(HASH, tenant="acme") == PLAN
    [request] = asked(compiler)
    sent = request.headers
    assert sent["Authorization"] == f"Bearer {KEY}"
    assert (sent["X-Tenant-ID"], sent["X-Correlation-ID"], sent["traceparent"]) == ("acme", "corr-7", TRACE)


def test_without_key_and_correlation_neither_is_sent(compiler, settings):
    settings.PLAN_COMPILER_API_KEY = ""
    compiler.expect_request(PATH).respond_with_json(PLAN)
    fetch(HASH, tenant="acme")
    assert {"Authorization", "X-Correlation-ID", "Traceparent"}.isdisjoint(asked(compiler)[0].headers.keys())


def test_an_address_may_have_a_path(compiler, settings):
    settings.PLAN_COMPILER_BASE_URL += "/registry"
    compiler.expect_request(f"/registry{PATH}").respond_with_json(PLAN)
    assert fetch(HASH, tenant="acme") == PLAN


def test_without_a_compiler_no_plan_is_known(settings):
    settings.PLAN_COMPILER_BASE_URL = ""
    assert fetch(HASH, tenant="acme") is None


@pytest.mark.parametrize("text", ["", "..", "../../admin", HASH.upper(), HASH[:-1], f"{HASH}\n", f"{HASH}?x=1"])
def test_what_is_no_hash_is_not_asked_for(compiler, text):
    assert fetch(text, tenant="acme") is None
    assert asked(compiler) == []


# -- the answer


@pytest.mark.parametrize(
    "wrap", [lambda one: one, lambda one: {"plan_hash": HASH, "executable_plan": one, "name": "A plan"}]
)
@pytest.mark.parametrize("stamp", [{}, {"plan_hash": HASH}, {"plan_hash": None}])
def test_the_document_comes_bare_or_as_an_orchestrator_answers_it(compiler, wrap, stamp):
    compiler.expect_request(PATH).respond_with_json(wrap(PLAN | stamp))
    assert fetch(HASH, tenant="acme") == PLAN | stamp


def test_a_compressed_answer_is_unpacked(compiler):
    document = large_plan(steps=500)
    body = gzip.compress(json.dumps(document).encode())
    plan_hash = canonical_hash(document)
    packed = compiler.expect_request(f"/v1/plans/{plan_hash}")
    packed.respond_with_data(body, headers={"Content-Encoding": "gzip"}, content_type="application/json")
    assert fetch(plan_hash, tenant="acme") == document


def test_an_unknown_plan_is_none(compiler):
    compiler.expect_request(PATH).respond_with_data("<h1>Not here</h1>", status=404)
    assert fetch(HASH, tenant="acme") is None


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"<html>s3cret</html>", "not JSON"),
        (b"", "not JSON"),
        (b"[" * 5000, "not JSON"),
        (b'{"s3cret": NaN}', "not JSON"),
        (b'{"name": "\xff s3cret"}', "not JSON"),
        (b'["s3cret"]', "no JSON object"),
        (b"null", "no JSON object"),
        (b'{"executable_plan": "s3cret"}', "no JSON object"),
        (b'{"executable_plan": null}', "no JSON object"),
        (b'{"s3cret": 1e999}', "cannot be hashed"),
        (b'{"s3cret": "\\u0000"}', "cannot be hashed"),
        (b'{"metadata": {"compiled_by": "s3cret \\u0000"}}', "cannot be hashed"),
        (b'{"s3cret": 9007199254740993}', "cannot be hashed"),
        (json.dumps(PLAN | {"name": "s3cret"}).encode(), "another hash"),
        (json.dumps(PLAN | {"plan_hash": "s3cret"}).encode(), "another hash"),
        (json.dumps(PLAN | {"plan_hash": [HASH]}).encode(), "another hash"),
    ],
)
def test_an_answer_without_this_plan_is_bad_and_not_quoted(compiler, caplog, body, why):
    compiler.expect_request(PATH).respond_with_data(body, content_type="application/json")
    with pytest.raises(BadPlanCompilerAnswer, match=why) as caught:
        fetch(HASH, tenant="acme")
    assert (caught.value.status, caught.value.code, len(asked(compiler))) == (502, "bad-plan-compiler-answer", 1)
    assert "s3cret" not in f"{caught.value!r}{caught.value.extra}{caught.value.errors}{caplog.text}"


@pytest.mark.parametrize("status", [201, 204, 304, 400, 405, 408, 410, 422])
def test_any_other_status_is_a_bad_answer(compiler, status):
    compiler.expect_request(PATH).respond_with_data(b"" if status in (204, 304) else json.dumps(PLAN), status=status)
    with pytest.raises(BadPlanCompilerAnswer, match=f"status is {status}"):
        fetch(HASH, tenant="acme")


def test_a_redirect_is_neither_followed_nor_read(compiler):
    sent = threading.Event()

    def body():
        for _ in range(2000):
            yield b"x" * 65536
        sent.set()

    answer = Response(body(), status=302, headers={"Location": "/elsewhere"})
    compiler.expect_request(PATH).respond_with_handler(lambda _: answer)
    with pytest.raises(BadPlanCompilerAnswer, match="status is 302"):
        fetch(HASH, tenant="acme")
    assert not sent.is_set()
    assert "/elsewhere" not in [request.path for request in asked(compiler)]


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_an_answer_is_not_read_beyond_the_largest_request(compiler, settings, encoding):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 100_000
    body = b" " * 20_000_000
    packed = gzip.compress(body) if encoding == "gzip" else body
    compiler.expect_request(PATH).respond_with_data(packed, headers={"Content-Encoding": encoding})
    with pytest.raises(BadPlanCompilerAnswer, match="larger than 100000 bytes"):
        fetch(HASH, tenant="acme")


def test_an_answer_of_exactly_the_largest_size_is_read(compiler, settings):
    body = json.dumps(PLAN)
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = len(body)
    compiler.expect_request(PATH).respond_with_data(body)
    assert fetch(HASH, tenant="acme") == PLAN


def test_a_broken_compression_is_a_bad_answer(compiler):
    compiler.expect_request(PATH).respond_with_data(b"no gzip", headers={"Content-Encoding": "gzip"})
    with pytest.raises(BadPlanCompilerAnswer, match="unpacked"):
        fetch(HASH, tenant="acme")


# -- when it does not answer


@pytest.mark.parametrize("status", [429, 500, 501, 502, 503, 504, 599])
def test_a_compiler_in_trouble_is_unavailable(compiler, status):
    compiler.expect_request(PATH).respond_with_data("s3cret", status=status)
    with pytest.raises(Unavailable, match="The Plan Compiler cannot answer now; try again in 5 s") as caught:
        fetch(HASH, tenant="acme")
    assert (caught.value.status, caught.value.code, caught.value.extra) == (503, "unavailable", {"retry_after": 5})
    assert len(asked(compiler)) == (2 if status in (502, 503, 504) else 1)


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_gateways_moment_of_weakness_is_not_noticed(compiler, status):
    compiler.expect_ordered_request(PATH).respond_with_data(status=status)
    compiler.expect_ordered_request(PATH).respond_with_json(PLAN)
    assert fetch(HASH, tenant="acme") == PLAN


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("7", 7),
        (" 7 ", 7),
        ("0", 1),
        ("300", 300),
        ("301", 300),
        ("999999999", 300),
        ("9" * 5000, 300),
        ("-1", 5),
        ("1.5", 5),
        ("soon", 5),
        ("", 5),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 1),
        ("Sun Nov  6 08:49:37 1994", 1),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 1),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 300),
        ("Fri, 31 Dec 9999 23:59:59 -2300", 300),
        ("Fri, 99 Dec 2030 23:59:59 GMT", 5),
    ],
)
def test_retry_after_is_what_the_compiler_says_within_reason(compiler, given, seconds):
    compiler.expect_request(PATH).respond_with_data(status=503, headers={"Retry-After": given})
    with pytest.raises(Unavailable) as caught:
        fetch(HASH, tenant="acme")
    assert caught.value.extra == {"retry_after": seconds}
    assert len(asked(compiler)) == 1  # it said when to come back


def test_retry_after_may_be_a_date(compiler):
    soon = format_datetime(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=90), usegmt=True)
    compiler.expect_request(PATH).respond_with_data(status=429, headers={"Retry-After": soon})
    with pytest.raises(Unavailable) as caught:
        fetch(HASH, tenant="acme")
    assert 80 <= caught.value.extra["retry_after"] <= 90


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_an_operators_error_and_stays_secret(compiler, caplog, status):
    compiler.expect_request(PATH).respond_with_data(f"{KEY} is wrong", status=status)
    with caplog.at_level("DEBUG"), pytest.raises(Unavailable, match="Plan Compiler does not accept") as caught:
        fetch(HASH, tenant="acme")
    assert caught.value.extra == {"retry_after": 5}
    assert "refuses PLAN_COMPILER_API_KEY" in " ".join(r.message for r in caplog.records if r.levelname == "ERROR")
    assert KEY not in f"{caught.value!r}{caplog.text}"


@pytest.mark.parametrize("key", ["line\nbreak", "ends\r\n", "ключ"])
def test_a_key_that_is_no_header_is_an_operators_error_and_stays_secret(compiler, settings, caplog, key):
    settings.PLAN_COMPILER_API_KEY = key
    with pytest.raises(Unavailable) as caught:
        fetch(HASH, tenant="acme")
    assert "check PLAN_COMPILER_BASE_URL and PLAN_COMPILER_API_KEY" in caplog.text
    assert key not in f"{caught.value!r}{caplog.text}"
    assert caught.value.__cause__ is None


def test_a_closed_port_is_unavailable(settings, caplog):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        settings.PLAN_COMPILER_BASE_URL = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(Unavailable, match="The Plan Compiler cannot be reached") as caught:
            fetch(HASH, tenant="acme")
    assert caught.value.extra == {"retry_after": 5}
    assert settings.PLAN_COMPILER_BASE_URL not in str(caught.value)
    assert f"{settings.PLAN_COMPILER_BASE_URL} cannot be reached: Connection refused" in caplog.text


def test_an_unknown_host_is_unavailable(settings):
    settings.PLAN_COMPILER_BASE_URL = "http://compiler.invalid"
    with pytest.raises(Unavailable, match="cannot be reached"):
        fetch(HASH, tenant="acme")


def test_garbage_instead_of_http_is_unavailable(settings):
    with (
        socket_server(settings, lambda client: client.sendall(b"220 smtp.example.org ESMTP\r\n")),
        pytest.raises(Unavailable, match="cannot be reached"),
    ):
        fetch(HASH, tenant="acme")


def test_a_truncated_answer_is_asked_for_again(settings):
    body = json.dumps(PLAN).encode()
    answers = [body[:10], body]

    def serve(client: socket.socket) -> None:
        client.sendall(OK + b"Content-Length: %d\r\n\r\n" % len(body) + answers.pop(0))

    with socket_server(settings, serve):
        assert fetch(HASH, tenant="acme") == PLAN


def test_a_connection_that_breaks_twice_is_unavailable(settings):
    tried = []
    with (
        socket_server(settings, lambda _: tried.append("again")),
        pytest.raises(Unavailable, match="cannot be reached"),
    ):
        fetch(HASH, tenant="acme")
    assert len(tried) == 2


# -- how long it takes


def drip(text: bytes) -> Callable[[socket.socket], None]:
    def serve(client: socket.socket) -> None:
        for _ in range(400):
            client.sendall(text)
            time.sleep(0.01)

    return serve


def begin_then_drip(beginning: bytes, text: bytes) -> Callable[[socket.socket], None]:
    def serve(client: socket.socket) -> None:
        client.sendall(beginning)
        drip(text)(client)

    return serve


@pytest.mark.parametrize(
    "serve",
    [
        lambda _: time.sleep(2),
        drip(b"H"),
        drip(b"HTTP/1.1 100 Continue\r\n\r\n"),
        begin_then_drip(OK + b"X-Long: ", b"x"),
        begin_then_drip(OK + b"\r\n", b" "),
        begin_then_drip(OK + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x"),
        begin_then_drip(OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"")[:10], b"\0\0\0\xff\xff"),
    ],
    ids=["silent", "status line", "continue", "header", "body", "chunk size", "empty gzip blocks"],
)
def test_however_slowly_an_answer_comes_the_call_ends_in_time(settings, monkeypatch, serve):
    monkeypatch.setattr(plan_compiler, "WHOLE_CALL", 0.4)
    begin = time.monotonic()
    with socket_server(settings, serve), pytest.raises(Unavailable, match="Plan Compiler did not answer in time"):
        fetch(HASH, tenant="acme")
    assert 0.3 < time.monotonic() - begin < 1.5


def test_a_repeat_has_only_the_time_that_is_left(settings, monkeypatch):
    monkeypatch.setattr(plan_compiler, "WHOLE_CALL", 0.8)

    def serve(client: socket.socket) -> None:
        time.sleep(0.5)
        client.sendall(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")

    begin = time.monotonic()
    with socket_server(settings, serve), pytest.raises(Unavailable, match="did not answer in time"):
        fetch(HASH, tenant="acme")
    assert 0.7 < time.monotonic() - begin < 1.5


def test_a_slow_but_complete_answer_is_taken(settings):
    body = json.dumps(PLAN).encode()

    def serve(client: socket.socket) -> None:
        for one in OK + b"Content-Length: %d\r\n\r\n" % len(body) + body:
            client.sendall(bytes([one]))
            time.sleep(0.001)

    with socket_server(settings, serve):
        assert fetch(HASH, tenant="acme") == PLAN


# -- the connection


class KeepsAlive(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    ports: list[int] = []
    cookies: list[str] = []

    def do_GET(self):
        self.ports.append(self.client_address[1])
        self.cookies += self.headers.get_all("Cookie", [])
        body = json.dumps(PLAN).encode()
        self.send_response(200)
        self.send_header("Set-Cookie", "session=1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def keeping_alive(settings: Any) -> Iterator[ThreadingHTTPServer]:
    KeepsAlive.ports, KeepsAlive.cookies = [], []
    with ThreadingHTTPServer(("127.0.0.1", 0), KeepsAlive) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        settings.PLAN_COMPILER_BASE_URL = f"http://127.0.0.1:{server.server_port}"
        yield server
        server.shutdown()
        plan_compiler._session_of.cache_clear()  # hangs up, so that the server can end


def test_one_connection_serves_many_calls_and_keeps_no_cookie(settings):
    with keeping_alive(settings):
        for _ in range(5):
            assert fetch(HASH, tenant="acme") == PLAN
    assert (len(KeepsAlive.ports), len(set(KeepsAlive.ports)), KeepsAlive.cookies) == (5, 1, [])


def test_a_forked_process_opens_its_own_connection(settings, monkeypatch):
    with keeping_alive(settings):
        fetch(HASH, tenant="acme")
        monkeypatch.setattr(os, "getpid", lambda: -1)
        fetch(HASH, tenant="acme")
    assert len(set(KeepsAlive.ports)) == 2


def test_proxies_and_passwords_of_the_environment_are_not_used(compiler, settings, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine localhost login me password s3cret\n")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    settings.PLAN_COMPILER_API_KEY = ""
    compiler.expect_request(PATH).respond_with_json(PLAN)
    assert fetch(HASH, tenant="acme") == PLAN
    assert "Authorization" not in asked(compiler)[0].headers


def certificate(folder: Path) -> Path:
    """A self-signed certificate of localhost with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "localhost.pem"
    path.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def tls_compiler(settings, tmp_path) -> Iterator[tuple[HTTPServer, Path]]:
    """A listener behind TLS, and the file of its certificate, which nobody trusts by itself."""
    path = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    with HTTPServer(host="localhost", ssl_context=context, threaded=True) as server:
        settings.PLAN_COMPILER_BASE_URL = server.url_for("").rstrip("/")
        server.expect_request(PATH).respond_with_json(PLAN)
        yield server, path


def test_a_certificate_nobody_vouches_for_is_not_accepted(tls_compiler, caplog):
    with pytest.raises(Unavailable, match="cannot be reached"):
        fetch(HASH, tenant="acme")
    assert (asked(tls_compiler[0]), "SSL" in caplog.text or "certificate" in caplog.text) == ([], True)


def test_a_plan_comes_over_tls(tls_compiler, settings):
    session = plan_compiler._session_of(os.getpid(), settings.PLAN_COMPILER_API_KEY)
    session.verify = str(tls_compiler[1])
    try:
        assert fetch(HASH, tenant="acme") == PLAN
    finally:
        plan_compiler._session_of.cache_clear()


def test_a_slow_compiler_holds_up_two_callers_and_no_more(compiler):
    let_go, arrived = threading.Event(), 0

    def slowly(_):
        nonlocal arrived
        arrived += 1
        let_go.wait(8)
        return Response(json.dumps(PLAN))

    compiler.expect_request(PATH).respond_with_handler(slowly)
    with ThreadPoolExecutor(2) as pool:
        slow = [pool.submit(fetch, HASH, tenant="acme") for _ in range(2)]
        deadline = time.monotonic() + 5
        while arrived < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(Unavailable, match="other plans") as refusal:
            fetch(HASH, tenant="acme")
        let_go.set()
        assert [call.result() for call in slow] == [PLAN, PLAN]
    assert refusal.value.extra["retry_after"] == 5
    assert fetch(HASH, tenant="acme") == PLAN


def test_an_answer_with_a_name_that_comes_twice_is_not_used(compiler):
    doubled = json.dumps(PLAN).replace('"name":', '"name": "Another", "name":', 1)
    compiler.expect_request(PATH).respond_with_data(doubled, content_type="application/json")
    with pytest.raises(BadPlanCompilerAnswer, match="same name"):
        fetch(HASH, tenant="acme")
