"""Neighbours of the orchestrator as a test wants them: a Portia that says odd things of itself, and who signs tokens."""

import json
from uuid import uuid4

import pytest
from django.utils import timezone
from joserfc.jwk import OKPKey

from executions.capabilities import issue

KEY = OKPKey.generate_key("Ed25519")
ALL_BUT_LLM = [
    "conditions", "loops", "parallel", "retry", "rollback", "step_timeout", "run_timeout", "clarification_timeout",
]  # fmt: skip


@pytest.fixture
def captoken(settings, tmp_path):
    """Sign a token of carol's for acme; the arguments are those of `issue` that shall differ."""
    settings.CAPTOKENS_JWKS_FILE = tmp_path / "jwks.json"
    settings.CAPTOKENS_ISSUER = ""
    public = KEY.as_dict(private=False) | {"kid": KEY.thumbprint()}
    settings.CAPTOKENS_JWKS_FILE.write_text(json.dumps({"keys": [public]}))

    def sign(**changes):
        facts = {"tenant": "acme", "subject": "carol", "capabilities": ["mail:send"], "now": timezone.now()}
        return issue(**{"key": KEY, "issuer": "captokens"} | facts | changes)

    return sign


@pytest.fixture
def odd(settings, httpserver):
    """Say what the runtime says of itself, at an address that nobody has asked before."""
    root = f"/{uuid4().hex}"
    settings.PORTIA_BASE_URL = httpserver.url_for(root)

    def says(health, tools=None):
        httpserver.expect_request(f"{root}/api/v1/health").respond_with_json(health)
        if tools is not None:
            listed = {"tools": [{"id": name} for name in tools]}
            httpserver.expect_request(f"{root}/api/v1/tools").respond_with_json(listed)
        return httpserver

    return says


@pytest.fixture
def able(odd):
    """A runtime that has everything but a language model."""
    return odd({"runtime": "odd", "capabilities": ALL_BUT_LLM}, tools=["echo", "wait"])


@pytest.fixture
def away(settings):
    """No runtime at all."""
    settings.PORTIA_BASE_URL = "http://127.0.0.1:9"
