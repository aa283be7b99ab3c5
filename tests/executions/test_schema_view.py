"""The OpenAPI document over HTTP: made once, the same for everybody, and not sent twice."""

import json

import pytest
import yaml

from executions.api.schema_view import document, written

TYPES = {
    "application/vnd.oai.openapi": "application/vnd.oai.openapi; charset=utf-8",
    "application/yaml": "application/yaml; charset=utf-8",
    "application/vnd.oai.openapi+json": "application/vnd.oai.openapi+json",
    "application/json": "application/json",
}


def fetched(client, query="", **headers):
    return client.get(f"/v1/schema{query}", headers=headers)


def test_it_is_made_once_whoever_asks_by_whatever_name(client, settings):
    settings.ALLOWED_HOSTS = ["*"]
    first = fetched(client)
    made = document.cache_info().misses, written.cache_info().misses
    others = [fetched(client, query, host="api.example") for query in ("", "?version=9", "?lang=de&x=1")]
    assert (document.cache_info().misses, written.cache_info().misses) == made
    assert {one.content for one in others} == {first.content}


@pytest.mark.parametrize(("asked", "sent"), TYPES.items())
def test_it_comes_in_the_form_that_is_asked_for(client, asked, sent):
    response = fetched(client, accept=asked)
    assert (response["Content-Type"], response["Vary"]) == (sent, "Accept")
    form = "json" if "json" in asked else "yaml"
    assert response["Content-Disposition"] == f'inline; filename="Orchestrator API.{form}"'
    read = json.loads(response.content) if form == "json" else yaml.safe_load(response.content)
    assert read["paths"].keys() == document()["paths"].keys()


def test_both_forms_say_the_same(client):
    as_json, as_yaml = (fetched(client, f"?format={form}").content for form in ("json", "yaml"))
    assert json.loads(as_json) == yaml.load(as_yaml, Loader=yaml.CSafeLoader)


def test_who_has_it_already_gets_it_not_again(client):
    etag = fetched(client, "?format=json")["ETag"]
    again = fetched(client, "?format=json", **{"if-none-match": f'"other", {etag}'})
    assert (again.status_code, again.content, again["ETag"]) == (304, b"", etag)
    assert again["Vary"] == "Accept"
    assert fetched(client, "?format=yaml", **{"if-none-match": etag}).status_code == 200


def test_a_form_it_does_not_come_in_is_refused(client):
    assert fetched(client, accept="text/html").status_code == 406
