"""`email_connector`: one mail through Django's mail settings."""

from __future__ import annotations

import hashlib
import smtplib

from django.core.mail import EmailMessage

from portia_runtime.documents import JSON
from portia_runtime.tools.base import HardError, SoftError, Tool, ToolCall

ADDRESS = {"type": "string", "pattern": r"^[^@\s]+@[^@\s]+$", "maxLength": 320}
ADDRESSES = {"anyOf": [ADDRESS, {"type": "array", "items": ADDRESS, "minItems": 1, "maxItems": 100}]}


def _send(call: ToolCall) -> JSON:
    """The Message-ID is the same for every attempt, so that a mail sent twice can be recognised as one."""
    arguments = call.arguments
    message_id = f"<{hashlib.sha256(call.idempotency_key.encode()).hexdigest()[:32]}@portia-runtime>"
    message = EmailMessage(
        subject=arguments["subject"],
        body=arguments["body"],
        to=_listed(arguments["to"]),
        cc=_listed(arguments.get("cc")),
        headers={"Message-ID": message_id},
    )
    try:
        sent = message.send()
    except (smtplib.SMTPRecipientsRefused, smtplib.SMTPSenderRefused, smtplib.SMTPAuthenticationError) as error:
        raise HardError(f"the mail server refuses the mail: {error}") from None
    except (smtplib.SMTPException, OSError) as error:
        raise SoftError(f"the mail server cannot be used: {error}") from None
    return {"success": sent == 1, "message_id": message_id, "recipients": message.recipients()}


def _listed(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])


email_connector = Tool(
    id="email_connector",
    name="Send a mail",
    description="Sends a plain text mail. Its Message-ID is the same for every attempt.",
    args_schema={
        "type": "object",
        "properties": {
            "to": ADDRESSES,
            "cc": ADDRESSES,
            "subject": {"type": "string", "maxLength": 500, "pattern": r"^[^\r\n]*$"},
            "body": {"type": "string", "maxLength": 1_000_000},
        },
        "required": ["to", "subject", "body"],
    },
    run=_send,
    timeout=30,
)
