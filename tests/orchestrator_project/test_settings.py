"""Settings: production refuses to start until it is told everything, and says what is missing."""

import os
import subprocess
import sys

import pytest

COMPLETE = {
    "ANUMATE_ENV": "production",
    "SECRET_KEY": "s" * 60,
    "DATABASE_URL": "postgresql://user:hidden-word@db.example:5433/name?sslmode=require",
    "ALLOWED_HOSTS": "a.example, b.example",
    "PORTIA_BASE_URL": "https://portia.example/",
    "PORTIA_API_KEY": "hidden-key",
    "CAPTOKENS_JWKS_FILE": "/etc/jwks.json",
}


def settings_with(environment, show="settings.DATABASES['default']['HOST']"):
    code = f"from orchestrator_project import settings; print({show})"
    clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_complete_production_environment_is_accepted():
    done = settings_with(
        COMPLETE, show="settings.ALLOWED_HOSTS, settings.PORTIA_BASE_URL, settings.DATABASES['default']"
    )
    assert done.returncode == 0, done.stderr
    for part in ("['a.example', 'b.example']", "https://portia.example {", "'sslmode': 'require'", "'5433'"):
        assert part in done.stdout


@pytest.mark.parametrize("name", [name for name in COMPLETE if name != "ANUMATE_ENV"])
def test_production_names_what_is_missing(name):
    done = settings_with({**COMPLETE, name: ""})
    assert done.returncode != 0
    assert f"  {name}: " in done.stderr
    assert not any(secret in done.stderr for secret in ("hidden-word", "hidden-key", "s" * 60))


def test_an_unset_mode_is_not_development():
    done = settings_with({**COMPLETE, "ANUMATE_ENV": "", "SECRET_KEY": ""}, show="settings.ANUMATE_ENV")
    # The checkout's own .env may say development; without it an empty mode means production.
    assert done.stdout.strip() == "development" or "SECRET_KEY" in done.stderr


@pytest.mark.parametrize(
    ("name", "value"), [("ANUMATE_ENV", "staging"), ("IDEMPOTENCY_TTL", "soon"), ("PORTIA_READ_TIMEOUT", "-1")]
)
def test_a_value_of_the_wrong_kind_is_named(name, value):
    done = settings_with({**COMPLETE, name: value})
    assert done.returncode != 0
    assert f"{name}: " in done.stderr


@pytest.mark.parametrize("name", ["PORTIA_BASE_URL", "PLAN_COMPILER_BASE_URL", "PUBLIC_URL"])
@pytest.mark.parametrize("login", ["user:hidden-word", ":hidden-word", "hidden-word", ":", ""])
def test_an_address_with_a_login_in_it_is_refused_and_not_repeated(name, login):
    done = settings_with({**COMPLETE, name: f"https://{login}@neighbour.example"})
    assert done.returncode != 0
    assert f"  {name}: " in done.stderr
    assert "hidden-word" not in done.stderr


def test_a_secret_that_is_wrong_is_not_repeated():
    done = settings_with({**COMPLETE, "DATABASE_URL": "nonsense hidden-word"})
    assert done.returncode != 0
    assert "hidden-word" not in done.stderr.splitlines()[-1]
