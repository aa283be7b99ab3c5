"""DSSE envelopes and the files keys come in."""

import base64
import json
import tempfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from joserfc.jwk import OKPKey

from executions.signing import (
    RECEIPT,
    NotSigned,
    UnusableKey,
    by_id,
    key_id,
    opened,
    pae,
    public_jwk,
    read_private_key,
    read_public_keys,
    sign,
)

KEY = Ed25519PrivateKey.generate()
KEYS = by_id([KEY.public_key()])
SAID = {"b": [1, "ä"], "a": None}


def test_what_is_signed_is_as_dsse_says():
    """The test vector of the DSSE specification (protocol.md)."""
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_an_envelope_gives_back_what_was_signed():
    assert opened(sign(SAID, kind=RECEIPT, key=KEY), kind=RECEIPT, keys=KEYS) == SAID


def test_the_same_is_signed_the_same_way():
    assert sign(SAID, kind=RECEIPT, key=KEY) == sign({"a": None, "b": [1, "ä"]}, kind=RECEIPT, key=KEY)


GOOD = sign(SAID, kind=RECEIPT, key=KEY)


@pytest.mark.parametrize(
    ("envelope", "says"),
    [
        (None, "no DSSE envelope"),
        ([], "no DSSE envelope"),
        ({**GOOD, "more": 1}, "no DSSE envelope"),
        ({**GOOD, "payloadType": "text/plain"}, "the envelope holds"),
        ({**GOOD, "payload": base64.b64encode(b"{}").decode()}, "not valid"),
        ({**GOOD, "payload": GOOD["payload"] + "\n"}, "base64"),
        ({**GOOD, "payload": 1}, "base64"),
        ({**GOOD, "signatures": []}, "one signature"),
        ({**GOOD, "signatures": GOOD["signatures"] * 2}, "one signature"),
        ({**GOOD, "signatures": [None]}, "one signature"),
        ({**GOOD, "signatures": [{"keyid": [], "sig": ""}]}, "not among the public keys"),
        ({**GOOD, "signatures": [GOOD["signatures"][0] | {"keyid": "x"}]}, "not among the public keys"),
        ({**GOOD, "signatures": [GOOD["signatures"][0] | {"sig": base64.b64encode(bytes(64)).decode()}]}, "not valid"),
        ({**GOOD, "signatures": [GOOD["signatures"][0] | {"sig": ""}]}, "not valid"),
    ],
)
def test_anything_else_is_refused(envelope, says):
    with pytest.raises(NotSigned, match=says):
        opened(envelope, kind=RECEIPT, keys=KEYS)


def test_a_key_is_named_by_its_thumbprint():
    theirs = OKPKey.generate_key("Ed25519")
    ours = read_from(theirs.as_dict(private=False), read_public_keys)
    assert list(ours) == [theirs.thumbprint()]


def read_from(content, read):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "key"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return read(path)


JWK = {**public_jwk(KEY.public_key()), "d": base64.urlsafe_b64encode(KEY.private_bytes_raw()).decode().rstrip("=")}
PRIVATE = (Encoding.PEM, PrivateFormat.PKCS8)
PUBLIC = (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("content", [KEY.private_bytes(*PRIVATE, NoEncryption()), JWK])
def test_a_private_key_comes_as_pem_or_jwk(content):
    assert key_id(read_from(content, read_private_key).public_key()) == key_id(KEY.public_key())


@pytest.mark.parametrize(
    "content",
    [
        KEY.public_key().public_bytes(*PUBLIC),
        public_jwk(KEY.public_key()),
        {"keys": [{"kty": "RSA"}, public_jwk(KEY.public_key())]},
    ],
)  # fmt: skip
def test_public_keys_come_as_pem_jwk_or_jwks(content):
    assert list(read_from(content, read_public_keys)) == [key_id(KEY.public_key())]


OTHER_CURVE = X25519PrivateKey.generate()


@pytest.mark.parametrize(
    ("content", "read"),
    [
        (b"", read_private_key), (b"[]", read_private_key),
        ({**JWK, "crv": "Ed448"}, read_private_key), ({"kty": "OKP"}, read_private_key),
        (KEY.private_bytes(*PRIVATE, BestAvailableEncryption(b"x")), read_private_key),
        (OTHER_CURVE.private_bytes(*PRIVATE, NoEncryption()), read_private_key),
        (KEY.public_key().public_bytes(*PUBLIC), read_private_key),
        (b"", read_public_keys), ({"keys": []}, read_public_keys), ({"keys": None}, read_public_keys), (b"[1]", read_public_keys),
        (OTHER_CURVE.public_key().public_bytes(*PUBLIC), read_public_keys),
        ({**public_jwk(KEY.public_key()), "x": "AAAA"}, read_public_keys),
    ],
)  # fmt: skip
def test_other_files_are_refused_without_a_word_of_what_is_in_them(content, read):
    with pytest.raises(UnusableKey) as refused:
        read_from(content, read)
    assert JWK["d"] not in str(refused.value)
    assert "Ed25519" in str(refused.value)
