"""Signatures that anybody can check with a public key: Ed25519 (RFC 8032) in DSSE envelopes.

An envelope (https://github.com/secure-systems-lab/dsse, protocol 1.0) holds a payload, the kind of thing it is, and a signature
over both (`pae`), so that a signed thing of one kind can never be shown as one of another. Payloads are RFC 8785 JSON.
A key's id is its JWK thumbprint (RFC 7638). Leans on nothing of Django: whoever checks needs no settings.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from executions.canonical_json import canonical_json

CHECKPOINT = "application/vnd.anumate.audit-checkpoint+json"
EXPORT = "application/vnd.anumate.audit-export+json"
RECEIPT = "application/vnd.anumate.execution-receipt+json"
PEM = b"-----BEGIN "
CURVE = {"kty": "OKP", "crv": "Ed25519"}

Envelope = dict[str, Any]
PublicKeys = Mapping[str, Ed25519PublicKey]  # by their ids


class UnusableKey(ValueError):
    """What should be an Ed25519 key is none."""


class NotSigned(ValueError):
    """The envelope is not one, or no known key has signed what it holds."""


def sign(payload: Any, *, kind: str, key: Ed25519PrivateKey) -> Envelope:
    """The envelope of a JSON value; `kind` is its media type."""
    body = canonical_json(payload)
    signature = key.sign(pae(kind, body))
    signatures = [{"keyid": key_id(key.public_key()), "sig": _base64(signature)}]
    return {"payloadType": kind, "payload": _base64(body), "signatures": signatures}


def opened(envelope: Any, *, kind: str, keys: PublicKeys) -> Any:
    """The payload of an envelope that one of these keys has signed. Raises NotSigned, with a sentence."""
    if not isinstance(envelope, dict) or set(envelope) != {"payloadType", "payload", "signatures"}:
        raise NotSigned("this is no DSSE envelope: it needs payloadType, payload and signatures")
    if envelope["payloadType"] != kind:
        raise NotSigned(f"the envelope holds {envelope['payloadType']!r}, not {kind!r}")
    body = _bytes(envelope["payload"])
    _check_signature(envelope["signatures"], pae(kind, body), keys)
    try:
        return json.loads(body)
    except ValueError:
        raise NotSigned("the payload is no JSON") from None


def pae(kind: str, body: bytes) -> bytes:
    """What is signed: the pre-authentication encoding of DSSE, in which no kind and body can be taken for another two."""
    word = kind.encode()
    return b" ".join([b"DSSEv1", str(len(word)).encode(), word, str(len(body)).encode(), body])


def _check_signature(signatures: Any, signed: bytes, keys: PublicKeys) -> None:
    one = signatures[0] if isinstance(signatures, list) and len(signatures) == 1 else None
    if not isinstance(one, dict) or set(one) != {"keyid", "sig"}:
        raise NotSigned("the envelope needs one signature, with keyid and sig")
    key = keys.get(str(one["keyid"]))
    if key is None:
        raise NotSigned(f"its key {one['keyid']!r} is not among the public keys given")
    try:
        key.verify(_bytes(one["sig"]), signed)
    except InvalidSignature:
        raise NotSigned("the signature is not valid") from None


# -- keys


def key_id(key: Ed25519PublicKey) -> str:
    """The thumbprint of a key."""
    return _base64url(hashlib.sha256(canonical_json(CURVE | {"x": _base64url(key.public_bytes_raw())})).digest())


def public_jwk(key: Ed25519PublicKey) -> dict[str, str]:
    """A key as a member of a key set (RFC 8037)."""
    return CURVE | {"x": _base64url(key.public_bytes_raw()), "kid": key_id(key), "use": "sig", "alg": "Ed25519"}


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """The private key in a PEM (PKCS 8) or JWK file. Raises UnusableKey, naming the file and nothing of its content."""
    try:
        text = path.read_bytes()
        key = load_pem_private_key(text, None) if text.startswith(PEM) else _private_key(json.loads(text))
    except OSError as error:
        raise UnusableKey(f"{path}: {error.strerror}.") from None
    except (ValueError, TypeError, KeyError, AttributeError, UnsupportedAlgorithm):
        raise UnusableKey(f"{path}: a private Ed25519 key is needed, as PEM without a password or as JWK.") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UnusableKey(f"{path}: the key is not an Ed25519 one; `openssl genpkey -algorithm ed25519` makes one.")
    return key


def read_public_keys(path: Path) -> PublicKeys:
    """The public keys in a PEM, JWK or JWKS file, by their ids. Raises UnusableKey."""
    try:
        text = path.read_bytes()
        found = [load_pem_public_key(text)] if text.startswith(PEM) else _public_keys(json.loads(text))
    except OSError as error:
        raise UnusableKey(f"{path}: {error.strerror}.") from None
    except (ValueError, TypeError, KeyError, AttributeError, UnsupportedAlgorithm):
        raise UnusableKey(f"{path}: public Ed25519 keys are needed, as PEM, JWK or JWKS.") from None
    keys = [key for key in found if isinstance(key, Ed25519PublicKey)]
    if not keys:
        raise UnusableKey(f"{path}: there is no Ed25519 key in it.")
    return by_id(keys)


def by_id(keys: Iterable[Ed25519PublicKey]) -> PublicKeys:
    """The keys by the ids that signatures name."""
    return {key_id(key): key for key in keys}


def _private_key(jwk: Any) -> Ed25519PrivateKey:
    if {name: jwk[name] for name in CURVE} != CURVE:
        raise ValueError("another curve")
    return Ed25519PrivateKey.from_private_bytes(_from_base64url(jwk["d"]))


def _public_keys(document: Any) -> list[Any]:
    entries = document.get("keys", [document])
    fitting = [entry for entry in entries if all(entry.get(name) == value for name, value in CURVE.items())]
    return [Ed25519PublicKey.from_public_bytes(_from_base64url(entry["x"])) for entry in fitting]


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _bytes(text: Any) -> bytes:
    """Decode base64 of which there is one spelling only."""
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise NotSigned("payload and sig are base64") from None
    if _base64(value) != text:
        raise NotSigned("payload and sig are base64 as it is written by the book")
    return value


def _base64url(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def _from_base64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
