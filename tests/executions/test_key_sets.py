"""The key set at a URL, against a real listener: what is asked, how often, and what holds while nobody answers."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from joserfc.jwk import OKPKey
from pytest_httpserver import HTTPServer
from werkzeug import Response

from executions import key_sets
from executions.capabilities import CapabilityDenied, issue
from executions.captokens import read
from executions.errors import Unavailable
from executions.key_sets import KeySetUrl

KEY, OTHER = OKPKey.generate_key("Ed25519"), OKPKey.generate_key("Ed25519")
PATH = "/.well-known/jwks.json"


def entry(key, **more):
    return key.as_dict(private=False) | {"kid": key.thumbprint()} | more


def key_set(*keys):
    return {"keys": [entry(key) for key in keys]}


@pytest.fixture(scope="module")
def listener():
    with HTTPServer(threaded=True) as server:
        yield server


@pytest.fixture
def issuer(listener):
    """Somebody who publishes keys, at an address of this test's own."""
    listener.clear()
    yield listener
    listener.clear()


def set_at(server, **times):
    return KeySetUrl(server.url_for(PATH), **times)


def token(key, **facts):
    return issue(
        key=key,
        issuer="captokens",
        tenant="acme",
        subject="alice",
        capabilities=["a:b"],
        now=datetime.now(UTC),
        **facts,
    )


def test_keys_are_fetched_once_for_many_tokens(issuer):
    issuer.expect_request(PATH).respond_with_json(key_set(KEY))
    keys = set_at(issuer)
    assert all(keys.key(KEY.thumbprint()) for _ in range(20))
    assert len(issuer.log) == 1


def test_keys_are_fetched_again_when_they_are_old(issuer):
    issuer.expect_request(PATH).respond_with_json(key_set(KEY))
    keys = set_at(issuer, fresh=0.0, pause=0.0)
    keys.key(KEY.thumbprint())
    keys.key(KEY.thumbprint())
    assert len(issuer.log) == 2


def test_a_new_key_is_found_once_the_pause_is_over(issuer):
    issuer.expect_ordered_request(PATH).respond_with_json(key_set(KEY))
    issuer.expect_ordered_request(PATH).respond_with_json(key_set(KEY, OTHER))
    keys = set_at(issuer, pause=0.2)
    assert keys.key(KEY.thumbprint())
    assert keys.key(OTHER.thumbprint()) is None
    time.sleep(0.25)
    assert keys.key(OTHER.thumbprint())


def test_forged_kids_make_no_more_than_one_request_in_a_pause(issuer):
    issuer.expect_request(PATH).respond_with_json(key_set(KEY))
    keys = set_at(issuer)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(keys.key, (f"forged-{n}" for n in range(200))))
    assert set(found) == {None}
    assert len(issuer.log) == 1


@pytest.mark.parametrize(
    "answer",
    [
        Response(status=500),
        Response(status=404),
        Response(status=302, headers={"Location": "http://127.0.0.1/elsewhere"}),
        Response("<html>"),
        Response("[]"),
        Response('{"keys": 7}'),
        Response("[" * 100_000),
        Response('{"keys": ["' + "x" * 300_000 + '"]}'),
    ],
    ids=["500", "404", "redirect", "html", "list", "no-list", "deep", "large"],
)
def test_without_usable_keys_no_token_is_good_and_the_caller_may_come_back(issuer, answer):
    issuer.expect_request(PATH).respond_with_response(answer)
    keys = set_at(issuer)
    for _ in range(3):
        with pytest.raises(Unavailable) as refused:
            keys.key(KEY.thumbprint())
        assert refused.value.extra["retry_after"] == 30
    assert len(issuer.log) == 1


def test_the_last_keys_hold_for_a_while_when_nobody_answers_and_then_no_more(issuer):
    issuer.expect_oneshot_request(PATH).respond_with_json(key_set(KEY))
    keys = set_at(issuer, fresh=0.0, pause=0.0, kept=0.6)
    assert keys.key(KEY.thumbprint())
    assert keys.key(KEY.thumbprint())  # the second answer was an error
    time.sleep(0.65)
    with pytest.raises(Unavailable):
        keys.key(KEY.thumbprint())


def test_nobody_there_is_unavailable():
    with pytest.raises(Unavailable):
        KeySetUrl("http://127.0.0.1:9/jwks.json").key("x")


def test_a_token_is_checked_with_the_keys_of_the_url(issuer, settings):
    issuer.expect_request("/own/jwks.json").respond_with_json(key_set(KEY))
    settings.CAPTOKENS_JWKS_FILE, settings.CAPTOKENS_JWKS_URL = None, issuer.url_for("/own/jwks.json")
    assert read(token(KEY), tenant="acme").claims["sub"] == "alice"
    with pytest.raises(CapabilityDenied) as denied:
        read(token(OTHER), tenant="acme")
    assert denied.value.code == "unknown_key"


def test_the_file_is_looked_at_first_and_the_url_for_the_rest(issuer, settings, tmp_path):
    issuer.expect_request("/both/jwks.json").respond_with_json(key_set(OTHER))
    settings.CAPTOKENS_JWKS_FILE, settings.CAPTOKENS_JWKS_URL = (
        tmp_path / "jwks.json",
        issuer.url_for("/both/jwks.json"),
    )
    settings.CAPTOKENS_JWKS_FILE.write_text(json.dumps(key_set(KEY)))
    assert read(token(KEY), tenant="acme")
    assert len(issuer.log) == 0
    assert read(token(OTHER), tenant="acme")
    assert len(issuer.log) == 1


@pytest.mark.parametrize(("left", "is_known"), [(60, True), (-1, False)])
def test_a_key_that_was_replaced_counts_until_its_end(settings, tmp_path, left, is_known):
    settings.CAPTOKENS_JWKS_FILE = tmp_path / "jwks.json"
    settings.CAPTOKENS_JWKS_FILE.write_text(json.dumps({"keys": [entry(KEY, exp=time.time() + left)]}))
    assert (key_sets.key_of(KEY.thumbprint()) is not None) == is_known
