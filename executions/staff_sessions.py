"""Staff who log in, fail to, or log out, in the service's audit log (receivers of Django's signals)."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.dispatch import receiver

from executions import audit

ANONYMOUS = "anonymous"
UNKNOWN = "(unknown)"


@receiver(user_logged_in)
def record_login(sender: Any, user: Any, **_: Any) -> None:
    """Somebody came in."""
    name = user.get_username()
    audit.record(action="session.login", subject=f"user/{name}", by=name)


@receiver(user_logged_out)
def record_logout(sender: Any, user: Any, **_: Any) -> None:
    """Somebody went; a session that had ended has nobody."""
    if user is not None:
        name = user.get_username()
        audit.record(action="session.logout", subject=f"user/{name}", by=name)


@receiver(user_login_failed)
def record_failed_login(sender: Any, credentials: dict[str, Any], **_: Any) -> None:
    """Somebody tried. A name that nobody has is not written down: people type passwords into the wrong field."""
    users = get_user_model()
    given = str(credentials.get(users.USERNAME_FIELD) or "")
    known = "\0" not in given and users.objects.filter(**{users.USERNAME_FIELD: given}).exists()
    audit.record(action="session.login_failed", subject=f"user/{given if known else UNKNOWN}", by=ANONYMOUS)
