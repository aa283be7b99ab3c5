"""System checks: what would be found out only when it is needed."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from executions.actions.audit import public_keys
from executions.signing import UnusableKey


@register
def check_audit_keys(**_: Any) -> list[CheckMessage]:
    """An error where production could not sign checkpoints and receipts; development makes its key at first use."""
    if not settings.IS_PRODUCTION:
        return []
    try:
        public_keys()
    except UnusableKey as error:
        hint = "AUDIT_SIGNING_KEY_FILE: a private key; AUDIT_OLD_KEYS_FILE: public ones. docs/reference/audit.md"
        return [Error(f"The audit log cannot be signed: {error}", hint=hint, id="audit.E001")]
    return []
