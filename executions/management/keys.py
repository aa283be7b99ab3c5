"""Which API key a command is about, and who runs it."""

from __future__ import annotations

from argparse import ArgumentTypeError
from uuid import UUID

from django.core.management.base import CommandError, CommandParser

from executions.actions.tenants import COMMAND_LINE
from executions.models import ApiKey

NAMED = "id of the key, or how it begins (orc_ and eight characters), as the admin shows it"
LONGEST_NAME = 150


def find_key(text: str) -> ApiKey:
    """The key with this id or beginning. Raises CommandError where there is none, or more than one."""
    found = list(ApiKey.objects.filter(**_condition(text)).select_related("tenant", "user")[:2])
    if len(found) == 1:
        return found[0]
    wrong = "several keys begin like this" if found else "there is no such key"
    raise CommandError(f"key: {wrong}; give the id of one. The admin lists them under API keys.")


def add_by(parser: CommandParser) -> None:
    """Let whoever runs the command say who they are."""
    words = "who does it, for the audit log (default: %(default)s)"
    parser.add_argument("--by", type=_name, default=COMMAND_LINE, help=words)


def _name(text: str) -> str:
    if not 1 <= len(text) <= LONGEST_NAME:
        raise ArgumentTypeError(f"1 to {LONGEST_NAME} characters.")
    return text


def _condition(text: str) -> dict[str, object]:
    try:
        return {"pk": UUID(text)}
    except ValueError:
        return {"prefix": text.removesuffix("…")}
