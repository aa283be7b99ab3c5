"""Exports and the database's log: whatever is changed afterwards is found, with the public key alone."""

import json
import os
import subprocess
import sys
from datetime import timedelta
from hashlib import sha256
from io import StringIO
from uuid import UUID

import pytest
import time_machine
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from executions import audit, tasks
from executions.actions import audit as log
from executions.audit_chain import SOUND, UNUSABLE, WRONG, check_export, link_hash, main
from executions.canonical_json import canonical_json, digest
from executions.checks import check_audit_keys
from executions.models import SERVICE, AuditCheckpoint, AuditEntry, AuditLink
from executions.signing import CHECKPOINT, EXPORT, by_id, key_id, public_jwk, sign

TENANT = "01a20add-65c2-7d9d-9157-4cfbcf985754"
KEY = Ed25519PrivateKey.generate()
KEYS = by_id([KEY.public_key()])
OTHER = Ed25519PrivateKey.generate()


# -- an export, made up here so that any can be tried


def an_export(count=6, *, first=1, sealed=(3, 6), key=KEY):
    """The lines of an export with so many entries."""
    lines, previous, hashes = [], "0" * 64 if first == 1 else "7" * 64, {}
    for sequence in range(first, first + count):
        entry = {
            "id": f"id-{sequence}", "tenant_id": TENANT, "at": "2026-11-24T08:00:00.000000Z", "actor": "alice",
            "source": "api", "action": "test.done", "subject": f"thing/{sequence}", "reason": "", "correlation_id": "",
            "address": "", "before": None, "after": {"amount": sequence},
        }  # fmt: skip
        mark = digest(entry)
        hashes[sequence] = link_hash(tenant=TENANT, sequence=sequence, previous=previous, digest=mark)
        link = {"sequence": sequence, "previous": previous, "hash": hashes[sequence]}
        lines.append(line({"entry": entry, "digest": mark, "link": link}))
        previous = hashes[sequence]
    for sequence in sealed:
        lines.append(line({"checkpoint": sign(statement(sequence, hashes[sequence]), kind=CHECKPOINT, key=key)}))
    said = {
        "tenant": TENANT, "first": first, "last": first + count - 1, "hash": previous, "checkpoints": len(sealed),
        "sha256": sha256(b"".join(lines)).hexdigest(), "at": "2026-11-24T09:00:00.000000Z",
    }  # fmt: skip
    return [*lines, line({"end": sign(said, kind=EXPORT, key=key)})]


def statement(sequence, of):
    return {"tenant": TENANT, "sequence": sequence, "hash": of, "at": "2026-11-24T08:30:00.000000Z"}


def line(value):
    return canonical_json(value) + b"\n"


def is_sound(lines, keys=KEYS):
    try:
        return not check_export(lines, keys).findings
    except ValueError:
        return False


@pytest.mark.parametrize("facts", [{}, {"first": 40, "sealed": (41,)}, {"count": 1, "sealed": ()}])
def test_an_export_as_it_was_written_is_sound(facts):
    assert is_sound(an_export(**facts))


def test_an_export_is_not_sound_by_another_key():
    assert not is_sound(an_export(), keys=by_id([OTHER.public_key()]))


EXPORTED = an_export()


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_single_change_of_an_export_is_found(data):
    """A byte changed, added or taken out; a line deleted, doubled, moved or swapped; the rest cut off."""
    lines = list(EXPORTED)
    at = data.draw(st.integers(0, len(lines) - 1), "line")
    kind = data.draw(st.sampled_from(["edit", "insert", "drop", "delete", "double", "move", "swap", "cut"]))
    if kind in ("edit", "insert", "drop"):
        place = data.draw(st.integers(0, len(lines[at]) - 1), "place")
        new = b"" if kind == "drop" else bytes([data.draw(st.integers(0, 255), "byte")])
        lines[at] = lines[at][:place] + new + lines[at][place + (kind != "insert") :]
    elif kind in ("double", "move"):
        there = data.draw(st.integers(0, len(lines)), "there")
        moved = lines[at]
        if kind == "move":
            lines[at : at + 1] = []
        lines.insert(there, moved)
    elif kind == "swap":
        other = data.draw(st.integers(0, len(lines) - 1), "other")
        lines[at], lines[other] = lines[other], lines[at]
    else:
        lines[at : at + 1 if kind == "delete" else None] = []
    assert lines == EXPORTED or not is_sound(b"".join(lines).splitlines(keepends=True))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("entry", "actor"), "mallory"), (("entry", "after"), {"amount": 999}), (("entry", "tenant_id"), str(UUID(int=1))),
        (("digest",), "0" * 64), (("link", "hash"), "0" * 64), (("link", "previous"), "0" * 64), (("link", "sequence"), 9),
    ],
)  # fmt: skip
def test_a_changed_member_is_found_at_its_sequence(path, value):
    lines = an_export()
    changed = json.loads(lines[3])
    inner = changed
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    lines[3] = line(changed)
    report = check_export(lines, KEYS).report
    assert "The first wrong sequence is 4." in report, report


def test_an_entry_written_anew_with_all_that_follows_breaks_the_checkpoints():
    """Whoever has the database but not the key makes a chain that fits: other hashes than those that were sealed."""
    false, true = an_export(key=OTHER), an_export()
    entry = json.loads(false[0])
    assert entry["link"]["sequence"] == 1
    rewritten = an_export_with(subject="thing/else")
    report = check_export([*rewritten[:6], *true[6:]], KEYS).report
    assert "sequence 3: it is not what the checkpoint" in report


def an_export_with(subject):
    """An export whose entries all tell of something else, in a chain that fits."""
    lines, previous = [], "0" * 64
    for one in map(json.loads, an_export()[:6]):
        one["entry"]["subject"] = subject
        one["digest"] = digest(one["entry"])
        one["link"]["previous"] = previous
        one["link"]["hash"] = previous = link_hash(
            tenant=TENANT, sequence=one["link"]["sequence"], previous=previous, digest=one["digest"]
        )
        lines.append(line(one))
    return lines


def test_a_forged_checkpoint_is_found():
    lines = an_export()
    said = statement(3, json.loads(lines[2])["link"]["hash"])
    lines[6] = line({"checkpoint": sign(said, kind=CHECKPOINT, key=OTHER)})
    assert "is not among the public keys given" in check_export(lines, KEYS).report


def test_a_signature_over_another_kind_of_thing_is_no_checkpoint():
    lines = an_export()
    said = statement(3, json.loads(lines[2])["link"]["hash"])
    lines[6] = line({"checkpoint": sign(said, kind=EXPORT, key=KEY)})
    assert "the envelope holds" in check_export(lines, KEYS).report


def test_an_export_cut_off_behind_a_checkpoint_names_what_is_missing():
    lines = an_export()
    report = check_export([*lines[:4], *lines[6:]], KEYS).report
    assert "The first wrong sequence is 5." in report
    assert "has sealed all up to 6" in report


# -- the commands

in_database = pytest.mark.django_db(transaction=True)


@pytest.fixture
def key_file(tmp_path):
    """The public keys, as an auditor has them."""
    out = StringIO()
    call_command("sign_audit", "--public-keys", stdout=out)
    path = tmp_path / "audit.jwks"
    path.write_text(out.getvalue())
    return path


@pytest.fixture
def logged(acme):
    """Five entries of acme, with the making of the tenant, of which the first three are sealed."""
    for number in range(2):
        note(acme, number)
    log.sign_checkpoints(tenant_id=acme.pk)
    for number in range(2, 4):
        note(acme, number)
    return acme


def note(tenant, number):
    audit.record(
        action="test.done",
        subject=f"thing/{number}",
        by="alice",
        tenant_id=tenant.pk,
        after={"amount": 0.5, "of": "ä\n"},
    )


def verify(*words):
    """(exit code, what it says)."""
    out = StringIO()
    with pytest.raises(SystemExit) as left:
        call_command("verify_audit", *map(str, words), stdout=out, stderr=out)
    return left.value.code, out.getvalue()


@in_database
def test_the_log_as_it_was_written_is_sound(logged, key_file):
    code, says = verify("--public-key", key_file)
    assert code == SOUND, says
    assert f"tenant {logged.pk}: sound. 5 entries, 1 checkpoint, 2 not yet sealed by one." in says
    assert f"tenant {SERVICE}: sound." in says


LOG = ("executions_auditentry", "executions_auditlink", "executions_auditcheckpoint")


def tamper(*statements):
    """What the owner of the database can do, having switched off the triggers."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        for table in LOG:
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        for statement_ in statements:
            cursor.execute(statement_)
        for table in LOG:
            cursor.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")


OF = "(SELECT entry_id FROM executions_auditlink WHERE sequence = {})"


@in_database
@pytest.mark.parametrize(
    ("statements", "first"),
    [
        ([f"UPDATE executions_auditentry SET actor = 'bob' WHERE id = {OF.format(2)}"], 2),
        ([f"UPDATE executions_auditentry SET at = at + interval '1 microsecond' WHERE id = {OF.format(5)}"], 5),
        ([f"DELETE FROM executions_auditentry WHERE id = {OF.format(4)}"], 4),
        (["DELETE FROM executions_auditlink WHERE sequence = 3"], 3),
        ([
            f"DELETE FROM executions_auditentry WHERE id = {OF.format(1)}",
            "DELETE FROM executions_auditlink WHERE sequence = 1",
        ], 1),
        (["DELETE FROM executions_auditlink WHERE sequence >= 3"], 3),  # cut off, and a checkpoint knows
        ([
            "UPDATE executions_auditlink SET sequence = 99 WHERE sequence = 1",
            "UPDATE executions_auditlink SET sequence = 1 WHERE sequence = 2",
            "UPDATE executions_auditlink SET sequence = 2 WHERE sequence = 99",
        ], 1),
        (["UPDATE executions_auditcheckpoint SET hash = repeat('0', 64)"], 3),
    ],
)  # fmt: skip
def test_what_the_databases_owner_changes_is_found(logged, key_file, statements, first):
    tamper(*statements)
    code, says = verify("--public-key", key_file, "--tenant", "acme")
    assert code == WRONG
    assert f"The first wrong sequence is {first}." in says, says


@in_database
def test_an_entry_slipped_in_without_a_place_is_found(logged, key_file):
    tamper(
        "INSERT INTO executions_auditentry"
        " (id, tenant_id, at, actor, source, action, subject, reason, correlation_id, address, digest) "
        f"VALUES (gen_random_uuid(), '{logged.pk}', now(), 'bob', 'api', 'a.b', 'c', '', '', '', repeat('0', 64))"
    )
    code, says = verify("--public-key", key_file, "--tenant", "acme")
    assert (code, "1 entries have no place in the chain" in says) == (WRONG, True)


@in_database
def test_a_log_elsewhere_holds_the_database_to_what_it_said(logged, key_file, tmp_path):
    """Entries and checkpoints cut off together leave a chain that fits; the checkpoint in a log elsewhere does not."""
    envelope = AuditCheckpoint.objects.get(tenant_id=logged.pk).envelope
    kept = tmp_path / "service.log"
    kept.write_bytes(
        b"2026-11-24 INFO executions [-] audit checkpoint " + canonical_json(envelope) + b"\nanother line\n"
    )
    assert verify("--public-key", key_file, "--log", kept)[0] == SOUND
    tamper(
        "DELETE FROM executions_auditcheckpoint",
        "DELETE FROM executions_auditentry WHERE id IN (SELECT entry_id FROM executions_auditlink WHERE sequence >= 2)",
        "DELETE FROM executions_auditlink WHERE sequence >= 2",
    )
    assert verify("--public-key", key_file)[0] == SOUND
    code, says = verify("--public-key", key_file, "--log", kept)
    assert (code, "The first wrong sequence is 2." in says) == (WRONG, True)


ROW = "DELETE FROM executions_tenant"


@pytest.fixture
def kept(logged, tmp_path):
    """A log of the service that was sent elsewhere."""
    path = tmp_path / "service.log"
    envelopes = AuditCheckpoint.objects.values_list("envelope", flat=True)
    path.write_bytes(b"".join(b"audit checkpoint " + canonical_json(one) + b"\n" for one in envelopes))
    return path


@in_database
@pytest.mark.parametrize("left", [(), *((table,) for table in LOG)])
def test_a_tenant_that_is_gone_is_found_by_whatever_is_left_of_its_log(logged, key_file, left):
    tamper(
        ROW, *(f"DELETE FROM {table} WHERE tenant_id = '{logged.pk}'" for table in LOG if left and table not in left)
    )
    code, says = verify("--public-key", key_file)
    assert code == WRONG
    assert f"tenant {logged.pk}: NOT as it was written" in says
    assert "its tenant is gone" in says


@in_database
@pytest.mark.parametrize(("rows", "says"), [([], "has sealed all up to 3"), ([ROW], "the log of tenant {} is gone")])
def test_a_log_that_is_gone_as_a_whole_is_found_by_the_log_elsewhere(logged, key_file, kept, rows, says):
    tamper(*rows, *(f"DELETE FROM {table}" for table in LOG))
    code, report = verify("--public-key", key_file, "--log", kept)
    assert (code, says.format(logged.pk) in report) == (WRONG, True), report


@in_database
def test_the_chain_of_a_tenant_that_is_gone_is_sealed(acme):
    tamper(ROW)
    assert [one.tenant_id for one in log.sign_checkpoints()] == [acme.pk]


@in_database
@pytest.mark.parametrize("change", ["signed_at = signed_at + interval '1 second'", "key_id = 'x'"])
def test_a_changed_row_of_a_checkpoint_is_found(logged, key_file, change):
    tamper(f"UPDATE executions_auditcheckpoint SET {change}")
    code, says = verify("--public-key", key_file)
    assert (code, "the row of its checkpoint is not what the envelope says" in says) == (WRONG, True)


@in_database
def test_links_that_nobody_seals_are_found_after_a_while(logged, key_file, settings):
    with time_machine.travel(timezone.now() + timedelta(seconds=2 * settings.AUDIT_CHECKPOINT_INTERVAL)):
        assert verify("--public-key", key_file)[0] == SOUND
    with time_machine.travel(timezone.now() + timedelta(seconds=4 * settings.AUDIT_CHECKPOINT_INTERVAL)):
        code, says = verify("--public-key", key_file)
        assert (code, "sequence 4: it is of " in says) == (WRONG, True)
        log.sign_checkpoints()
        assert verify("--public-key", key_file)[0] == SOUND


@in_database
def test_an_export_is_checked_with_the_public_key_alone(logged, key_file, tmp_path):
    path = tmp_path / "acme.ndjson"
    call_command("export_audit", "--tenant", "acme", "--output", str(path))
    assert verify("--file", path, "--public-key", key_file)[0] == SOUND
    done = subprocess.run(
        [sys.executable, "-m", "executions.audit_chain", str(path), "--public-key", str(key_file)],
        cwd=django_settings.BASE_DIR, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (SOUND, "")
    assert "sound. 5 entries, 2 checkpoints, 0 not yet sealed by one." in done.stdout
    path.write_bytes(path.read_bytes().replace(b"alice", b"mallo", 1))
    code, says = verify("--file", path, "--public-key", key_file)
    assert (code, "The first wrong sequence is 2." in says) == (WRONG, True)


@in_database
def test_a_part_of_the_log_is_exported(logged, key_file, tmp_path, capsys):
    third = AuditEntry.objects.get(pk=AuditLink.objects.get(tenant_id=logged.pk, sequence=3).entry_id)
    until = (third.at + timedelta(microseconds=1)).isoformat()
    for words, sequences in [
        (("--since", third.at.isoformat()), [3, 4, 5]),
        (("--until", until), [1, 2, 3]),
        (("--since", (timezone.now() + timedelta(days=1)).isoformat()), []),
    ]:
        path = tmp_path / "part.ndjson"
        call_command("export_audit", "--tenant", "acme", "--output", str(path), *words)
        values = [json.loads(one) for one in path.read_bytes().splitlines()]
        assert [one["link"]["sequence"] for one in values if "link" in one] == sequences
        assert verify("--file", path, "--public-key", key_file)[0] == SOUND
    call_command("export_audit", "--tenant", "service")
    assert "end" in json.loads(capsys.readouterr().out.splitlines()[-1])


@in_database
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("verify_audit", "--tenant", "ghost", "--public-key", "x"), "no 'ghost'"),
        (("verify_audit", "--public-key", "/nowhere"), "/nowhere"),
        (("verify_audit", "--public-key", __file__), "PEM, JWK or JWKS"),
        (("verify_audit", "--file", "x", "--tenant", "acme", "--public-key", "x"), "by itself"),
        (("export_audit", "--tenant", "ghost"), "no 'ghost'"),
        (("export_audit", "--tenant", "acme", "--since", "yesterday"), "--since"),
        (("export_audit", "--tenant", "acme", "--until", "2026-11-24T08:00:00"), "offset"),
        (("export_audit", "--tenant", "acme", "--output", "/nowhere/x"), "--output"),
        (("sign_audit", "--tenant", "ghost"), "no 'ghost'"),
    ],
)
def test_bad_input_is_named(acme, words, says):
    with pytest.raises(CommandError, match=says) as refused:
        call_command(*words)
    assert refused.value.returncode == UNUSABLE


@pytest.mark.parametrize("content", [b"", b"{}\n", b"not json\n", b"\xff\n", b'{"end":1}\n', b"[]\n"])
def test_what_is_no_export_is_refused(tmp_path, capsys, content):
    export, keys = tmp_path / "export.ndjson", tmp_path / "key.jwk"
    export.write_bytes(content)
    keys.write_text(json.dumps(public_jwk(KEY.public_key())))
    assert main([str(export), "--public-key", str(keys)]) == WRONG
    assert str(export) in capsys.readouterr().err


def test_whoever_checks_an_export_needs_no_django():
    code = "import sys, executions.audit_chain; print([name for name in sys.modules if name.split('.')[0] == 'django'])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=django_settings.BASE_DIR, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


# -- sealing


@in_database
def test_a_chain_that_has_grown_is_sealed_once_and_then_after_a_while(acme, settings, caplog):
    caplog.set_level("INFO")
    due_in = log.CheckpointsDue()
    assert due_in() == 0
    assert log.sign_due_checkpoints() == 1
    envelope = AuditCheckpoint.objects.get().envelope
    assert f"audit checkpoint {canonical_json(envelope).decode()}" in caplog.text
    assert log.sign_due_checkpoints() == 0
    note(acme, 1)
    assert log.sign_due_checkpoints() == 0
    settings.AUDIT_CHECKPOINT_INTERVAL = 0
    assert log.sign_due_checkpoints() == 1
    assert list(AuditCheckpoint.objects.order_by("sequence").values_list("sequence", flat=True)) == [1, 2]


@in_database
@pytest.mark.parametrize("change", ["signed_at = '9999-01-01', key_id = 'x'", "sequence = 1000000"])
def test_a_forged_checkpoint_does_not_switch_sealing_off(logged, change):
    tamper(f"UPDATE executions_auditcheckpoint SET {change}")
    assert log.CheckpointsDue()() == 0
    assert log.sign_due_checkpoints() == 1
    assert AuditCheckpoint.objects.filter(tenant_id=logged.pk, sequence=5).exists()


@in_database
def test_asked_often_it_looks_rarely(acme, django_assert_num_queries):
    log.sign_checkpoints()
    due_in = log.CheckpointsDue()
    with django_assert_num_queries(1):
        assert 0 < due_in() <= log.LOOK_EVERY
        assert 0 < due_in() <= log.LOOK_EVERY


@in_database
def test_what_is_sealed_stays_checkable_after_a_change_of_keys(logged, key_file, settings, tmp_path):
    settings.AUDIT_OLD_KEYS_FILE, settings.AUDIT_SIGNING_KEY_FILE = key_file, tmp_path / "new.pem"
    log.sign_checkpoints()
    assert not log.check_chain(logged.pk, keys=log.public_keys()).findings
    assert log.check_chain(logged.pk, keys=KEYS).findings


@in_database
def test_the_job_that_cleans_up_seals(acme):
    assert tasks.cleanup_due() <= log.LOOK_EVERY
    assert tasks.cleanup() == 1
    assert AuditCheckpoint.objects.get().tenant_id == acme.pk


def test_production_is_told_of_a_key_that_cannot_be_used(settings, tmp_path):
    settings.IS_PRODUCTION, settings.AUDIT_SIGNING_KEY_FILE = True, tmp_path / "nowhere.pem"
    (error,) = check_audit_keys()
    assert (error.id, "nowhere.pem" in error.msg) == ("audit.E001", True)
    assert not settings.AUDIT_SIGNING_KEY_FILE.exists()
    settings.IS_PRODUCTION = False
    assert check_audit_keys() == []


def test_the_key_of_development_is_made_once_and_is_its_owners(settings, tmp_path):
    settings.AUDIT_SIGNING_KEY_FILE = tmp_path / "secrets" / "audit.pem"
    made = [key_id(log.signing_key().public_key()) for _ in range(2)]
    assert made[0] == made[1]
    assert settings.AUDIT_SIGNING_KEY_FILE.stat().st_mode & 0o777 == 0o600
    assert list(settings.AUDIT_SIGNING_KEY_FILE.parent.iterdir()) == [settings.AUDIT_SIGNING_KEY_FILE]
