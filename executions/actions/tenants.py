"""Tenants, API keys and the people of the demonstration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from executions import audit
from executions.errors import Conflict, InvalidRequest
from executions.models import ApiKey, Scope, Tenant

DEMO_TENANT = "demo"
OWN_NAMES = frozenset({"orchestrator", "portia", "anonymous", "command line"})
COMMAND_LINE = "command line"  # who it was, where nobody has logged in
DEFAULT_OVERLAP = timedelta(days=1)
LONGEST_OVERLAP = timedelta(days=30)
PREFIX = 12  # characters of a key that are kept, to tell it by


@dataclass(frozen=True, kw_only=True)
class DemoAccess:
    """What a person needs to try the service: the API keys of an agent and of bob, staff users with their passwords."""

    tenant: Tenant
    api_key: str
    approver_key: str
    users: dict[str, str]


@transaction.atomic
def create_tenant(
    *,
    identifier: str,
    name: str = "",
    rate_limit: int | None = None,
    concurrency_limit: int | None = None,
    by: str = COMMAND_LINE,
) -> Tenant:
    """Add a tenant. Raises InvalidRequest for a bad or taken identifier, or a limit below 1. Limits: docs/reference/limits.md."""
    tenant = Tenant(
        identifier=identifier, name=name or identifier, rate_limit=rate_limit, concurrency_limit=concurrency_limit
    )
    _validate(tenant)
    tenant.save()
    limits = {"rate_limit": rate_limit, "concurrency_limit": concurrency_limit}
    after = {"identifier": tenant.identifier, "name": tenant.name, **limits}
    audit.record(
        action="tenant.created", subject=f"tenant/{tenant.identifier}", by=by, tenant_id=tenant.pk, after=after
    )
    return tenant


@transaction.atomic
def create_api_key(
    *,
    tenant: Tenant,
    principal: str,
    scopes: Iterable[str],
    user: Any = None,
    expires_at: datetime | None = None,
    by: str = COMMAND_LINE,
) -> tuple[ApiKey, str]:
    """Add a key and return it with its secret, which is known only now. Raises InvalidRequest for bad input.

    What the maker may give away is the entrance's to check: docs/reference/api-keys.md.
    """
    if expires_at is not None and expires_at <= timezone.now():
        raise InvalidRequest("expires_at: choose a time in the future.")
    check_principal(principal, tenant=tenant, user=user)
    scopes = sorted(set(scopes))
    return _make(by, tenant=tenant, principal=principal, scopes=scopes, user=user, expires_at=expires_at)


def check_principal(principal: str, *, tenant: Tenant, user: Any) -> None:
    """Raise InvalidRequest where a key would act under the name of somebody else: the service, a member or a superuser.

    Runs, approvals and the audit log tell people and services apart by their names only.
    """
    if principal.strip().casefold() in OWN_NAMES:
        raise InvalidRequest("principal: the service itself goes by this name; choose another one.")
    named = Q(username__iexact=principal) | Q(email__iexact=principal)
    people = get_user_model().objects.filter(named, Q(tenants=tenant) | Q(is_superuser=True))
    others = people if user is None else people.exclude(pk=user.pk)
    if others.exists():
        raise InvalidRequest(
            "principal: this is the name of a person; choose another one, or make it a key of that person."
        )


@transaction.atomic
def rotate_api_key(key: ApiKey, *, by: str, overlap: timedelta = DEFAULT_OVERLAP) -> tuple[ApiKey, str]:
    """Make the key's successor and return it with its secret: same principal, person, scopes, and as long a life.

    The old one expires after the overlap, and never later than it would have. Raises InvalidRequest for an overlap beyond 30
    days, Conflict for a key that cannot be used any more or has a successor: a repeat never makes a second one.
    """
    if not timedelta(0) <= overlap <= LONGEST_OVERLAP:
        raise InvalidRequest(f"overlap: 0 to {LONGEST_OVERLAP.days} days.")
    now, key = timezone.now(), ApiKey.objects.select_for_update(of=("self",)).get(pk=key.pk)
    _check_can_rotate(key, now)
    new, secret = _make(
        by, tenant=key.tenant, principal=key.principal, scopes=key.scopes, user=key.user, replaces=key,
        expires_at=None if key.lifetime is None else now + key.lifetime,
    )  # fmt: skip
    before = _facts(key)
    key.expires_at = min(key.expires_at or now + overlap, now + overlap)
    key.save(update_fields=["expires_at"])
    _record("rotated", key, by=by, before=before, after=_facts(key) | {"replaced_by": str(new.pk)})
    return new, secret


@transaction.atomic
def revoke_api_key(key: ApiKey, *, by: str, reason: str = "") -> None:
    """Refuse the key from now on: the next request that brings it is looked up and not found. A second call changes nothing."""
    usable = ApiKey.objects.filter(pk=key.pk, revoked_at__isnull=True)
    if usable.update(revoked_at=timezone.now(), revoked_by=by):
        _record("revoked", key, by=by, reason=reason, after=_facts(key))


def _check_can_rotate(key: ApiKey, now: datetime) -> None:
    successor = key.replaced_by.first()
    if successor is not None:
        raise Conflict(
            f"This key has been replaced by {successor.pk} already; rotate or revoke that one.",
            replaced_by=str(successor.pk),
        )
    if not ApiKey.objects.usable(now).filter(pk=key.pk).exists():
        raise Conflict("This key cannot be used any more, so that there is nothing to replace; make a new one.")


def _make(by: str, **fields: Any) -> tuple[ApiKey, str]:
    """Store a key and write down that it was made."""
    secret = ApiKey.new_secret()
    key = ApiKey(prefix=secret[:PREFIX], digest=ApiKey.digest_of(secret), created_by=by, **fields)
    if not key.scopes:
        raise InvalidRequest("scopes: name at least one scope.")
    _validate(key)
    key.save(force_insert=True)
    _record("created", key, by=by, after=_facts(key))
    return key, secret


def _record(deed: str, key: ApiKey, **facts: Any) -> None:
    audit.record(action=f"api_key.{deed}", subject=f"api_key/{key.pk}", tenant_id=key.tenant_id, **facts)


def _facts(key: ApiKey) -> dict[str, Any]:
    """What the audit log says of a key: who may do what with it, and until when; nothing from which it could be guessed."""
    return {
        "principal": key.principal,
        "user": key.user.get_username() if key.user else None,
        "scopes": [str(scope) for scope in key.scopes],
        "prefix": key.prefix,
        "expires_at": key.expires_at and audit.written(key.expires_at),
        "replaces": key.replaces_id and str(key.replaces_id),
    }


@transaction.atomic
def ensure_demo(*, password: str) -> DemoAccess:
    """Make the demonstration's tenant and people, and a week's API keys; keys of another one that runs beside stay valid.

    alice asks for things and bob decides them: nobody approves what he asked for himself.
    """
    tenant, _ = Tenant.objects.get_or_create(identifier=DEMO_TENANT, defaults={"name": "Demo company"})
    users = {name: _ensure_staff(name, tenant=tenant, password=password) for name in ("alice", "bob")}
    admin = _ensure_staff("admin", tenant=tenant, password=password)
    type(admin).objects.filter(pk=admin.pk).update(is_superuser=True)
    now = timezone.now()
    ApiKey.objects.filter(tenant=tenant, principal__in=["demo-agent", "bob"], expires_at__lte=now).delete()
    week = now + timedelta(days=7)
    agent_scopes, bob_scopes = [Scope.EXECUTE, Scope.READ, Scope.CONTROL], [Scope.READ, Scope.DECIDE]
    _, agent = create_api_key(tenant=tenant, principal="demo-agent", scopes=agent_scopes, expires_at=week)
    _, bob = create_api_key(tenant=tenant, principal="bob", scopes=bob_scopes, user=users["bob"], expires_at=week)
    return DemoAccess(tenant=tenant, api_key=agent, approver_key=bob, users=dict.fromkeys([*users, "admin"], password))


def _ensure_staff(username: str, *, tenant: Tenant, password: str) -> Any:
    user, _ = get_user_model().objects.get_or_create(username=username, defaults={"is_staff": True})
    if not user.check_password(password):
        user.set_password(password)
        user.save(update_fields=["password"])
    tenant.members.add(user)
    user.user_permissions.add(*_approver_permissions())
    return user


def _approver_permissions() -> list[Permission]:
    names = ["view_run", "change_run", "view_plan", "view_clarification", "decide_clarification", "view_event"]
    return list(Permission.objects.filter(codename__in=names))


def _validate(instance: Any) -> None:
    try:
        instance.full_clean()
    except ValidationError as invalid:
        parts = [f"{field}: {' '.join(texts)}" for field, texts in invalid.message_dict.items()]
        raise InvalidRequest(" ".join(parts).replace("__all__: ", "")) from None
