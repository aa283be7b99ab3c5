"""How long a person stays signed in: SESSION_IDLE seconds without doing anything, SESSION_MAX_AGE in all.

What a page asks for by itself to stay up to date (`…/live/`) does not count as doing something. Django gives a session a new
key when somebody signs in, and ends all others of a person whose password changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.contrib.auth import logout
from django.contrib.auth.signals import user_logged_in
from django.contrib.sessions.backends.base import SessionBase
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse

BEGAN, SEEN = "began_at", "seen_at"  # in the session, seconds since 1970
PRECISION = 60  # seconds: not every request writes


@receiver(user_logged_in)
def _begin(request: HttpRequest, **_: Any) -> None:
    request.session[BEGAN] = request.session[SEEN] = int(time.time())


class SessionLimitsMiddleware:
    """Signs people out whose session is too old or was idle for too long."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer the request, as of nobody where the session has ended."""
        if settings.SESSION_COOKIE_NAME in request.COOKIES and request.user.is_authenticated:
            now = int(time.time())
            if is_over(request.session, now):
                logout(request)
            elif now - request.session[SEEN] > PRECISION and not request.path.endswith("/live/"):
                request.session[SEEN] = now
        return self.get_response(request)


def is_over(session: SessionBase, now: int) -> bool:
    """Whether the session has ended by its age or by idleness; one that does not say when it began has."""
    began, seen = session.get(BEGAN), session.get(SEEN)
    if began is None or seen is None:
        return True
    return now - began > settings.SESSION_MAX_AGE or now - seen > settings.SESSION_IDLE
