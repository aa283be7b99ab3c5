"""No secret in a log, whatever way it gets into a record."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import time

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from executions.canonical_json import canonical_json
from executions.signing import CHECKPOINT, sign
from orchestrator_project.redaction import LONGEST, MASK, RedactionFilter, Redactor

JWT = "eyJhbGciOiJFZDI1NTE5Iiwia2lkIjoiayJ9.eyJpc3MiOiJ4In0.c2lnbmF0dXJl"
KEY = "orc_" + "k3J9" * 10 + "abc"  # as long as one is
WORD = "open-sesame-93"
SECRETS = (JWT, KEY, WORD)


def logged(message, *args, values=(), exc_info=None, **extra):
    """What a handler with the filter writes, with all extra fields."""
    record = logging.getLogger("x").makeRecord("x", logging.INFO, "f", 1, message, args, exc_info, extra=extra)
    assert RedactionFilter(values).filter(record)
    RedactionFilter(values).filter(record)  # a second handler changes nothing more
    return logging.Formatter().format(record) + " ".join(f" {name}={getattr(record, name)}" for name in extra)


@pytest.mark.parametrize(
    "text",
    [
        f"the key {KEY} is unknown", f"?token={JWT}&x=1", f"Authorization: Bearer {JWT}", f"Authorization: Basic {WORD}",
        f"Bearer {'a1' * 20}{WORD}", f"password={WORD}", f"password = '{WORD} {WORD}'", f'{{"api_key": "{WORD}"}}',
        f"{{'client_secret': '{WORD}'}}", f"X-Capability-Token: {WORD}", f"capability_token={WORD}", f"PORTIA_API_KEY={WORD}",
        f"Cookie: sessionid={WORD}; csrftoken={WORD}", f"postgresql://bob:{WORD}@db.example:5432/x",
        f"https://bob:{WORD}@neighbour.example/", f"x-api-key: {WORD}", f"DB_PASSWORD='{WORD}'",
        f"-----BEGIN PRIVATE KEY-----\n{WORD.replace('-', '')}\n-----END PRIVATE KEY-----",
        f"/x?a=Bearer%20{KEY}", f"/x?a=Bearer%20{JWT}", f"it is Bearer+{WORD * 2}", f"x_{KEY}", f"x_{JWT}", f"a line\\n{JWT}",
        f"Authorization: Token {WORD}", f"'Authorization': 'Token {WORD}'", f"proxy-authorization: Digest a=1, b={WORD}",
        f'"{{\\"password\\": \\"{WORD}\\"}}"', f"'{{\\\\\"token\\\\\": \\\\\"a {WORD}\\\\\"}}'",
        f'{{"password": "a\\"{WORD}"}}', f'{{"password": "{WORD} and no end', f"token={'a' * 5000}{WORD}",
    ],
)  # fmt: skip
def test_secrets_in_a_text_are_masked(text):
    for written in (logged(text), logged("%s", text), logged("%(it)s", {"it": text}), logged("it", note=text)):
        assert not any(secret in written for secret in (*SECRETS, WORD.replace("-", "")))
        assert MASK in written


@pytest.mark.parametrize(
    "value",
    [
        {"password": WORD}, {"headers": {"Authorization": WORD}}, [{"api_key": WORD}], {"a": ({"apiKey": WORD},)},
        {"capability_token": JWT}, {"secret": ["a", WORD]}, {"Set-Cookie": WORD}, {"x": {"y": {"z": {"token": WORD}}}},
    ],
)  # fmt: skip
def test_secrets_by_key_are_masked_in_arguments_and_extras(value):
    for written in (logged("%s", value), logged("it: %s %s", 1, value), logged("it", details=value), logged(value)):
        assert not any(secret in written for secret in SECRETS)
        assert MASK in written


def test_an_extra_is_masked_by_its_own_name():
    assert logged("it", password=WORD, api_key=WORD).count(MASK) == 2


def test_a_traceback_is_masked():
    try:
        raise ValueError(f"refused {KEY}, password={WORD}")
    except ValueError:
        written = logged("it failed", exc_info=sys.exc_info())
    assert "ValueError: refused" in written
    assert not any(secret in written for secret in SECRETS)


def test_the_secrets_of_the_settings_are_masked_wherever_they_stand():
    assert logged("it said s3cr/et-word there", values=["s3cr/et-word"]) == f"it said {MASK} there"
    assert logged("/x?q=s3cr%2Fet-word", values=["s3cr/et-word"]) == f"/x?q={MASK}"
    assert logged("a word", values=["a"]) == "a word"


@pytest.mark.parametrize(
    "text",
    [
        "run 0190a6d4-0000-7000-8000-000000000000 is running", "the token expired: ask for another", "token_id=abc",
        "no API key was sent", "https://portia.example:8080/api/v1?x=a:b@c", "GET /v1/executions 200", "secretary: Ann",
        "a basic understanding of things",
    ],
)  # fmt: skip
def test_ordinary_texts_stay_as_they_are(text):
    assert logged(text) == text


def test_arguments_keep_their_types_and_a_wrong_number_of_them_is_no_error():
    assert logged("%d of %.1f", 3, 2.5) == "3 of 2.5"
    assert logged("%s and %s", "one") == "%s and %s (its arguments do not fit)"


def test_what_stands_behind_a_masked_value_stays():
    text = '"{\\"password\\": \\"hunter2222\\", \\"amount\\": 5}" {"Authorization": "Token abcdef", "page": 2}'
    assert logged(text) == f'"{{\\"password\\": {MASK}, \\"amount\\": 5}}" {{"Authorization": {MASK}, "page": 2}}'


def test_a_checkpoint_in_the_log_stays_whole():
    said = {
        "tenant": "01a20add-65c2-7d9d-9157-4cfbcf985754",
        "sequence": 3,
        "hash": "0" * 64,
        "at": "2026-11-24T08:30:00Z",
    }
    envelope = sign(said, kind=CHECKPOINT, key=Ed25519PrivateKey.from_private_bytes(b"k" * 32))
    text = f"audit checkpoint {canonical_json(envelope).decode()}"
    assert logged(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "token=", "eyJaaaa-", "a://", 'secret="', "a", "a-", "-eyJ", "eyJ", "eyJaaaa.", "eyJaaaa.a ", 'token=\\"', "token", "\\",
        "authorization:[redacted", "bearer ", "-----BEGIN PRIVATE KEY-----", "orc_", "token=\\",
    ],
)  # fmt: skip
def test_a_long_line_takes_no_long_time(text):
    started = time.monotonic()
    Redactor(["some-value"]).text(text * (1_000_000 // len(text)))
    assert time.monotonic() - started < 0.5


@pytest.mark.parametrize(
    "secret", [KEY, JWT * 10, f'password="{WORD}"', f"Authorization: Token {WORD}", "s3cr/et-word"]
)
def test_what_is_too_long_is_cut_off_and_never_within_a_secret(secret):
    for before in range(LONGEST - len(secret) - 5, LONGEST + 5, 7):
        written = logged("a " * (before // 2) + secret + " b" * LONGEST, values=["s3cr/et-word"])
        assert len(written) < LONGEST
        assert re.fullmatch(r"[a ]*(\S*\[redac\S*)? \(cut off: \d+ characters\)", written)


def test_every_handler_of_the_service_has_the_filter():
    code = """
import logging, django; django.setup()
from orchestrator_project.redaction import RedactionFilter
import django_q.cluster, granian, waitress
loggers = [logging.root, *(one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger))]
handlers = {h for one in loggers for h in one.handlers if not isinstance(h, logging.NullHandler)}
assert handlers and all(any(isinstance(f, RedactionFilter) for f in h.filters) for h in handlers), handlers
"""
    environment = {"DJANGO_SETTINGS_MODULE": "orchestrator_project.settings", "ANUMATE_ENV": "development"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
