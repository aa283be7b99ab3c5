"""A tenant's chain of audit entries, checked: rows and signatures in, the first thing that is wrong out.

Leans on the standard library, canonical JSON and the public keys alone, not on Django, settings or a database:
`python -m executions.audit_chain export.ndjson --public-key audit.jwks` works wherever these few files are. What is
hashed and signed, byte for byte: docs/reference/audit.md.
"""

from __future__ import annotations

import hashlib
import json
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from executions.canonical_json import NotCanonical, canonical_json
from executions.signing import CHECKPOINT, EXPORT, NotSigned, PublicKeys, UnusableKey, opened, read_public_keys

NO_LINK = "0" * 64  # what the first link has for the hash of the one before
SOUND, WRONG, UNUSABLE = 0, 1, 2  # exit codes
MOST_FINDINGS = 20
LINK = {"sequence", "previous", "hash"}
STATEMENT = {"tenant", "sequence", "hash", "at"}
END = {"tenant", "first", "last", "hash", "checkpoints", "sha256", "at"}


def link_hash(*, tenant: str, sequence: int, previous: str, digest: str) -> str:
    """The hash of a link: SHA-256 of five lines. The trigger of migration 0010 makes the same."""
    text = "\n".join(["audit-link", tenant, str(sequence), previous, digest])
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was written; `sequence` is the place in the chain, None where it has none."""

    sequence: int | None
    sentence: str

    def __str__(self) -> str:
        return self.sentence if self.sequence is None else f"sequence {self.sequence}: {self.sentence}"


@dataclass
class Chain:
    """Follows one tenant's links from the first to the last, then its checkpoints; collects what is wrong.

    `first`: where the links begin, 1 unless only a part of the chain is at hand.
    """

    tenant: str
    keys: PublicKeys
    first: int = 1
    findings: list[Finding] = field(default_factory=list)
    hashes: dict[int, str] = field(default_factory=dict)
    last: int = 0
    checkpoint: int = 0  # the last one seen
    checkpoints: int = 0

    def follow(self, link: dict[str, Any], entry: dict[str, Any] | None, digest: str) -> None:
        """The next link, the content of its entry (None: there is none) and the digest that stands beside it."""
        sequence = link["sequence"]
        expected = self.last + 1 if self.last else self.first
        if sequence > expected:
            self._found(expected, f"it is missing: the next one there is has the sequence {sequence}")
        elif sequence < expected:
            self._found(sequence, f"it stands twice, or behind one that came later, where {expected} should be")
        elif link["previous"] != self._hash_before(sequence, link):
            self._found(sequence, "it does not follow the one before: `previous` is another hash")
        self._check_entry(sequence, entry, digest)
        if link["hash"] != link_hash(tenant=self.tenant, sequence=sequence, previous=link["previous"], digest=digest):
            self._found(sequence, "its hash is not that of its content")
        self.last, self.hashes[sequence] = sequence, link["hash"]

    def seal(self, envelope: Any) -> None:
        """The next checkpoint: what it has sealed has to be there, unchanged."""
        self.checkpoints += 1
        try:
            said = opened(envelope, kind=CHECKPOINT, keys=self.keys)
        except NotSigned as error:
            self._found(None, f"checkpoint {self.checkpoints}: {error}")
            return
        if not isinstance(said, dict) or set(said) != STATEMENT or said["tenant"] != self.tenant:
            self._found(None, f"checkpoint {self.checkpoints}: it is not one of this tenant's")
        elif said["sequence"] <= self.checkpoint:
            self._found(said["sequence"], "its checkpoint stands twice, or behind a later one")
        else:
            self.checkpoint = said["sequence"]
            self._check_seal(said)

    def complain(self, sentence: str, sequence: int | None = None) -> None:
        """Something else that is wrong."""
        self._found(sequence, sentence)

    def _hash_before(self, sequence: int, link: dict[str, Any]) -> str:
        if self.last:
            return self.hashes[self.last]
        return NO_LINK if sequence == 1 else str(link["previous"])  # a part of a chain begins somewhere

    def _check_entry(self, sequence: int, entry: dict[str, Any] | None, digest: str) -> None:
        if entry is None:
            self._found(sequence, "its entry is missing")
        elif entry.get("tenant_id") != self.tenant:
            self._found(sequence, "its entry is another tenant's")
        elif _digest(entry) != digest:
            self._found(sequence, "its entry was changed: its content has another digest")

    def _check_seal(self, said: dict[str, Any]) -> None:
        sequence = said["sequence"]
        if sequence > self.last:
            self._found(self.last + 1, f"it is missing: a checkpoint of {said['at']} has sealed all up to {sequence}")
        elif sequence >= self.first and self.hashes.get(sequence) != said["hash"]:
            self._found(sequence, f"it is not what the checkpoint of {said['at']} has sealed")

    def _found(self, sequence: int | None, sentence: str) -> None:
        if len(self.findings) < MOST_FINDINGS:
            self.findings.append(Finding(sequence, sentence))

    @property
    def report(self) -> str:
        """What was checked and what was found, the first thing first."""
        count = len(self.hashes)
        if not self.findings:
            unsealed = self.last - max(self.checkpoint, self.first - 1)
            sealed = f"{self.checkpoints} checkpoint{'' if self.checkpoints == 1 else 's'}"
            return f"tenant {self.tenant}: sound. {count} entries, {sealed}, {unsealed} not yet sealed by one."
        first = min((one for one in self.findings if one.sequence is not None), default=None, key=_place)
        begins = f" The first wrong sequence is {first.sequence}." if first else ""
        lines = [f"tenant {self.tenant}: NOT as it was written ({count} entries).{begins}"]
        return "\n".join(lines + [f"  {one}" for one in self.findings])


def _place(finding: Finding) -> int:
    return finding.sequence or 0


def _digest(entry: dict[str, Any]) -> str:
    try:
        return hashlib.sha256(canonical_json(entry)).hexdigest()
    except NotCanonical:
        return ""


# -- an export


class Unreadable(ValueError):
    """This is no export; the sentence says in which line."""


def check_export(lines: Iterable[bytes], keys: PublicKeys) -> Chain:
    """Check an export (docs/reference/audit.md). Raises Unreadable for a file that is none.

    Every line is there once, in its place, in the one spelling it can have, and the signed last line says what they were.
    """
    read, rest = hashlib.sha256(), iter(lines)
    chain: Chain | None = None
    end: Any = None
    for number, line in enumerate(rest, 1):
        kind, content = _line(line, number)
        if end is not None:
            _known(chain).complain(f"line {number}: something stands behind the end")
            break
        if kind == "end":
            end = content
            continue
        read.update(line)
        chain = chain or _begun(kind, content, keys)
        _take(chain, kind, content, number)
    if chain is None:
        chain = Chain(_tenant_of_the_end(end, keys), keys)
    _check_end(chain, end, read.hexdigest())
    return chain


def _line(line: bytes, number: int) -> tuple[str, Any]:
    """What a line holds: an entry with its link, a checkpoint, or the end."""
    try:
        value = json.loads(line)
        spelled = canonical_json(value) + b"\n"
    except (ValueError, RecursionError):
        raise Unreadable(f"line {number} is not JSON in its canonical form") from None
    if spelled != line:
        raise Unreadable(f"line {number} is not JSON in its canonical form (RFC 8785), with a line feed")
    if isinstance(value, dict) and len(value) == 1 and next(iter(value)) in ("checkpoint", "end"):
        return next(iter(value.items()))
    if isinstance(value, dict) and set(value) == {"entry", "digest", "link"} and _is_linked(value):
        return "link", value
    raise Unreadable(f"line {number} is neither an entry with its link nor a checkpoint nor the end")


def _is_linked(value: dict[str, Any]) -> bool:
    """Whether the members of an entry's line are of the types they should be."""
    link = value["link"]
    if not isinstance(value["entry"], dict) or not isinstance(link, dict) or set(link) != LINK:
        return False
    texts = (value["digest"], link["previous"], link["hash"])
    return type(link["sequence"]) is int and all(isinstance(text, str) for text in texts)


def _begun(kind: str, content: Any, keys: PublicKeys) -> Chain:
    if kind != "link":
        raise Unreadable("line 1 is no entry")
    return Chain(str(content["entry"].get("tenant_id")), keys, first=content["link"]["sequence"])


def _take(chain: Chain, kind: str, content: Any, number: int) -> None:
    if kind == "checkpoint":
        chain.seal(content)
    elif chain.checkpoints:
        chain.complain(f"line {number}: an entry stands behind a checkpoint", content["link"]["sequence"])
    else:
        chain.follow(content["link"], content["entry"], str(content["digest"]))


def _check_end(chain: Chain, end: Any, sha256: str) -> None:
    if end is None:
        chain.complain("the end is missing: the export was cut off")
        return
    try:
        said = opened(end, kind=EXPORT, keys=chain.keys)
    except NotSigned as error:
        chain.complain(f"the end: {error}")
        return
    if not isinstance(said, dict) or set(said) != END or said["tenant"] != chain.tenant:
        chain.complain("the end is not that of an export of this tenant")
    elif said["first"] != (chain.first if chain.last else 0):
        chain.complain("it is missing: the export began with it", said["first"])
    elif said["last"] > chain.last:
        chain.complain(f"it is missing: the export ended with {said['last']}", chain.last + 1)
    elif said["checkpoints"] != chain.checkpoints:
        chain.complain(f"there are {chain.checkpoints} checkpoints; the export had {said['checkpoints']}")
    elif said["sha256"] != sha256 and not chain.findings:
        chain.complain("something in the lines before the end was changed")


def _tenant_of_the_end(end: Any, keys: PublicKeys) -> str:
    """The tenant of an export without entries. Raises Unreadable where there is nothing at all."""
    try:
        return str(opened(end, kind=EXPORT, keys=keys)["tenant"])
    except (NotSigned, TypeError, KeyError):
        raise Unreadable("there is nothing in it that is signed") from None


def _known(chain: Chain | None) -> Chain:
    if chain is None:
        raise Unreadable("it begins with its end")
    return chain


# -- checkpoints that were written down elsewhere


def anchors(lines: Iterable[bytes]) -> Iterator[Any]:
    """The envelopes at the ends of log lines that tell of a checkpoint."""
    for line in lines:
        _, found, text = line.partition(b"audit checkpoint ")
        if found:
            try:
                yield json.loads(text)
            except ValueError:
                raise Unreadable(f"a checkpoint in the log cannot be read: {text[:60]!r}") from None


def main(arguments: list[str] | None = None) -> int:
    """Check an export; prints a report. Returns 0 where all is as it was written, 1 where not, 2 where that cannot be told."""
    parser = ArgumentParser("audit_chain", description="Check an export of the audit log with the public key alone.")
    parser.add_argument("file", type=Path, metavar="EXPORT.ndjson")
    parser.add_argument("--public-key", type=Path, required=True, metavar="FILE", help="PEM, JWK or JWKS")
    chosen = parser.parse_args(arguments)
    code, text = verdict(chosen.file, chosen.public_key)
    (sys.stdout if code == SOUND else sys.stderr).write(f"{text}\n")
    return code


def verdict(file: Path, public_key: Path) -> tuple[int, str]:
    """The exit code for an export, and the report."""
    try:
        keys = read_public_keys(public_key)
        with file.open("rb") as lines:
            chain = check_export(lines, keys)
    except UnusableKey as error:
        return UNUSABLE, f"--public-key: {error}"
    except OSError as error:
        return UNUSABLE, f"{file}: {error.strerror}."
    except Unreadable as error:
        return WRONG, f"{file}: {error}."
    return (WRONG if chain.findings else SOUND), chain.report


if __name__ == "__main__":
    sys.exit(main())
