"""The Portia client against answers that a healthy runtime does not give, and against a real socket."""

from __future__ import annotations

import gzip
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
import responses
from pytest_httpserver import HTTPServer
from responses import matchers
from werkzeug import Request, Response

from executions.portia import connection, errors
from executions.portia.client import CallRetry, PortiaClient, portia
from executions.portia.wire import PortiaPlan, PortiaStep
from orchestrator_project.telemetry import correlated

BASE = "http://portia.test"
API = f"{BASE}/api/v1"
KEY = "key-of-ours"
RUN = {"run_id": "prun-1", "plan_id": "plan-1", "status": "running", "version": 3}
CLARIFICATION = {"clarification_id": "clar-1", "run_id": "prun-1", "status": "pending", "category": "Input"}
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
QUICK = CallRetry(first_pause=0.01, longest_pause=0.2)


def client_of(base_url: str = BASE, **changes: object) -> PortiaClient:
    return PortiaClient(**{"base_url": base_url, "api_key": KEY, "retry": QUICK} | changes)


def problem(status: int, code: str, **extra: object) -> dict:
    return {
        "status": status,
        "content_type": "application/problem+json",
        "body": json.dumps({"status": status, "code": code, "message": "because", **extra}),
    }


@pytest.fixture
def client() -> PortiaClient:
    return client_of()


@pytest.fixture
def net():
    with responses.RequestsMock() as mock:
        yield mock


@pytest.fixture
def server():
    with HTTPServer(threaded=True) as running:
        yield running


def plan() -> PortiaPlan:
    step = PortiaStep(id="only", name="Only", type="action", tool="echo")
    return PortiaPlan(plan_id="anumate-ab", name="Refund", steps=[step])


# -- what a request carries


def test_each_call_carries_key_tenant_correlation_and_trace(client, net):
    net.get(f"{API}/runs/prun-1", json=RUN)
    with correlated("corr-7", TRACE):
        client.get_run("prun-1", tenant="acme")
    sent = net.calls[0].request.headers
    assert sent["Authorization"] == f"Api-Key {KEY}"
    assert sent["X-Tenant-ID"] == "acme"
    assert sent["X-Request-ID"] == sent["X-Correlation-ID"] == "corr-7"
    assert sent["traceparent"] == TRACE


def test_outside_of_a_request_no_correlation_is_sent(client, net):
    net.get(f"{API}/runs/prun-1", json=RUN)
    client.get_run("prun-1", tenant="acme")
    assert {"X-Correlation-ID", "X-Request-ID", "traceparent"}.isdisjoint(net.calls[0].request.headers)


@pytest.mark.parametrize("correlation", ["żółw", "two\nlines", "x" * 129])
def test_a_correlation_id_that_is_no_header_is_left_out(client, net, correlation):
    net.get(f"{API}/runs/prun-1", json=RUN)
    with correlated(correlation):
        client.get_run("prun-1", tenant="acme")
    assert "X-Correlation-ID" not in net.calls[0].request.headers


@pytest.mark.parametrize("tenant", ["żółw", "two\nlines"])
def test_a_tenant_that_is_no_header_is_a_typed_error(server, tenant):
    with pytest.raises(errors.PortiaError, match="cannot be made") as caught:
        client_of(server.url_for("")).get_run("prun-1", tenant=tenant)
    assert not caught.value.retryable


def test_parameters_that_are_no_json_are_a_typed_error(client):
    with pytest.raises(errors.PortiaError, match="cannot be made"):
        client.create_run("plan-1", tenant="acme", idempotency_key="k", parameters={"x": float("nan")})


def test_ids_cannot_leave_their_place_in_the_path(client, net):
    net.get(f"{API}/runs/..%2F..%2Fadmin%3Fx", json=RUN)
    assert client.get_run("../../admin?x", tenant="acme").run_id == "prun-1"


@pytest.mark.parametrize("identifier", ["", ".", ".."])
def test_an_id_that_is_no_path_segment_is_refused(client, identifier):
    with pytest.raises(ValueError, match="an id is needed"):
        client.get_run(identifier, tenant="acme")


def test_a_run_is_created_under_its_idempotency_key(client, net):
    net.post(
        f"{API}/runs",
        json=RUN,
        status=201,
        match=[
            matchers.header_matcher({"Idempotency-Key": "exec-1.0"}),
            matchers.json_params_matcher(
                {
                    "plan_id": "plan-1",
                    "parameters": {"order": "A-17"},
                    "variables": {},
                    "triggered_by": "alice",
                    "end_user_id": None,
                    "correlation_id": "corr-7",
                    "metadata": {},
                }
            ),
        ],
    )
    run = client.create_run(
        "plan-1",
        tenant="acme",
        idempotency_key="exec-1.0",
        parameters={"order": "A-17"},
        triggered_by="alice",
        correlation_id="corr-7",
    )
    assert (run.run_id, run.version) == ("prun-1", 3)


@pytest.mark.parametrize("key", ["", "k" * 256])
def test_a_run_without_a_usable_key_is_never_sent(client, key):
    with pytest.raises(ValueError, match="idempotency_key"):
        client.create_run("plan-1", tenant="acme", idempotency_key=key)


def test_a_plan_is_stored_with_all_its_fields(client, net):
    net.post(f"{API}/plans", json={"plan_id": "anumate-ab", "portia_plan_id": "plan-9"}, status=201)
    stored = client.create_plan(plan(), tenant="acme")
    assert (stored.plan_id, stored.portia_plan_id) == ("anumate-ab", "plan-9")
    assert json.loads(net.calls[0].request.body) == plan().to_json()


def test_a_stored_plan_is_read_back(client, net):
    net.get(f"{API}/plans/anumate-ab", json={"plan_id": "anumate-ab", "created_at": "2026-01-01T00:00:00"})
    assert client.get_plan("anumate-ab", tenant="acme").created_at.utcoffset().total_seconds() == 0


@pytest.mark.parametrize("verb", ["pause", "resume", "cancel"])
def test_commands_answer_the_run(client, net, verb):
    net.post(f"{API}/runs/prun-1/{verb}", json=RUN, status=202)
    assert getattr(client, f"{verb}_run")("prun-1", tenant="acme").status == "running"


def test_a_decision_is_sent_with_the_digest_it_saw(client, net):
    net.post(f"{API}/clarifications/clar-1/respond", json=CLARIFICATION | {"status": "rejected"})
    answered = client.respond_to_clarification(
        "clar-1", tenant="acme", approved=False, approver_id="bob", reason="no", action_digest="d1"
    )
    sent = json.loads(net.calls[0].request.body)
    assert sent == {"approved": False, "approver_id": "bob", "reason": "no", "action_digest": "d1"}
    assert answered.status == "rejected"


def test_a_false_answer_is_an_answer(client, net):
    net.post(f"{API}/clarifications/clar-1/respond", json=CLARIFICATION)
    client.respond_to_clarification("clar-1", tenant="acme", approved=True, approver_id="bob", response=False)
    assert json.loads(net.calls[0].request.body)["response"] is False


def test_clarifications_are_listed_by_run_and_by_status(client, net):
    only_pending = [matchers.query_param_matcher({"status": "pending"})]
    net.get(f"{API}/runs/prun-1/clarifications", json={"clarifications": [CLARIFICATION]})
    net.get(f"{API}/clarifications", json={"clarifications": [CLARIFICATION]}, match=only_pending)
    net.get(f"{API}/clarifications/clar-1", json=CLARIFICATION)
    of_run = client.get_clarifications("prun-1", tenant="acme")
    assert of_run == client.list_clarifications(tenant="acme", status="pending")
    assert of_run == [client.get_clarification("clar-1", tenant="acme")]


def test_runs_are_listed_page_by_page(client, net):
    query = {"status": "paused", "cursor": "c1"}
    net.get(f"{API}/runs", json={"runs": [RUN], "next_cursor": "c2"}, match=[matchers.query_param_matcher(query)])
    runs, cursor = client.list_runs(tenant="acme", status="paused", cursor="c1")
    assert ([run.run_id for run in runs], cursor) == (["prun-1"], "c2")


# -- which failure becomes which error


@pytest.mark.parametrize(
    ("status", "code", "kind", "retryable"),
    [
        (400, "invalid_json", errors.PortiaRejected, False),
        (401, "unauthorized", errors.Unauthorized, False),
        (403, "forbidden", errors.Unauthorized, False),
        (404, "not_found", errors.NotFound, True),
        (404, "plan_not_found", errors.PlanNotFound, False),
        (404, "run_not_found", errors.RunNotFound, False),
        (404, "clarification_not_found", errors.ClarificationNotFound, False),
        (405, "method_not_allowed", errors.NotSupported, False),
        (409, "plan_conflict", errors.PlanConflict, False),
        (409, "clarification_already_resolved", errors.AlreadyResolved, False),
        (409, "stale_subject", errors.StaleSubject, False),
        (409, "idempotency_in_progress", errors.IdempotencyInProgress, True),
        (413, "payload_too_large", errors.PortiaRejected, False),
        (418, "something_new", errors.PortiaRejected, False),
        (422, "idempotency_key_reused", errors.PortiaRejected, False),
        (422, "unsupported_step_type", errors.InvalidPlan, False),
        (429, "rate_limited", errors.PortiaUnavailable, True),
        (500, "internal_error", errors.PortiaUnavailable, True),
        (501, "not_here", errors.NotSupported, False),
        (503, "unavailable", errors.PortiaUnavailable, True),
        (504, "something_new", errors.PortiaUnavailable, True),
    ],
)
def test_each_problem_becomes_its_error(net, status, code, kind, retryable):
    net.get(f"{API}/runs/prun-1", **problem(status, code))
    with pytest.raises(errors.PortiaError) as caught:
        client_of(retry=CallRetry(tries=1)).get_run("prun-1", tenant="acme")
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.code, caught.value.retryable) == (status, code, retryable)
    assert caught.value.message.endswith(": because")


def test_errors_carry_what_the_problem_says(client, net):
    net.post(f"{API}/plans", **problem(422, "invalid_plan", errors=[{"loc": "steps[0].tool", "msg": "unknown"}]))
    net.post(f"{API}/runs/r/pause", **problem(409, "invalid_state", current_status="completed"))
    net.post(f"{API}/runs/r/resume", **problem(409, "clarifications_outstanding", clarification_ids=["clar-1"]))
    net.post(f"{API}/clarifications/c/respond", **problem(422, "invalid_response", options=["main", "reserve"]))
    with pytest.raises(errors.InvalidPlan) as plan_error:
        client.create_plan(plan(), tenant="acme")
    with pytest.raises(errors.InvalidState) as state:
        client.pause_run("r", tenant="acme")
    with pytest.raises(errors.ClarificationsOutstanding) as outstanding:
        client.resume_run("r", tenant="acme")
    with pytest.raises(errors.InvalidResponse) as answer:
        client.respond_to_clarification("c", tenant="acme", approved=True, approver_id="bob", response="x")
    assert plan_error.value.errors == [{"loc": "steps[0].tool", "msg": "unknown"}]
    assert state.value.current_status == "completed"
    assert outstanding.value.clarification_ids == ["clar-1"]
    assert answer.value.options == ["main", "reserve"]


def test_extra_fields_of_a_wrong_type_are_dropped(client, net):
    net.post(f"{API}/plans", **problem(422, "invalid_plan", errors="many"))
    with pytest.raises(errors.InvalidPlan) as caught:
        client.create_plan(plan(), tenant="acme")
    assert caught.value.errors == []


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"<html>welcome</html>", "text/html"),
        (b'{"run_id": "prun-1", "status": "running"}', "text/plain"),
        (b"{", "application/json"),
        (b"", "application/json"),
        (b"[]", "application/json"),
        (b"null", "application/json"),
        (b"\xff\xfe", "application/json"),
        (b"[" * 5000, "application/json"),
        (b'{"run_id": "prun-1", "status": "running", "progress": NaN}', "application/json"),
        (b'{"status": "running"}', "application/json"),
        (b'{"run_id": "prun-1"}', "application/json"),
        (b'{"run_id": "prun-1", "status": "running", "version": "many"}', "application/json"),
        (b'{"run_id": "prun-1", "status": "running", "steps": 7}', "application/json"),
        (b'{"run_id": "prun-1", "status": "running", "steps": ["x"]}', "application/json"),
        (b'{"run_id": "prun-1", "status": "running", "started_at": "soon"}', "application/json"),
    ],
)
def test_an_answer_outside_the_contract_is_a_typed_retryable_error(client, net, body, content_type):
    net.get(f"{API}/runs/prun-1", body=body, content_type=content_type)
    with pytest.raises(errors.BadPortiaAnswer) as caught:
        client.get_run("prun-1", tenant="acme")
    assert caught.value.retryable
    assert len(net.calls) == 1


def test_a_proxys_404_page_is_not_a_lost_run(client, net):
    net.get(f"{API}/runs/prun-1", body="<h1>nginx</h1>", content_type="text/html", status=404)
    with pytest.raises(errors.BadPortiaAnswer):
        client.get_run("prun-1", tenant="acme")


def test_unknown_fields_and_words_are_data(client, net):
    net.get(f"{API}/runs/prun-1", json=RUN | {"status": "hibernating", "mood": "good", "paused_reason": "winter"})
    assert client.get_run("prun-1", tenant="acme").status == "hibernating"


def test_a_nul_in_an_answer_is_replaced_and_a_written_backslash_stays(client, net):
    body = rb'{"run_id":"r","status":"running","results":{"a":"x\u0000\\u0000\\\u0000"}}'
    net.get(f"{API}/runs/prun-1", body=body, content_type="application/json")
    assert client.get_run("prun-1", tenant="acme").results == {"a": "x\ufffd\\u0000\\\ufffd"}


# -- repeats


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_passing_failure_is_repeated(client, net, status):
    net.post(f"{API}/runs", status=status)
    net.post(f"{API}/runs", status=status)
    net.post(f"{API}/runs", json=RUN, status=201)
    assert client.create_run("plan-1", tenant="acme", idempotency_key="k").run_id == "prun-1"
    assert {call.request.headers["Idempotency-Key"] for call in net.calls} == {"k"}


def test_the_third_failure_is_the_last(client, net):
    net.get(f"{API}/runs/prun-1", status=503)
    with pytest.raises(errors.PortiaUnavailable):
        client.get_run("prun-1", tenant="acme")
    assert len(net.calls) == 3


def test_a_broken_connection_is_repeated(client, net):
    net.get(f"{API}/runs/prun-1", body=requests.ConnectionError("reset"))
    net.get(f"{API}/runs/prun-1", json=RUN)
    assert client.get_run("prun-1", tenant="acme").run_id == "prun-1"


def test_a_refusal_is_not_repeated(client, net):
    net.get(f"{API}/runs/prun-1", **problem(404, "run_not_found"))
    with pytest.raises(errors.RunNotFound):
        client.get_run("prun-1", tenant="acme")
    assert len(net.calls) == 1


def test_a_time_out_is_not_repeated_at_once(client, net):
    net.get(f"{API}/runs/prun-1", body=requests.ReadTimeout("slow"))
    with pytest.raises(errors.PortiaTimeout) as caught:
        client.get_run("prun-1", tenant="acme")
    assert caught.value.retryable
    assert len(net.calls) == 1


def test_a_short_retry_after_is_waited_for(net):
    net.get(f"{API}/runs/prun-1", status=503, headers={"Retry-After": "1"})
    net.get(f"{API}/runs/prun-1", json=RUN)
    begin = time.monotonic()
    client_of(retry=CallRetry(first_pause=0.01)).get_run("prun-1", tenant="acme")
    assert time.monotonic() - begin >= 1


def test_a_long_retry_after_is_left_to_the_caller(client, net):
    net.get(f"{API}/runs/prun-1", status=429, headers={"Retry-After": "120"})
    with pytest.raises(errors.PortiaUnavailable) as caught:
        client.get_run("prun-1", tenant="acme")
    assert (caught.value.retry_after, len(net.calls)) == (120, 1)


def test_a_retry_after_date_in_the_past_means_now(client, net):
    net.get(f"{API}/runs/prun-1", status=503, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})
    net.get(f"{API}/runs/prun-1", json=RUN)
    assert client.get_run("prun-1", tenant="acme").run_id == "prun-1"


def test_an_unreadable_retry_after_is_ignored(client, net):
    net.get(f"{API}/runs/prun-1", status=503, headers={"Retry-After": "soon"})
    net.get(f"{API}/runs/prun-1", json=RUN)
    assert client.get_run("prun-1", tenant="acme").run_id == "prun-1"


def test_pauses_grow_with_full_jitter_and_stay_below_the_longest():
    retry = CallRetry(tries=9, first_pause=0.2, longest_pause=1.0)
    pauses = [[retry.pause(error=errors.PortiaUnreachable(), tried=n) for _ in range(200)] for n in (1, 2, 8)]
    assert [max(some) <= limit for some, limit in zip(pauses, (0.2, 0.4, 1.0), strict=True)] == [True] * 3
    assert max(pauses[2]) > 0.4 > 0.1 > min(pauses[2])


# -- optional features


def test_a_healthy_runtime_tells_what_it_can(client, net):
    net.get(f"{API}/health", json={"status": "ok", "runtime": "embedded", "capabilities": ["long_poll"], "llm": False})
    health = client.health_check()
    assert (health.ok, health.runtime, health.capabilities) == (True, "embedded", {"long_poll"})


def test_an_unhealthy_runtime_is_an_answer_and_not_an_error(client, net):
    net.get(f"{API}/health", status=503)
    assert client.health_check().ok is False
    assert len(net.calls) == 1


def test_runs_are_asked_for_in_batches_of_at_most_a_hundred(client, net):
    net.get(f"{API}/health", json={"capabilities": ["batch_runs"]})
    net.add_callback("GET", f"{API}/runs", callback=_batch_answer, content_type="application/json")
    ids = [f"prun-{n:036}" for n in range(250)]
    runs, missing = client.get_runs([*ids, ids[0]], tenant="acme")
    asked = [call.request.params["ids"].split(",") for call in net.calls[1:]]
    assert [len(batch) for batch in asked] == [100, 100, 50]
    assert ([run.run_id for run in runs] + missing, missing) == (ids, [ids[-1]])


def _batch_answer(request):
    ids = request.params["ids"].split(",")
    known = [one for one in ids if not one.endswith("249")]
    missing = [one for one in ids if one.endswith("249")]
    return 200, {}, json.dumps({"runs": [RUN | {"run_id": one} for one in known], "missing": missing})


def test_long_ids_make_smaller_batches(client, net):
    net.get(f"{API}/health", json={"capabilities": ["batch_runs"]})
    net.add_callback("GET", f"{API}/runs", callback=_batch_answer, content_type="application/json")
    runs, _ = client.get_runs([f"{n:0128}" for n in range(100)], tenant="acme")
    assert len(runs) == 100
    assert max(len(call.request.url) for call in net.calls) < 6200


def test_without_batches_each_run_is_asked_for_alone(client, net):
    net.get(f"{API}/health", json={"capabilities": []})
    net.get(f"{API}/runs/prun-1", json=RUN)
    net.get(f"{API}/runs/gone", **problem(404, "run_not_found"))
    net.get(f"{API}/runs/odd", json={"odd": True})
    runs, missing = client.get_runs(["prun-1", "gone", "odd"], tenant="acme")
    assert ([run.run_id for run in runs], missing) == (["prun-1"], ["gone"])


def test_an_unreadable_run_does_not_hold_up_its_batch(client, net, caplog):
    net.get(f"{API}/health", json={"capabilities": ["batch_runs"]})
    net.get(f"{API}/runs", json={"runs": [{"run_id": "odd"}, "odd", RUN], "missing": ["unasked"]})
    runs, missing = client.get_runs(["odd", "prun-1"], tenant="acme")
    assert ([run.run_id for run in runs], missing) == (["prun-1"], [])
    assert "odd is left out" in caplog.text


def test_a_runtime_without_health_call_has_no_optional_features(client, net):
    net.get(f"{API}/health", **problem(404, "not_found"))
    assert client.capabilities() == frozenset()


def test_capabilities_are_asked_for_once_in_a_while(client, net):
    net.get(f"{API}/health", json={"capabilities": ["long_poll"]})
    assert client.capabilities() == client.capabilities() == {"long_poll"}
    assert len(net.calls) == 1


def test_capabilities_survive_a_spell_of_bad_health(client, net, monkeypatch):
    monkeypatch.setattr("executions.portia.client.CAPABILITIES_AGE", 0.0)
    net.get(f"{API}/health", json={"capabilities": ["long_poll"]})
    net.get(f"{API}/health", status=503)
    assert client.capabilities() == client.capabilities() == {"long_poll"}


def test_a_watcher_waits_for_the_next_version(client, net):
    net.get(f"{API}/health", json={"capabilities": ["long_poll"]})
    net.get(f"{API}/runs/prun-1", json=RUN, match=[matchers.query_param_matcher({"wait": "55", "since": "3"})])
    client.get_run("prun-1", tenant="acme", wait=90, since=3)
    timeout = net.calls[1].request.req_kwargs["timeout"]
    assert (timeout.connect_timeout, timeout.read_timeout) == (3.0, 65.0)


def test_without_long_polls_a_watcher_gets_the_run_as_it_is(client, net):
    net.get(f"{API}/health", json={"capabilities": []})
    net.get(f"{API}/runs/prun-1", json=RUN, match=[matchers.query_param_matcher({})])
    assert client.get_run("prun-1", tenant="acme", wait=30, since=3).version == 3


def test_the_tools_are_listed(client, net):
    net.get(f"{API}/tools", json={"tools": [{"id": "echo", "args_schema": {"type": "object"}}]})
    [tool] = client.tools(tenant="acme")
    assert (tool.id, tool.name, tool.args_schema) == ("echo", "echo", {"type": "object"})


@pytest.mark.parametrize("answer", [problem(404, "not_found"), problem(405, "method_not_allowed"), {"status": 501}])
def test_a_runtime_that_does_not_list_its_tools_is_fine(client, net, answer):
    net.get(f"{API}/tools", **answer)
    assert client.tools(tenant="acme") is None


# -- a real socket


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """The address of a listener that hands each connection, its request read, to `serve`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, serve), daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
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


class KeepsAlive(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    ports: set[int] = set()

    def do_GET(self):
        self.ports.add(self.client_address[1])
        body = json.dumps(RUN).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_one_connection_serves_many_calls():
    with ThreadingHTTPServer(("127.0.0.1", 0), KeepsAlive) as keeping:
        keeping.daemon_threads = True
        threading.Thread(target=keeping.serve_forever, args=(0.01,), daemon=True).start()
        client = client_of(f"http://127.0.0.1:{keeping.server_port}")
        for _ in range(5):
            client.get_run("prun-1", tenant="acme")
        keeping.shutdown()
        del client
    assert len(KeepsAlive.ports) == 1


def test_a_slow_answer_ends_in_a_time_out(server):
    release = threading.Event()

    def answer(_: Request) -> Response:
        release.wait(5)
        return Response("{}", content_type="application/json")

    server.expect_request("/api/v1/runs/prun-1").respond_with_handler(answer)
    begin = time.monotonic()
    with pytest.raises(errors.PortiaTimeout):
        client_of(server.url_for(""), read_timeout=0.2).get_run("prun-1", tenant="acme")
    release.set()
    assert time.monotonic() - begin < 2


def test_a_dripping_answer_ends_at_the_deadline(server):
    def drip():
        yield b'{"run_id": "'
        for _ in range(100):
            time.sleep(0.05)
            yield b"x"

    server.expect_request("/api/v1/runs/prun-1").respond_with_handler(
        lambda _: Response(drip(), content_type="application/json")
    )
    begin = time.monotonic()
    client = client_of(server.url_for(""), connect_timeout=0.2, read_timeout=0.3)
    with pytest.raises(errors.PortiaTimeout, match="too slowly"):
        client.get_run("prun-1", tenant="acme")
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize(
    ("beginning", "dripping"),
    [
        (b"", b"H"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (OK + b"X-Long: ", b"x"),
        (OK + b"\r\n", b" "),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x"),
    ],
    ids=["status line", "continue", "header", "body", "chunk size"],
)
def test_whatever_drips_the_call_ends_in_time(beginning, dripping):
    def serve(connected: socket.socket) -> None:
        connected.sendall(beginning)
        for _ in range(400):
            connected.sendall(dripping)
            time.sleep(0.01)

    begin = time.monotonic()
    with listening(serve) as url, pytest.raises(errors.PortiaTimeout):
        client_of(url, connect_timeout=0.2, read_timeout=0.3).get_run("prun-1", tenant="acme")
    assert time.monotonic() - begin < 1.5


def test_a_slow_but_complete_answer_is_taken():
    def serve(connected: socket.socket) -> None:
        for one in OK + b"\r\n" + json.dumps(RUN).encode():
            connected.sendall(bytes([one]))
            time.sleep(0.001)

    with listening(serve) as url:
        assert client_of(url).get_run("prun-1", tenant="acme").run_id == "prun-1"


def test_a_call_with_its_repeats_ends_within_its_time(server):
    def answer(_: Request) -> Response:
        time.sleep(0.25)
        return Response(status=503)

    server.expect_request("/api/v1/runs/prun-1").respond_with_handler(answer)
    begin = time.monotonic()
    client = client_of(server.url_for(""), connect_timeout=0.2, read_timeout=0.4, retry=CallRetry(tries=50))
    with pytest.raises(errors.PortiaError):
        client.get_run("prun-1", tenant="acme")
    assert time.monotonic() - begin < 1.5


def test_a_closed_port_is_unreachable_with_the_systems_words():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(errors.PortiaUnreachable, match="Connection refused") as caught:
            client_of(f"http://127.0.0.1:{port}").get_run("prun-1", tenant="acme")
    assert caught.value.retryable
    assert KEY not in repr(caught.value)


def test_an_unknown_host_is_unreachable():
    with pytest.raises(errors.PortiaUnreachable) as caught:
        client_of("http://portia.invalid", retry=CallRetry(tries=1)).get_run("prun-1", tenant="acme")
    assert not caught.value.sent


def test_a_request_is_not_taken_for_unsent_because_an_earlier_one_was():
    try:
        client_of("http://portia.invalid", retry=CallRetry(tries=1)).get_run("prun-1", tenant="acme")
    except errors.PortiaUnreachable:
        with listening(lambda _: None) as url, pytest.raises(errors.PortiaUnreachable) as caught:
            client_of(url).get_run("prun-1", tenant="acme")
    assert caught.value.sent


@pytest.mark.parametrize(
    "garbage", [b"220 smtp.example.org ESMTP\r\n", OK + b"Content-Length: 5, 6\r\n\r\n", OK + b"A: b\r\n" * 200]
)
def test_garbage_instead_of_http_is_unreachable(garbage):
    with listening(lambda connected: connected.sendall(garbage)) as url, pytest.raises(errors.PortiaUnreachable):
        client_of(url).get_run("prun-1", tenant="acme")


def test_a_truncated_answer_is_repeated():
    body = json.dumps(RUN).encode()
    bodies = [body[:10], body]

    def serve(connected: socket.socket) -> None:
        connected.sendall(OK + b"Content-Length: %d\r\n\r\n" % len(body) + bodies.pop(0))

    with listening(serve) as url:
        assert client_of(url).get_run("prun-1", tenant="acme").run_id == "prun-1"


@pytest.mark.parametrize("location", [b"/elsewhere", b"http://[", b"\xff"])
def test_a_redirect_is_neither_followed_nor_read(location):
    served = []

    def serve(connected: socket.socket) -> None:
        served.append("begun")
        connected.sendall(b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\n\r\n")
        for _ in range(2000):
            connected.sendall(b"x" * 65536)
        served.append("sent")

    with listening(serve) as url, pytest.raises(errors.BadPortiaAnswer, match="redirect"):
        client_of(url).get_run("prun-1", tenant="acme")
    assert served == ["begun"]


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("120", 120),
        ("9" * 5000, 21_600),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 21_600),
        ("Fri, 31 Dec 9999 23:59:59 -2300", 21_600),
        (f"Fri, 31 Dec {'9' * 5000} 23:59:59 GMT", None),
        ("", None),
    ],
)
def test_no_retry_after_is_longer_than_six_hours_or_breaks_the_call(server, said, seconds):
    server.expect_request("/api/v1/runs/prun-1").respond_with_data(status=503, headers={"Retry-After": said})
    with pytest.raises(errors.PortiaUnavailable) as caught:
        client_of(server.url_for("")).get_run("prun-1", tenant="acme")
    assert caught.value.retry_after == seconds


def test_an_endless_answer_is_cut_off(server, monkeypatch):
    monkeypatch.setattr(connection, "LARGEST_ANSWER", 100_000)
    server.expect_request("/api/v1/runs/prun-1").respond_with_data(b" " * 200_000, content_type="application/json")
    with pytest.raises(errors.BadPortiaAnswer, match="larger than 100000 bytes"):
        client_of(server.url_for("")).get_run("prun-1", tenant="acme")


def test_a_compressed_answer_is_measured_unpacked(server, monkeypatch):
    monkeypatch.setattr(connection, "LARGEST_ANSWER", 1_000_000)
    server.expect_request("/api/v1/runs/prun-1").respond_with_data(
        gzip.compress(b" " * 5_000_000), content_type="application/json", headers={"Content-Encoding": "gzip"}
    )
    with pytest.raises(errors.BadPortiaAnswer, match="larger than"):
        client_of(server.url_for("")).get_run("prun-1", tenant="acme")


def test_cookies_of_the_runtime_are_not_kept(server):
    server.expect_request("/api/v1/runs/prun-1").respond_with_json(RUN, headers={"Set-Cookie": "a=b"})
    client = client_of(server.url_for(""))
    client.get_run("prun-1", tenant="acme")
    client.get_run("prun-1", tenant="acme")
    assert "Cookie" not in server.log[1][0].headers


def test_proxies_of_the_environment_are_not_used(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    server.expect_request("/api/v1/runs/prun-1").respond_with_json(RUN)
    assert client_of(server.url_for("")).get_run("prun-1", tenant="acme").run_id == "prun-1"


# -- secrets and settings


def test_the_key_is_in_no_text_of_the_client(client):
    assert KEY not in repr(client)
    assert "portia.test" in repr(client)


@pytest.mark.parametrize("key", ["", "with space", "line\nbreak", "schlüssel"])
def test_an_unusable_key_is_refused_without_being_quoted(key):
    with pytest.raises(ValueError, match="PORTIA_API_KEY") as caught:
        client_of(api_key=key)
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["", "portia:8080", "ftp://portia", "http://user:pw@portia", "http://", "http://p/?a=b"]
)
def test_an_unusable_address_is_refused(url):
    with pytest.raises(ValueError, match="PORTIA_BASE_URL"):
        client_of(url)


def test_a_process_has_one_client_until_a_setting_changes(settings):
    settings.PORTIA_BASE_URL = "http://one.test"
    first = portia()
    assert portia() is first
    settings.PORTIA_BASE_URL = "http://two.test"
    assert repr(portia()) == "<PortiaClient http://two.test>"


def test_a_forked_process_gets_its_own_client(settings, monkeypatch):
    settings.PORTIA_BASE_URL = "http://one.test"
    parents = portia()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert portia() is not parents


def test_an_error_without_a_text_speaks_its_default_sentence():
    assert str(errors.RunNotFound()) == "The Portia Runtime does not know this run."
    assert errors.PortiaUnavailable("busy", retry_after=2.0).retry_after == 2.0
