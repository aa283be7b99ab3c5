"""The audit of the locked versions, against an index of our own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "audit_dependencies.py"
ADVISORY = {
    "id": "PYSEC-2026-1",
    "aliases": ["CVE-2026-11111"],
    "summary": "It lets everybody in.",
    "fixed_in": ["1.1"],
    "withdrawn": None,
}


@pytest.fixture
def audit(tmp_path, httpserver):
    """Run the audit with these arguments on a lock of two packages; `accepted` is what the list of exceptions says."""
    lock = tmp_path / "a.lock"
    lock.write_text(
        "good==1.0 \\\n    --hash=sha256:00\nbad[extra]==1.0 ; python_version < '4' \\\n    --hash=sha256:11\n"
    )
    (tmp_path / "accepted.txt").write_text("# none\n")

    def run(*arguments, accepted="", index=None):
        (tmp_path / "accepted.txt").write_text(accepted)
        named = ["--lock", lock, "--accepted", tmp_path / "accepted.txt"]
        named += ["--index", index or httpserver.url_for("").rstrip("/")]
        return subprocess.run(
            [sys.executable, SCRIPT, *named, *arguments], env={"DATA_DIR": str(tmp_path)}, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip

    return run


def answer(httpserver, *vulnerabilities):
    for name, known in (("good", []), ("bad", list(vulnerabilities))):
        path = f"/pypi/{name}/1.0/json"
        httpserver.expect_request(path).respond_with_data(json.dumps({"vulnerabilities": known}))


def test_versions_without_known_vulnerabilities_pass(audit, httpserver):
    answer(httpserver)
    done = audit()
    assert (done.returncode, done.stdout, done.stderr) == (0, "2 of 2 locked versions audited.\n", "")


def test_a_known_vulnerability_fails_and_is_remembered_for_this_lock(audit, httpserver):
    answer(httpserver, ADVISORY)
    for done in (audit(), audit("--known", index="http://127.0.0.1:1")):
        assert done.returncode == 1
        assert "bad==1.0: PYSEC-2026-1 (CVE-2026-11111) It lets everybody in. Fixed in: 1.1." in done.stdout


@pytest.mark.parametrize("name", ["PYSEC-2026-1", "CVE-2026-11111"])
def test_one_that_is_accepted_with_a_reason_passes(audit, httpserver, name):
    answer(httpserver, ADVISORY)
    assert audit(accepted=f"# a comment\n{name} we never call it; until 2027\n").returncode == 0


def test_one_that_is_accepted_without_a_reason_does_not(audit, httpserver):
    answer(httpserver, ADVISORY)
    done = audit(accepted="PYSEC-2026-1\n")
    assert (done.returncode, "give a reason after PYSEC-2026-1" in done.stderr) == (1, True)


def test_a_withdrawn_advisory_is_none(audit, httpserver):
    answer(httpserver, ADVISORY | {"withdrawn": "2026-11-01T00:00:00Z"})
    assert audit().returncode == 0


def test_a_version_the_index_does_not_know_is_not_taken_for_a_good_one(audit, httpserver):
    httpserver.expect_request("/pypi/bad/1.0/json").respond_with_data("no", status=404)
    httpserver.expect_request("/pypi/good/1.0/json").respond_with_json({"vulnerabilities": []})
    for arguments in ([], ["--known"]):
        done = audit(*arguments)
        assert (done.returncode, "!! DEPENDENCIES NOT AUDITED: " in done.stderr) == (0, True)


@pytest.mark.parametrize("arguments", [[], ["--known"]])
def test_without_a_network_it_says_loudly_that_nothing_was_audited(audit, arguments):
    done = audit(*arguments, index="http://127.0.0.1:1")
    assert done.returncode == 0
    assert done.stderr.startswith("!! DEPENDENCIES NOT AUDITED: ")
