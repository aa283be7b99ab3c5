"""What a stranger does first: the demonstration, the README's session, and then the how-to, word for word."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

ROOT = Path(__file__).resolve().parents[2]


def environment(folder):
    """A data folder of its own, so that nothing was ever started there."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "DJANGO"))}
    return {**own, "ANUMATE_ENV": "development", "DATA_DIR": str(folder), "DATABASE_URL": "", "PORTIA_BASE_URL": ""}


def manage(*words, **options):
    return subprocess.Popen([sys.executable, "manage.py", *words], cwd=ROOT, text=True, **options)


def test_the_demonstration_ends_well_on_a_machine_where_nothing_was_started_yet(tmp_path):
    demo = manage("demo", env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = demo.communicate(timeout=120)[0]
    assert demo.returncode == 0, said
    assert "bob approves it" in said
    assert "completed (ok)" in said
    assert list((tmp_path / "mail").iterdir())


@pytest.fixture
def running(tmp_path):
    up = manage("up", "--free-ports", env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 120
    while not (tmp_path / "demo.env").exists():
        assert up.poll() is None, up.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    yield tmp_path
    up.send_signal(signal.SIGTERM)
    assert "Stopped." in up.communicate(timeout=30)[0]
    assert up.returncode == 0


def pasted(folder, *blocks):
    """What a shell prints that gets these blocks one after the other."""
    script = "\n".join(blocks).replace(".data/demo.env", f"'{folder}/demo.env'")
    done = subprocess.run(["bash", "-euc", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "urn:anumate:problem" not in done.stdout, done.stdout
    return done.stdout


def blocks_of(name, beginning=""):
    return re.findall(rf"```sh\n({beginning}.*?)```", (ROOT / name).read_text(), re.DOTALL)


def test_the_session_of_the_readme_and_then_the_how_to_work_when_pasted(running):
    (session,) = blocks_of("README.md", r"\. \.data/demo\.env")
    said = pasted(running, session)
    for word in (
        '"run_id"',
        '"tool": "write_record"',
        '"status": "approved"',
        '"decided_by": "bob"',
        '"status": "completed"',
    ):
        assert word in said, said

    how_to = blocks_of("docs/how-to/run-a-plan.md")
    assert len(how_to) == 4
    said = pasted(running, session, *how_to)
    for word in ('"step_order"', '"plan_name":"Welcome a new customer"', "Preference-Applied: wait=30"):
        assert word.lower() in said.lower(), said


def test_the_readme_session_decides_its_own_run_and_no_newer_one(running):
    (session,) = blocks_of("README.md", r"\. \.data/demo\.env")
    before, after = session.split("# It has stopped", 1)
    newer = before.replace("refund-A-1042", "newer").replace("RUN=", "NEWER=").replace("ANSWER", "OTHER")
    newest = 'curl -s "$ORCHESTRATOR_URL/v1/executions/$NEWER" -H "Authorization: Bearer $ORCHESTRATOR_KEY"'
    said = pasted(running, before, newer, "# " + after, newest)
    assert '"status": "completed"' in said, said
    assert '"status":"paused"' in said.splitlines()[-1], said
