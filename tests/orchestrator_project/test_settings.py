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
    "AUDIT_SIGNING_KEY_FILE": "/etc/audit.pem",
}


def settings_with(environment, show="settings.DATABASES['default']['HOST']"):
    code = f"import django.conf; from orchestrator_project import settings; print({show})"
    environment = {**environment, "DJANGO_SETTINGS_MODULE": "orchestrator_project.settings"}
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


@pytest.mark.parametrize("name", ["CAPTOKENS_JWKS_URL", "CAPTOKENS_BASE_URL"])
def test_production_may_check_tokens_in_another_way_than_with_a_file(name):
    done = settings_with({**COMPLETE, "CAPTOKENS_JWKS_FILE": "", name: "https://captokens.example"})
    assert done.returncode == 0, done.stderr


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


@pytest.mark.parametrize(
    "name", ["PORTIA_BASE_URL", "PLAN_COMPILER_BASE_URL", "PUBLIC_URL", "CAPTOKENS_BASE_URL", "CAPTOKENS_JWKS_URL"]
)
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


def with_file(tmp_path, name, text, mode=0o400):
    path = tmp_path / name
    path.write_text(text)
    path.chmod(mode)
    return {**COMPLETE, name: "", f"{name}_FILE": str(path)}


@pytest.mark.parametrize(
    ("name", "text", "show"),
    [
        ("SECRET_KEY", "k" * 60 + "\n", "settings.SECRET_KEY"),
        ("PORTIA_API_KEY", "file-key\n", "settings.PORTIA_API_KEY"),
        ("DATABASE_URL", "postgresql://u:p@there.example/n\n", "settings.DATABASES['default']['HOST']"),
        ("PLAN_COMPILER_API_KEY", "file-key", "settings.PLAN_COMPILER_API_KEY"),
        ("EMAIL_URL", "smtp://u:p@there.example:587", "settings.EMAIL_HOST"),
        ("SECRET_KEY_FALLBACKS", "old-one,older-one\n", "' '.join(settings.SECRET_KEY_FALLBACKS)"),
    ],
)
def test_every_secret_may_come_from_a_file(tmp_path, name, text, show):
    done = settings_with(with_file(tmp_path, name, text), show)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in (text.strip(), "there.example", "old-one older-one")


def test_every_setting_of_a_secret_type_may_come_from_a_file():
    from orchestrator_project.secret_files import is_secret
    from orchestrator_project.settings import Environment

    secret = {name for name, field in Environment.model_fields.items() if is_secret(field)}
    assert secret >= {"secret_key", "secret_key_fallbacks", "database_url", "portia_api_key", "email_url"}
    assert not [
        name for name in Environment.model_fields if name.endswith(("_key", "_password")) and name not in secret
    ]


def test_a_secret_given_twice_is_refused_by_both_names(tmp_path):
    environment = with_file(tmp_path, "PORTIA_API_KEY", "hidden-key")
    done = settings_with({**environment, "PORTIA_API_KEY": "hidden-key"})
    assert done.returncode != 0
    assert "PORTIA_API_KEY and PORTIA_API_KEY_FILE are both set: remove one of them." in done.stderr
    assert "hidden-key" not in done.stderr


@pytest.mark.parametrize(("text", "mode", "problem"), [
    ("hidden-key", 0o444, "everybody may read"), ("hidden-key", 0o402, "everybody may read"), ("\n", 0o400, "is empty"),
    ("x" * 70_000, 0o400, "longer than"),
])  # fmt: skip
def test_a_secret_file_that_will_not_do_is_named_and_not_quoted(tmp_path, text, mode, problem):
    done = settings_with(with_file(tmp_path, "PORTIA_API_KEY", text, mode))
    assert done.returncode != 0
    assert "PORTIA_API_KEY_FILE: " in done.stderr
    assert problem in done.stderr
    assert "hidden-key" not in done.stderr


@pytest.mark.parametrize("name", ["AUDIT_SIGNING_KEY_FILE", "CAPTOKENS_SIGNING_KEY_FILE"])
def test_a_private_key_everybody_may_read_is_refused_in_production(tmp_path, name):
    path = tmp_path / "key"
    path.write_text("hidden-key")
    path.chmod(0o444)
    assert f"  {name}: everybody may read" in settings_with({**COMPLETE, name: str(path)}).stderr
    path.chmod(0o400)
    assert settings_with({**COMPLETE, name: str(path)}).returncode == 0


def test_a_secret_file_that_is_not_there_is_named():
    done = settings_with({**COMPLETE, "PORTIA_API_KEY": "", "PORTIA_API_KEY_FILE": "/nowhere/at/all"})
    assert "PORTIA_API_KEY_FILE: /nowhere/at/all cannot be read: No such file or directory" in done.stderr


def test_in_development_a_file_everybody_may_read_is_taken(tmp_path):
    environment = with_file(tmp_path, "PORTIA_API_KEY", "file-key", 0o444) | {"ANUMATE_ENV": "development"}
    assert settings_with(environment, "settings.PORTIA_API_KEY").stdout.strip() == "file-key"


@pytest.mark.parametrize(("kind", "name"), [("SESSION", "__Host-sessionid"), ("CSRF", "__Host-csrftoken")])
def test_cookies_of_production_belong_to_this_host_and_travel_by_tls_only(kind, name):
    what = ("NAME", "SECURE", "HTTPONLY", "SAMESITE", "PATH", "DOMAIN")
    done = settings_with(COMPLETE, ", ".join(f"django.conf.settings.{kind}_COOKIE_{one}" for one in what))
    assert done.stdout.split() == [name, "True", "True", "Lax", "/", "None"]


@pytest.mark.parametrize(("name", "value"), [("SESSION_IDLE", "5"), ("SESSION_MAX_AGE", "-1")])
def test_a_session_limit_that_makes_no_sense_is_named(name, value):
    assert f"{name}: " in settings_with({**COMPLETE, name: value}).stderr
