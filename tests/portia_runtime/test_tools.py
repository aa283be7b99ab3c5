"""The tools do real work."""

from __future__ import annotations

import socket

import pytest
from django.core import mail
from pytest_httpserver import HTTPServer
from werkzeug import Response

from tests.portia_runtime.conftest import Client


def use(client: Client, tool, **parameters):
    return client.run({"id": "t", "tool": tool, "parameters": parameters})


def output(client: Client, tool, **parameters):
    run = use(client, tool, **parameters)
    assert run["status"] == "completed", run["error_message"]
    return run["results"]["t"]


def error(client: Client, tool, **parameters):
    run = use(client, tool, **parameters)
    assert run["status"] == "failed"
    return run["error_details"]["code"], run["error_message"]


@pytest.fixture
def site(httpserver: HTTPServer, settings):
    settings.PORTIA_HTTP_ALLOWED_HOSTS = [f"{httpserver.host}:{httpserver.port}"]
    return httpserver


def test_every_tool_has_a_manifest(client: Client):
    tools = {tool["id"]: tool for tool in client.get("/tools")["tools"]}
    assert set(tools) == {
        "calculate", "data_validator", "echo", "email_connector", "fail", "http_request", "read_record",
        "template_render", "wait", "write_record",
    }  # fmt: skip
    assert all(tool["args_schema"]["type"] == "object" and tool["description"] for tool in tools.values())


def test_http_request_sends_json_with_the_steps_key(client: Client, site: HTTPServer):
    site.expect_request("/pay", method="POST", json={"n": 1}).respond_with_json({"ok": True})
    run = use(client, "http_request", method="POST", url=site.url_for("/pay"), json={"n": 1})
    assert (run["results"]["t"]["status"], run["results"]["t"]["json"]) == (200, {"ok": True})
    (request, _), *_ = site.log
    assert request.headers["Idempotency-Key"] == f"{run['run_id']}:t"


@pytest.mark.parametrize(("status", "code"), [(404, "tool_hard_error"), (503, "tool_soft_error")])
def test_http_request_knows_what_may_go_away(client: Client, site: HTTPServer, status, code):
    site.expect_request("/x").respond_with_data("no", status=status)
    assert error(client, "http_request", url=site.url_for("/x"))[0] == code


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:1/", "http://localhost/", "http://[::1]/", "http://169.254.169.254/", "http://10.0.0.1/",
     "http://2130706433/", "http://[::ffff:127.0.0.1]/", "http://0.0.0.0/"],
)  # fmt: skip
def test_http_request_does_not_go_to_private_addresses(client: Client, url):
    code, message = error(client, "http_request", url=url)
    assert (code, "not allowed" in message) == ("tool_hard_error", True)


def test_http_request_does_not_follow_a_redirect_to_a_private_address(client: Client, site: HTTPServer):
    site.expect_request("/r").respond_with_response(Response(status=302, headers={"Location": "http://127.0.0.1:1/"}))
    assert error(client, "http_request", url=site.url_for("/r"))[0] == "tool_hard_error"


@pytest.mark.parametrize(
    "url",
    [r"http://127.0.0.1:1\@{site}/", r"http://169.254.169.254\@{site}/", "http://169.254.169.254#@{site}/",
     "http://169.254.169.254?@{site}/", "http://127.0.0.1:1/@{site}/"],
)  # fmt: skip
def test_an_exempt_host_is_the_one_that_is_connected_to(client: Client, site: HTTPServer, url):
    code, message = error(client, "http_request", url=url.format(site=f"{site.host}:{site.port}"))
    assert (code, "not allowed" in message, site.log) == ("tool_hard_error", True, [])


@pytest.mark.parametrize("url", ["http://user:hidden-word@{site}/", "http://hidden-word@{site}/"])
def test_http_request_wants_credentials_in_a_header_and_does_not_repeat_them(client: Client, site: HTTPServer, url):
    code, message = error(client, "http_request", url=url.format(site=f"{site.host}:{site.port}"))
    assert (code, "send credentials in a header" in message, "hidden-word" in message) == (
        "tool_hard_error",
        True,
        False,
    )


@pytest.mark.parametrize(
    "location",
    ["http://0x7f.1/", "http://[fd00:ec2::254]/latest/", "//169.254.169.254/", "http://169.254.169.254\\@{site}/",
     "file:///etc/passwd", "gopher://127.0.0.1/", "http://a:b@{site}/"],
)  # fmt: skip
def test_a_redirect_is_checked_like_a_first_address(client: Client, site: HTTPServer, location):
    headers = {"Location": location.format(site=f"{site.host}:{site.port}")}
    site.expect_request("/r").respond_with_response(Response(status=302, headers=headers))
    code, message = error(client, "http_request", url=site.url_for("/r"))
    assert (code, "not allowed" in message, len(site.log)) == ("tool_hard_error", True, 1)


def test_a_redirect_within_the_exempt_host_is_followed(client: Client, site: HTTPServer):
    site.expect_request("/r").respond_with_response(Response(status=302, headers={"Location": "/there"}))
    site.expect_request("/there", headers={"X-Mine": "1"}).respond_with_json({"ok": True})
    assert output(client, "http_request", url=site.url_for("/r"), headers={"X-Mine": "1"})["json"] == {"ok": True}


@pytest.mark.parametrize("content", [{"json": {"card": "4111"}}, {"body": "card=4111"}])
def test_what_a_redirect_leads_to_gets_no_body_and_no_parameters(client: Client, site: HTTPServer, content):
    site.expect_request("/r").respond_with_response(Response(status=302, headers={"Location": "/there"}))
    site.expect_request("/there").respond_with_json({"ok": True})
    output(client, "http_request", url=site.url_for("/r"), params={"q": "1"}, **content)
    (first, _), (second, _) = site.log
    assert (b"4111" in first.get_data(), second.get_data(), second.query_string) == (True, b"", b"")


def test_a_name_is_resolved_once_and_the_address_that_was_checked_is_connected_to(
    client, site: HTTPServer, monkeypatch
):
    """DNS rebinding: the name server says a public address first, ours from then on."""
    asked, real = [], socket.getaddrinfo

    def name_server(host, port, *args, **named):
        if host == "rebind.example":
            asked.append(host)
            ip = "93.184.215.14" if len(asked) == 1 else "127.0.0.1"
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port))]
        if host == "93.184.215.14":
            asked.append(host)
            raise OSError("no network in tests")
        return real(host, port, *args, **named)

    monkeypatch.setattr(socket, "getaddrinfo", name_server)
    error(client, "http_request", url=f"http://rebind.example:{site.port}/")
    assert (asked[:2], site.log) == (["rebind.example", "93.184.215.14"], [])


@pytest.mark.parametrize("ip", ["10.0.0.1", "169.254.169.254", "fd00:ec2::254", "::ffff:10.0.0.1"])
def test_a_name_that_leads_to_a_private_address_is_refused(client, monkeypatch, ip):
    real = socket.getaddrinfo
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET

    def name_server(host, port, *args, **named):
        there = [(family, socket.SOCK_STREAM, 6, "", (ip, port))]
        return there if host == "inside.example" else real(host, port, *args, **named)

    monkeypatch.setattr(socket, "getaddrinfo", name_server)
    code, message = error(client, "http_request", url="http://inside.example/")
    assert (code, "not allowed" in message) == ("tool_hard_error", True)


def test_http_request_refuses_an_endless_answer(client: Client, site: HTTPServer):
    site.expect_request("/big").respond_with_data("x" * 1_100_000)
    assert "longer than" in error(client, "http_request", url=site.url_for("/big"))[1]


def test_email_connector_sends_a_mail_with_an_id_of_its_own(client: Client):
    sent = output(client, "email_connector", to="ann@shop.example", subject="Welcome", body="Hello")
    (message,) = mail.outbox
    assert (message.to, message.subject, message.body) == (["ann@shop.example"], "Welcome", "Hello")
    assert message.extra_headers["Message-ID"] == sent["message_id"]


def test_email_connector_refuses_a_header_in_the_subject(client: Client):
    step = {"id": "t", "tool": "email_connector", "parameters": {"to": "a@b.example", "subject": "{{s}}", "body": ""}}
    run = client.run(step, variables={"s": "x\r\nBcc: spy@b.example"})
    assert (run["error_details"]["code"], mail.outbox) == ("invalid_arguments", [])


def test_data_validator_gives_the_errors_as_its_result(client: Client):
    schema = {"type": "object", "required": ["name"], "properties": {"age": {"type": "integer"}}}
    assert output(client, "data_validator", data={"name": "x", "age": 3}, schema=schema) == {
        "success": True,
        "errors": [],
    }
    found = output(client, "data_validator", data={"age": "3"}, schema=schema)
    assert (found["success"], {one["loc"] for one in found["errors"]}) == (False, {"$", "$.age"})


def test_data_validator_fails_for_a_bad_schema_and_never_fetches_one(client: Client):
    for schema in ({"type": "nonsense"}, {"$ref": "http://127.0.0.1:1/s"}, {"$ref": "#"}, {"pattern": "(?=a)"}):
        step = {"id": "t", "tool": "data_validator", "parameters": {"data": 1, "schema": "{{s}}"}}
        run = client.run(step, variables={"s": schema})
        assert (run["status"], run["error_details"]["code"]) == ("failed", "invalid_arguments")


def test_a_bad_schema_in_a_plan_is_refused_with_its_place(client: Client):
    step = {"id": "t", "type": "action", "tool": "data_validator"}
    step["parameters"] = {"data": 1, "schema": {"properties": {"a": {"type": "nonsense"}}}}
    answer = client.call("POST", "/plans", json={"plan_id": "p", "name": "p", "steps": [step]})
    (found,) = answer.json()["errors"]
    assert (answer.status_code, found["loc"]) == (422, "steps[0].parameters.schema.properties.a.type")


def test_data_validator_gives_up_on_a_schema_that_never_ends(client: Client):
    doubled = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(40)}
    schema = {"$defs": doubled | {"a40": True}, "$ref": "#/$defs/a0"}
    code, message = error(client, "data_validator", data=1, schema=schema)
    assert (code, "too long" in message) == ("tool_hard_error", True)


def test_template_render_fills_in_values(client: Client):
    template = "Dear {{ name }}{% if vip %}!{% endif %}"
    assert output(client, "template_render", template=template, values={"name": "<Ann>", "vip": True}) == {
        "text": "Dear <Ann>!"
    }
    escaped = output(client, "template_render", template="{{ name }}", values={"name": "<b>"}, autoescape=True)
    assert escaped == {"text": "&lt;b&gt;"}


@pytest.mark.parametrize("template", ["{% include 'x' %}", "{% load static %}", "{% debug %}", "{% if %}"])
def test_template_render_has_no_way_out(client: Client, template):
    assert error(client, "template_render", template=template)[0] == "tool_hard_error"


def test_calculate_evaluates_cel(client: Client):
    assert output(client, "calculate", expression="a * 2 + size(values)", values={"a": 20}) == {"result": 41}
    assert error(client, "calculate", expression="1 / 0")[0] == "tool_hard_error"


def test_records_count_each_write_once(client: Client, mallory: Client):
    steps = [{"id": f"w{n}", "tool": "write_record", "parameters": {"key": "k", "increment": 2}} for n in range(3)]
    run = client.run(*steps, {"id": "r", "tool": "read_record", "parameters": {"key": "k"}})
    assert run["results"]["r"] == {"found": True, "value": 6, "writes": 3}
    assert output(mallory, "read_record", key="k") == {"found": False, "value": None, "writes": 0}


def test_a_record_that_is_no_number_cannot_be_incremented(client: Client):
    output(client, "write_record", key="k", value={"a": 1})
    assert error(client, "write_record", key="k", increment=1)[0] == "tool_hard_error"
