"""Every setting of the service, read from the environment (and from `.env` beside manage.py).

`ANUMATE_ENV` decides the mode. It has no permissive default: unset means production, and production refuses to start until
everything it needs is set. Names, meanings and defaults: docs/reference/settings.md.
"""

from __future__ import annotations

import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured
from psycopg.conninfo import conninfo_to_dict
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from orchestrator_project.admin_theme import LOGIN_REDIRECT_URL, UNFOLD  # noqa: F401 - read by Django and unfold
from orchestrator_project.secret_files import SecretFiles, is_open, is_secret

BASE_DIR = Path(__file__).resolve().parent.parent

Words = Annotated[list[str], NoDecode]
Secrets = Annotated[list[SecretStr], NoDecode]


class Environment(BaseSettings):
    """The environment variables, typed; times in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_file=BASE_DIR / ".env", env_ignore_empty=True, extra="ignore")

    anumate_env: Literal["development", "production"] = "production"
    secret_key: SecretStr | None = None
    secret_key_fallbacks: Secrets = []
    database_url: SecretStr | None = None
    data_dir: Path = BASE_DIR / ".data"
    allowed_hosts: Words = []
    csrf_trusted_origins: Words = []
    public_url: str = "http://127.0.0.1:8000"
    behind_tls_proxy: bool = False
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    portia_base_url: str = ""
    portia_api_key: SecretStr | None = None
    portia_connect_timeout: float = Field(3.0, gt=0)
    portia_read_timeout: float = Field(10.0, gt=0)

    plan_compiler_base_url: str = ""
    plan_compiler_api_key: SecretStr | None = None

    portia_runtime_tools: Words = []
    portia_runtime_workers: int = Field(8, ge=1, le=64)
    portia_http_allowed_hosts: Words = []

    captokens_jwks_file: Path | None = None
    captokens_jwks_url: str = ""
    captokens_issuer: str = ""
    captokens_base_url: str = ""
    captokens_api_key: SecretStr | None = None
    captokens_signing_key_file: Path | None = None
    captokens_expiry_warning: int = Field(60, ge=0, le=300)

    audit_signing_key_file: Path | None = None
    audit_old_keys_file: Path | None = None
    audit_checkpoint_interval: int = Field(300, ge=1)

    idempotency_ttl: int = Field(86_400, ge=60)
    deduplication_ttl: int = Field(600, ge=1)
    max_request_bytes: int = Field(2_000_000, ge=10_000)
    session_idle: int = Field(28_800, ge=60)
    session_max_age: int = Field(86_400, ge=300)

    email_url: SecretStr | None = None
    default_from_email: str = "orchestrator@localhost"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read NAME_FILE besides the environment and `.env`."""
        read = [one.env_vars for one in (dotenv_settings, env_settings) if isinstance(one, EnvSettingsSource)]
        files = SecretFiles(settings_cls, {name: value for source in read for name, value in source.items()})
        return files, env_settings, dotenv_settings

    def secret_values(self) -> list[str]:
        """Every secret that is set, for the log's filter."""
        given = [getattr(self, name) for name, field in type(self).model_fields.items() if is_secret(field)]
        flat = [one for value in given for one in (value if isinstance(value, list) else [value]) if one is not None]
        return [one.get_secret_value() for one in flat]

    @field_validator(
        "secret_key_fallbacks", "allowed_hosts", "csrf_trusted_origins", "portia_runtime_tools",
        "portia_http_allowed_hosts", mode="before",
    )  # fmt: skip
    @classmethod
    def _split_at_commas(cls, value: Any) -> Any:
        return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value

    @field_validator(
        "portia_base_url", "plan_compiler_base_url", "public_url", "captokens_base_url", "captokens_jwks_url"
    )
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or "@" in parts.netloc
            or parts.query
            or parts.fragment
        ):
            raise ValueError("give http(s)://host[:port], without user, password, query and fragment")
        return value

    @field_validator("portia_api_key", "plan_compiler_api_key", "captokens_api_key")
    @classmethod
    def _can_be_sent(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.fullmatch(r"[\x21-\x7e]+", value.get_secret_value()):
            raise ValueError("give printable ASCII characters without spaces: it is sent in a header")
        return value


def _read_environment() -> Environment:
    try:
        return Environment()
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors(include_input=False)]
        raise ImproperlyConfigured("Settings cannot be used:\n" + "\n".join(lines)) from None


def _check_production(environment: Environment) -> None:
    """Raise ImproperlyConfigured naming every variable that production needs and that is missing or too weak."""
    secret = environment.secret_key.get_secret_value() if environment.secret_key else ""
    problems = [
        ("SECRET_KEY", len(secret) < 50, "set at least 50 random characters"),
        ("DATABASE_URL", environment.database_url is None, "postgresql://user:password@host:5432/name"),
        ("ALLOWED_HOSTS", not environment.allowed_hosts, "the host names people use, separated by commas"),
        (
            "PORTIA_BASE_URL",
            not environment.portia_base_url,
            "where the Portia Runtime answers, e.g. https://portia:8080",
        ),
        ("PORTIA_API_KEY", environment.portia_api_key is None, "the key the Portia Runtime expects from us"),
        (
            "CAPTOKENS_JWKS_FILE",
            not (environment.captokens_jwks_file or environment.captokens_jwks_url or environment.captokens_base_url),
            "public keys that sign capability tokens (JWKS); or set CAPTOKENS_JWKS_URL or CAPTOKENS_BASE_URL",
        ),
        (
            "AUDIT_SIGNING_KEY_FILE",
            environment.audit_signing_key_file is None,
            "the private Ed25519 key that signs audit checkpoints and receipts; `openssl genpkey -algorithm ed25519` makes one",
        ),
    ]
    key_files = {name: getattr(environment, name) for name in Environment.model_fields if name.endswith("_key_file")}
    problems += [
        (name.upper(), bool(p and is_open(p)), f"everybody may read {p}: chmod o-rwx it")
        for name, p in key_files.items()
    ]
    missing = [f"  {name}: {fix}" for name, wrong, fix in problems if wrong]
    if missing:
        raise ImproperlyConfigured(
            "ANUMATE_ENV is production (also when it is unset) and these settings are missing or too weak:\n"
            + "\n".join(missing)
            + "\nTo try the service on this machine instead: echo ANUMATE_ENV=development >> .env"
        )


def _kept_secret(name: str) -> str:
    """A random secret of this checkout, made once and kept under the data folder (development only)."""
    path = ENV.data_dir / "secrets" / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = path.with_name(f"{name}.{secrets.token_hex(4)}")
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_urlsafe(48))
        with suppress(FileExistsError):  # two first starts at once: one of them wins, both read the same
            path.hardlink_to(draft)
        draft.unlink()
    return path.read_text().strip()


def _secret(value: SecretStr | None, name: str) -> str:
    return value.get_secret_value() if value else _kept_secret(name)


def _database() -> dict[str, Any]:
    """Django's DATABASES entry: DATABASE_URL (any libpq URI), else the embedded server."""
    common = {"CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True, "ATOMIC_REQUESTS": False}
    if ENV.database_url is None:
        from orchestrator_project.embedded_postgres import DATABASE, ROLE, EmbeddedPostgres

        engine = "orchestrator_project.embedded_postgres"
        host = str(EmbeddedPostgres(ENV.data_dir / "postgres").socket_dir)
        return {"ENGINE": engine, "HOST": host, "NAME": DATABASE, "USER": ROLE, **common}
    parts = dict(conninfo_to_dict(ENV.database_url.get_secret_value()))
    named = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
    known = {django: str(parts.pop(libpq, "") or "") for django, libpq in named.items()}
    return {"ENGINE": "django.db.backends.postgresql", **known, "OPTIONS": parts, **common}


ENV = _read_environment()
if ENV.anumate_env == "production":
    _check_production(ENV)

# -- the service's own settings

ANUMATE_ENV = ENV.anumate_env
IS_PRODUCTION = ANUMATE_ENV == "production"
DATA_DIR = ENV.data_dir.resolve()
PUBLIC_URL = ENV.public_url.rstrip("/")
BEHIND_TLS_PROXY = ENV.behind_tls_proxy
PORTIA_BASE_URL = (ENV.portia_base_url or "http://127.0.0.1:8080").rstrip("/")
PORTIA_API_KEY = _secret(ENV.portia_api_key, "portia_api_key")
PORTIA_CONNECT_TIMEOUT = ENV.portia_connect_timeout
PORTIA_READ_TIMEOUT = ENV.portia_read_timeout
PLAN_COMPILER_BASE_URL = ENV.plan_compiler_base_url.rstrip("/")
PLAN_COMPILER_API_KEY = ENV.plan_compiler_api_key.get_secret_value() if ENV.plan_compiler_api_key else ""
PORTIA_RUNTIME_TOOLS = ENV.portia_runtime_tools
PORTIA_RUNTIME_WORKERS = ENV.portia_runtime_workers
PORTIA_HTTP_ALLOWED_HOSTS = ENV.portia_http_allowed_hosts
CAPTOKENS_JWKS_FILE = ENV.captokens_jwks_file
CAPTOKENS_JWKS_URL = ENV.captokens_jwks_url
CAPTOKENS_ISSUER = ENV.captokens_issuer
CAPTOKENS_BASE_URL = ENV.captokens_base_url.rstrip("/")
CAPTOKENS_API_KEY = ENV.captokens_api_key.get_secret_value() if ENV.captokens_api_key else ""
CAPTOKENS_SIGNING_KEY_FILE = ENV.captokens_signing_key_file or DATA_DIR / "secrets" / "captokens_private.jwk"
CAPTOKENS_EXPIRY_WARNING = ENV.captokens_expiry_warning
AUDIT_SIGNING_KEY_FILE = ENV.audit_signing_key_file or DATA_DIR / "secrets" / "audit_signing.pem"
AUDIT_OLD_KEYS_FILE = ENV.audit_old_keys_file
AUDIT_CHECKPOINT_INTERVAL = ENV.audit_checkpoint_interval
IDEMPOTENCY_TTL = ENV.idempotency_ttl
DEDUPLICATION_TTL = ENV.deduplication_ttl

# -- Django

SECRET_KEY = _secret(ENV.secret_key, "secret_key")
SECRET_KEY_FALLBACKS = [one.get_secret_value() for one in ENV.secret_key_fallbacks]
DEBUG = False
ALLOWED_HOSTS = ENV.allowed_hosts or ["127.0.0.1", "localhost", "[::1]"]
CSRF_TRUSTED_ORIGINS = ENV.csrf_trusted_origins
ROOT_URLCONF = "orchestrator_project.urls"
WSGI_APPLICATION = "orchestrator_project.wsgi.application"
DATABASES = {"default": _database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATA_UPLOAD_MAX_MEMORY_SIZE = ENV.max_request_bytes
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
STATIC_URL = "/static/"
STATIC_ROOT = DATA_DIR / "static"

INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "pgtrigger",
    "orchestrator_project",  # before django_q: our qcluster command takes the place of the stock one
    "django_q",
    "executions",
    "approvals_bridge",
    "portia_runtime",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "orchestrator_project.content_security.ContentSecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "orchestrator_project.telemetry.CorrelationMiddleware",
    "executions.audit.OriginMiddleware",
    "executions.tenancy.TenancyMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "orchestrator_project.sessions.SessionLimitsMiddleware",
    "executions.tenancy.StaffTenancyMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
WHITENOISE_USE_FINDERS = not IS_PRODUCTION  # production serves what `manage.py collectstatic` has put into STATIC_ROOT
if not IS_PRODUCTION:
    STATIC_ROOT.mkdir(parents=True, exist_ok=True)

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]

SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"  # links in mails lead to pages of the admin
SESSION_IDLE = ENV.session_idle
SESSION_MAX_AGE = SESSION_COOKIE_AGE = ENV.session_max_age
if IS_PRODUCTION:
    SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
    SESSION_COOKIE_NAME, CSRF_COOKIE_NAME = "__Host-sessionid", "__Host-csrftoken"  # of this very host, by TLS only
    SECURE_HSTS_SECONDS = 31_536_000
    SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = True
    SECURE_SSL_REDIRECT = True
    SECURE_REDIRECT_EXEMPT = [r"^health$", r"^ready$"]
    if ENV.behind_tls_proxy:
        SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

# -- mail: SMTP by EMAIL_URL (smtp://user:password@host:587?tls=1), else files under the data folder

DEFAULT_FROM_EMAIL = ENV.default_from_email
EMAIL_HOST_PASSWORD = ""
if ENV.email_url is None:
    EMAIL_BACKEND = "django.core.mail.backends.filebased.EmailBackend"
    EMAIL_FILE_PATH = DATA_DIR / "mail"
else:
    _mail = urlsplit(ENV.email_url.get_secret_value())
    EMAIL_HOST, EMAIL_PORT = _mail.hostname or "localhost", _mail.port or 25
    EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = unquote(_mail.username or ""), unquote(_mail.password or "")
    EMAIL_USE_TLS = parse_qs(_mail.query).get("tls") == ["1"]
    EMAIL_USE_SSL = _mail.scheme == "smtps"
    EMAIL_TIMEOUT = 10

# -- the API

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["executions.api.authentication.ApiKeyAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["executions.api.authentication.HasScope"],
    "DEFAULT_THROTTLE_CLASSES": ["executions.api.throttling.TenantRate"],
    "DEFAULT_PARSER_CLASSES": ["executions.api.parsers.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_SCHEMA_CLASS": "executions.api.schema.ApiSchema",
    "EXCEPTION_HANDLER": "executions.api.problems.exception_handler",
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Orchestrator API",
    "DESCRIPTION": "Runs ExecutablePlans through the Portia Runtime: checked before, decided by people, recorded throughout.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SCHEMA_PATH_PREFIX": "/v1",
    "COMPONENT_SPLIT_REQUEST": True,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "ENUM_NAME_OVERRIDES": {
        "RunStatus": "executions.models.RunStatus",
        "RunReason": "executions.models.RunReason",
        "ClarificationStatus": "approvals_bridge.models.ClarificationStatus",
        "HealthStatus": ["healthy", "degraded", "unhealthy"],
    },
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "executions.api.schema.complete_document",
    ],
}

# -- background jobs (django-q2); the reasons for each number: docs/explanation/jobs.md

Q_CLUSTER = {
    "name": "orchestrator",
    "orm": "default",
    "broker_class": "orchestrator_project.jobs.broker.WorkBroker",
    "workers": 7,
    "queue_limit": 8,
    "bulk": 2,
    "timeout": 20,
    "retry": 60,
    "ack_failures": True,
    "max_attempts": 1,
    "save_limit": -1,
    "recycle": 1000,
    "max_rss": 300_000,
    "guard_cycle": 0.5,
    "poll": 0.2,
    "catch_up": False,
    "cached": False,
    "label": "Background jobs",
}

# A kind of work: the function that drains it, the one that tells whether something is due, and how many may run at once.
# The numbers of all background kinds together stay below `workers`, so that a person's decision never queues behind polls.
JOBS = {
    "launch": {"drain": "executions.tasks.launch", "due": "executions.tasks.launch_due", "slots": 1},
    "sync": {"drain": "executions.tasks.sync", "due": "executions.tasks.sync_due", "slots": 1},
    "command": {"drain": "executions.tasks.deliver_commands", "due": "executions.tasks.commands_due", "slots": 1},
    "clarifications": {
        "drain": "approvals_bridge.tasks.import_clarifications",
        "due": "approvals_bridge.tasks.imports_due",
        "slots": 1,
    },
    "answer": {
        "drain": "approvals_bridge.tasks.deliver_answers",
        "due": "approvals_bridge.tasks.answers_due",
        "slots": 1,
    },
    "cleanup": {"drain": "executions.tasks.cleanup", "due": "executions.tasks.cleanup_due", "slots": 1},
}
JOBS_TICK = 0.5
JOBS_SLOT_TTL = 3
JOBS_KICK_BUDGET = 5

# Who could decide what a run will ask, and what was decided: by path, because executions must not import those who ask people.
APPROVAL_FORECAST = "approvals_bridge.forecast.forecast"
APPROVAL_DECISIONS = "approvals_bridge.decisions.decisions_of"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {
        "correlation": {"()": "orchestrator_project.telemetry.CorrelationFilter"},
        "redaction": {
            "()": "orchestrator_project.redaction.RedactionFilter",
            "values": [
                *ENV.secret_values(),
                SECRET_KEY,
                PORTIA_API_KEY,
                DATABASES["default"].get("PASSWORD", ""),
                EMAIL_HOST_PASSWORD,
            ],
        },
    },
    "formatters": {"line": {"format": "{asctime} {levelname} {name} [{correlation_id}] {message}", "style": "{"}},
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["correlation", "redaction"]}
    },
    "root": {"handlers": ["stderr"], "level": ENV.log_level},
    "loggers": {
        "django": {"handlers": []},  # Django's own handlers have no filter; ours is the root's
        "django.server": {"handlers": [], "propagate": True},
        "django.request": {"level": "ERROR"},
        "django.security.DisallowedHost": {"level": "CRITICAL"},  # the answer says it; no traceback for every scanner
        "urllib3": {"level": "ERROR"},
        "django-q": {"level": "WARNING"},
    },
}
