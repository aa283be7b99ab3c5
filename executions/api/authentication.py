"""Who calls: an API key in `Authorization: Bearer <key>` (RFC 6750, section 2.1), bound to a tenant and to scopes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.utils import timezone
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed, PermissionDenied
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from executions.models import ApiKey, Scope, Tenant
from executions.tenancy import see_only

if TYPE_CHECKING:  # importing it at run time would be circular: DRF's own settings name this file
    from rest_framework.views import APIView

REFUSED = "This API key is unknown, expired or revoked."
LAST_USED_PRECISION = timedelta(minutes=1)


@dataclass(frozen=True)
class Principal:
    """The caller of a request. `user` is the person a personal key belongs to, None for a service."""

    tenant: Tenant
    name: str
    scopes: frozenset[str]
    user: Any
    is_authenticated: bool = True
    is_active: bool = True

    @property
    def pk(self) -> str:
        """A stable name of the caller."""
        return f"{self.tenant.identifier}/{self.name}"


class ApiKeyAuthentication(BaseAuthentication):
    """Turns a usable key into a Principal; an unknown, revoked or expired one is 401 with the same words."""

    def authenticate(self, request: Request) -> tuple[Principal, ApiKey] | None:
        """Return the caller, or None where no key was sent."""
        words = get_authorization_header(request).split()
        if not words or words[0].lower() != b"bearer":
            return None
        if len(words) != 2:
            raise AuthenticationFailed("Send one API key: Authorization: Bearer <key>.")
        key = self._find(words[1])
        self._check_tenant_header(request, key.tenant)
        self._note_use(key)
        see_only([key.tenant.pk])
        return Principal(key.tenant, key.principal, frozenset(key.scopes), key.user), key

    def authenticate_header(self, request: Request) -> str:
        """The challenge of a 401 answer."""
        return 'Bearer realm="orchestrator"'

    def _find(self, secret: bytes) -> ApiKey:
        digest = ApiKey.digest_of(secret.decode("latin-1"))
        keys = ApiKey.objects.usable(timezone.now()).select_related("tenant", "user")
        key = keys.filter(digest=digest).first()
        if key is None:
            raise AuthenticationFailed(REFUSED)
        return key

    def _check_tenant_header(self, request: Request, tenant: Tenant) -> None:
        named = request.headers.get("X-Tenant-ID")
        if named and named not in (tenant.identifier, str(tenant.pk)):
            raise PermissionDenied("X-Tenant-ID names another tenant than the API key belongs to; leave it out.")

    def _note_use(self, key: ApiKey) -> None:
        now = timezone.now()
        if key.last_used_at is None or now - key.last_used_at > LAST_USED_PRECISION:
            ApiKey.objects.filter(pk=key.pk).update(last_used_at=now)


def check_still_usable(request: Request) -> None:
    """Raise AuthenticationFailed where the key has ended since the request began: for one that has waited."""
    if not ApiKey.objects.usable(timezone.now()).filter(pk=request.auth.pk).exists():
        raise AuthenticationFailed(REFUSED)


class HasScope(BasePermission):
    """Lets a key in whose scopes have the one the view asks for; a view that asks for none is closed to everybody."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        """Compare the caller's scopes with the view's `scopes` entry for this method."""
        if not isinstance(request.user, Principal):
            return False
        needed: dict[str, Scope] = getattr(view, "scopes", {})
        method = (request.method or "").upper()
        scope = needed.get("GET" if method == "HEAD" else method)
        if scope is None:
            return (
                request.method in ("OPTIONS", "HEAD") and bool(needed)
            ) or request.method not in view.allowed_methods
        self.message = f"This key lacks the scope {scope.value!r}."
        return scope in request.user.scopes
