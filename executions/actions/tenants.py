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
from django.utils import timezone

from executions.errors import InvalidRequest
from executions.models import ApiKey, Scope, Tenant

DEMO_TENANT = "demo"


@dataclass(frozen=True, kw_only=True)
class DemoAccess:
    """What a person needs to try the service: the API keys of an agent and of bob, staff users with their passwords."""

    tenant: Tenant
    api_key: str
    approver_key: str
    users: dict[str, str]


def create_tenant(
    *, identifier: str, name: str = "", rate_limit: int | None = None, concurrency_limit: int | None = None
) -> Tenant:
    """Add a tenant. Raises InvalidRequest for a bad or taken identifier, or a limit below 1. Limits: docs/reference/limits.md."""
    tenant = Tenant(
        identifier=identifier, name=name or identifier, rate_limit=rate_limit, concurrency_limit=concurrency_limit
    )
    _validate(tenant)
    tenant.save()
    return tenant


def create_api_key(
    *, tenant: Tenant, principal: str, scopes: Iterable[str], user: Any = None, expires_at: datetime | None = None
) -> tuple[ApiKey, str]:
    """Add a key and return it with its secret, which is known only now. Raises InvalidRequest for bad input."""
    secret = ApiKey.new_secret()
    key = ApiKey(
        tenant=tenant,
        principal=principal,
        user=user,
        prefix=secret[:12],
        digest=ApiKey.digest_of(secret),
        scopes=sorted(set(scopes)),
        expires_at=expires_at,
    )
    if not key.scopes:
        raise InvalidRequest("scopes: name at least one scope.")
    if expires_at is not None and expires_at <= timezone.now():
        raise InvalidRequest("expires_at: choose a time in the future.")
    _validate(key)
    key.save()
    return key, secret


def revoke_api_key(key: ApiKey) -> None:
    """Refuse the key from now on; a second call changes nothing."""
    ApiKey.objects.filter(pk=key.pk, revoked_at__isnull=True).update(revoked_at=timezone.now())


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
