"""What a stranger does first: the demonstration, and the README's session, word for word."""

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


def test_the_session_of_the_readme_works_when_pasted(running):
    (session,) = re.findall(r"```sh\n(\. \.data/demo\.env.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    script = session.replace(".data/demo.env", f"'{running}/demo.env'")
    done = subprocess.run(["bash", "-euc", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for word in (
        '"run_id"',
        '"tool": "write_record"',
        '"status": "approved"',
        '"decided_by": "bob"',
        '"status": "completed"',
    ):
        assert word in done.stdout, done.stdout
