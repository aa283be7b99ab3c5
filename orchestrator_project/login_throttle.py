"""Guessing passwords is slow: failed logins are counted per user name and per address, in the database, for all processes.

1. An attempt is counted before the password is looked at, so that many at once gain nothing; a success takes it back.
2. From the fifth failure of a name, or the twentieth of an address (IPv6: a /64 network), further attempts are refused for 30
   seconds, then 1, 2 .. 15 minutes. After an hour without an attempt all is forgotten.
3. A name that is nobody's is treated as one that is somebody's: the answers do not tell them apart (OWASP ASVS 5, 6.3.8).
4. Refused attempts count for nothing and write nothing, so that a flood costs little and keeps nobody out for longer.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv6Address, ip_address, ip_network

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.crypto import salted_hmac
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters

from executions import audit
from executions.tenancy import every_tenant
from orchestrator_project.models import LoginAttempts

Kind = LoginAttempts.Kind

TRIES = {Kind.ADDRESS: 20, Kind.NAME: 5}
FIRST_REST, LONGEST_REST = timedelta(seconds=30), timedelta(minutes=15)
FORGOTTEN_AFTER = timedelta(hours=1)
FORGET_AT_ONCE = 100  # rows


class TooManyAttempts(Exception):
    """Logging in is refused for so many `seconds`."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"Too many attempts to sign in: wait {seconds} seconds.")
        self.seconds = seconds


@dataclass(frozen=True)
class Subject:
    """What attempts are counted by."""

    kind: Kind
    key: str

    @property
    def digest(self) -> str:
        """What stands for it in the database."""
        return salted_hmac("orchestrator.login", f"{self.kind}:{self.key}", algorithm="sha256").hexdigest()


# -- the page


@every_tenant()  # whoever is signed in already is somebody else from here on
@sensitive_post_parameters("password")
@never_cache
def login(request: HttpRequest) -> HttpResponse:
    """The admin's login page, or 429 with the time to wait while too many attempts have failed."""
    if request.method != "POST":
        return admin.site.login(request)
    subjects = subjects_of(request.POST.get("username", ""), audit.address_of(request))
    try:
        begin(subjects)
    except TooManyAttempts as refused:
        return _refusal(request, refused.seconds)
    response = admin.site.login(request)
    settle(subjects, succeeded=response.status_code == 302)
    return response


def _refusal(request: HttpRequest, seconds: int) -> HttpResponse:
    context = {"seconds": seconds, "minutes": math.ceil(seconds / 60)}
    response = render(request, "admin/login_refused.html", context, status=429)
    response.headers["Retry-After"] = str(seconds)
    return response


# -- counting


def subjects_of(name: str, address: str) -> list[Subject]:
    """What an attempt counts for; always in this order, so that two attempts never wait for each other's rows."""
    name = unicodedata.normalize("NFKC", name.strip()).casefold()[:150]
    by_address = [Subject(Kind.ADDRESS, _network(address))] if address else []
    return [*by_address, Subject(Kind.NAME, name)]


def _network(address: str) -> str:
    ip = ip_address(address)
    return str(ip_network((ip, 64), strict=False)) if isinstance(ip, IPv6Address) else str(ip)


def begin(subjects: Iterable[Subject]) -> None:
    """Count an attempt before its password is checked; raises TooManyAttempts, and then counts nothing."""
    now = timezone.now()
    with transaction.atomic():
        for row in [_row(subject, now) for subject in subjects]:
            if row.free_at > now:
                raise TooManyAttempts(math.ceil((row.free_at - now).total_seconds()))
            row.failures = 1 if now - row.last_at > FORGOTTEN_AFTER else row.failures + 1
            row.last_at, row.free_at = now, now + _rest(row)
            row.save(update_fields=["failures", "last_at", "free_at"])


def _row(subject: Subject, now: datetime) -> LoginAttempts:
    """The row of this subject, locked."""
    known = {"kind": subject.kind, "digest": subject.digest}
    new = {"last_at": now, "free_at": now, "label": _label(subject)}
    LoginAttempts.objects.bulk_create([LoginAttempts(**known, **new)], ignore_conflicts=True)
    return LoginAttempts.objects.select_for_update().get(**known)


def _label(subject: Subject) -> str:
    if subject.kind == Kind.ADDRESS:
        return subject.key
    if "\x00" in subject.key:  # PostgreSQL compares with no such text; it is nobody's name
        return ""
    names = get_user_model().objects.filter(username__iexact=subject.key)
    return names.values_list("username", flat=True).first() or ""


def _rest(row: LoginAttempts) -> timedelta:
    beyond = row.failures - TRIES[Kind(row.kind)]
    if beyond < 0:
        return timedelta()
    return min(FIRST_REST * 2 ** min(beyond, 10), LONGEST_REST)


def settle(subjects: Iterable[Subject], *, succeeded: bool) -> None:
    """Take a success back out of the count; write a refusal that begins now into the audit log."""
    for subject in subjects:
        rows = LoginAttempts.objects.filter(kind=subject.kind, digest=subject.digest)
        with transaction.atomic():
            for row in rows.select_for_update():
                _forgive(row) if succeeded else _note(row)
    forget_old()


def _forgive(row: LoginAttempts) -> None:
    """A name starts anew; an address only gets its one attempt back, or one good account would pay for many guesses."""
    row.failures = 0 if row.kind == Kind.NAME else max(row.failures - 1, 0)
    row.free_at = row.last_at
    row.save(update_fields=["failures", "free_at"])


def _note(row: LoginAttempts) -> None:
    if row.free_at > row.last_at:
        after = {"failures": row.failures, "refused_until": audit.written(row.free_at)}
        audit.record(action="login.throttled", subject=subject_of(row), by="anonymous", after=after)


def subject_of(row: LoginAttempts) -> str:
    """What the audit log calls it."""
    return f"address/{row.label}" if row.kind == Kind.ADDRESS else f"user/{row.label or '(unknown)'}"


def forget_old() -> None:
    """Delete some of the rows whose time is over: more than are made, so that the table stays small."""
    old = LoginAttempts.objects.filter(last_at__lt=timezone.now() - FORGOTTEN_AFTER)
    with transaction.atomic():
        ids = [row.pk for row in old.select_for_update(skip_locked=True)[:FORGET_AT_ONCE]]
        LoginAttempts.objects.filter(pk__in=ids).delete()


def unlock(rows: Iterable[LoginAttempts], *, by: str) -> int:
    """Let these log in again at once; give how many they were."""
    with transaction.atomic():
        forgotten = list(rows)
        for row in forgotten:
            row_was = {"failures": row.failures, "refused_until": audit.written(row.free_at)}
            audit.record(action="login.unlocked", subject=subject_of(row), by=by, before=row_was)
            row.delete()
    return len(forgotten)
