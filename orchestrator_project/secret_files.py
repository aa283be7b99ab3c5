"""Secrets from files: each secret setting NAME may be given as NAME_FILE instead, as Docker, Kubernetes and systemd provide them.

A file's text is taken without the line breaks at its end. Raises ImproperlyConfigured naming the variables where both are set,
where the file cannot be read, or where, in production, anybody on the machine may read it.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

LARGEST = 65_536  # bytes
EVERYBODY = stat.S_IROTH | stat.S_IWOTH


class SecretFiles(PydanticBaseSettingsSource):
    """The values of NAME_FILE variables, for the fields that hold a SecretStr."""

    def __init__(self, settings_cls: type[BaseSettings], variables: Mapping[str, str | None]) -> None:
        super().__init__(settings_cls)
        self._variables = {name.upper(): value for name, value in variables.items() if value}

    def __call__(self) -> dict[str, Any]:
        """Read every file that is named."""
        fields = {name: field for name, field in self.settings_cls.model_fields.items() if is_secret(field)}
        given = {name: self.get_field_value(field, name)[0] for name, field in fields.items()}
        return {name: value for name, value in given.items() if value is not None}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[str | None, str, bool]:
        """The text of the field's file; None where none is named."""
        name = field_name.upper()
        named = self._variables.get(f"{name}_FILE")
        if named is None:
            return None, field_name, False
        if name in self._variables:
            raise ImproperlyConfigured(f"{name} and {name}_FILE are both set: remove one of them.")
        return self._text(f"{name}_FILE", Path(named)), field_name, False

    def _text(self, variable: str, path: Path) -> str:
        try:
            mode, text = path.stat().st_mode, path.open("rb").read(LARGEST + 1).decode()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise ImproperlyConfigured(f"{variable}: {path} cannot be read: {reason}.") from None
        if mode & EVERYBODY and self._variables.get("ANUMATE_ENV", "production") == "production":
            raise ImproperlyConfigured(f"{variable}: everybody may read {path}: chmod o-rwx it.")
        if not text.strip() or len(text) > LARGEST:
            raise ImproperlyConfigured(f"{variable}: {path} is empty or longer than {LARGEST} bytes.")
        return text.rstrip("\r\n")


def is_open(path: Path) -> bool:
    """Whether everybody on the machine may read the file, or write it."""
    return path.exists() and bool(path.stat().st_mode & EVERYBODY)


def is_secret(field: FieldInfo) -> bool:
    """Whether the setting holds a secret, by its type."""
    return "SecretStr" in str(field.annotation)
