"""What is known of the runtime without waiting for it: asked for seldom, and never for long."""

import socket
import threading
import time

import pytest

from executions.portia.client import PortiaClient, portia
from executions.portia.needs import Runtime
from executions.portia.recent import Recent


def client_of(url):
    return PortiaClient(base_url=url, api_key="key")


def asked(server):
    return [request.path.rsplit("/", 1)[1] for request, _ in server.log]


def test_health_and_tools_make_one_picture_that_is_asked_for_once(able):
    looks = [portia().known_runtime(tenant="acme") for _ in range(3)]
    assert looks[0].tools == {"echo", "wait"}
    assert (looks[0].answers, looks[0].kind, "loops" in looks[0].capabilities) == (True, "odd", True)
    assert looks[0] == looks[1] == looks[2]
    assert asked(able) == ["health", "tools"]


def test_tools_are_asked_for_by_tenant_and_health_once_for_all(able):
    for tenant in ("acme", "globex", "acme"):
        portia().known_runtime(tenant=tenant)
    assert asked(able) == ["health", "tools", "tools"]


def test_a_language_model_counts_as_a_capability(odd):
    odd({"capabilities": ["retry"], "llm": True})
    assert portia().known_runtime(tenant="acme").capabilities == {"retry", "llm"}


@pytest.mark.parametrize("health", [{}, {"capabilities": None}, {"capabilities": "retry"}])
def test_a_runtime_that_lists_nothing_says_nothing(odd, health):
    odd({"llm": True, **health})
    assert portia().known_runtime(tenant="acme") == Runtime(answers=True)


def test_a_runtime_without_health_call_is_there_and_says_only_which_tools_it_has(httpserver):
    problem = {"code": "not_found", "message": "no such route"}
    httpserver.expect_request("/api/v1/health").respond_with_json(problem, status=404)
    httpserver.expect_request("/api/v1/tools").respond_with_json({"tools": [{"id": "echo"}]})
    known = client_of(httpserver.url_for("").rstrip("/")).known_runtime(tenant="acme")
    assert known == Runtime(answers=True, tools=frozenset({"echo"}))


def test_a_runtime_that_is_away_is_asked_once_in_fifteen_seconds(httpserver, monkeypatch):
    client = client_of(httpserver.url_for("").rstrip("/"))
    httpserver.expect_request("/api/v1/health").respond_with_json({}, status=503)
    assert [client.known_runtime(tenant="acme") for _ in range(3)] == [Runtime()] * 3
    assert asked(httpserver) == ["health"]
    monkeypatch.setattr("executions.portia.recent.AGE", 0.0)
    httpserver.clear()
    httpserver.expect_request("/api/v1/health").respond_with_json({"capabilities": []})
    assert client.known_runtime(tenant="acme").answers is True


def test_a_runtime_that_hangs_holds_nobody_up_for_long():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = client_of(f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        first = client.known_runtime(tenant="acme")
        middle = time.monotonic()
        again = client.known_runtime(tenant="globex")
    assert first == again == Runtime()
    assert middle - began < 2.5
    assert time.monotonic() - middle < 0.5


def test_while_one_asks_the_others_get_the_last_answer():
    asking, go_on = threading.Event(), threading.Event()

    def ask():
        asking.set()
        assert go_on.wait(5)
        return "new"

    recent = Recent(ask, otherwise="old")
    first = threading.Thread(target=recent.get)
    first.start()
    assert asking.wait(5)
    assert recent.get() == "old"
    go_on.set()
    first.join()
    assert recent.get() == "new"
