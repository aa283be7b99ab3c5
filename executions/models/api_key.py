"""ApiKey: who calls. The key itself is shown once and never stored; a SHA-256 of 256 random bits is."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime, timedelta

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Exists, OuterRef, Q

from executions.models.ids import uuid7
from executions.models.tenant import Tenant


class Scope(models.TextChoices):
    """What a key may be used for."""

    EXECUTE = "execute", "Submit plans"
    READ = "read", "Read plans, runs and approvals"
    CONTROL = "control", "Pause, resume and cancel"
    DECIDE = "decide", "Decide approvals as a person"
    ADMIN = "admin", "Make and revoke API keys and capability tokens, read the audit log"


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    """Named filters over keys."""

    def usable(self, now: datetime) -> ApiKeyQuerySet:
        """Neither revoked nor expired, of an active tenant; a person's key also needs the person still to belong there."""
        alive = Q(expires_at__isnull=True) | Q(expires_at__gt=now)
        belongs = Exists(Tenant.members.through.objects.filter(tenant=OuterRef("tenant"), user=OuterRef("user")))
        person = Q(user__isnull=True) | Q(user__is_active=True) & (Q(user__is_superuser=True) | belongs)
        return self.filter(alive, person, revoked_at__isnull=True, tenant__is_active=True)


class ApiKey(models.Model):
    """A key of one principal of one tenant. Bound to a user it may decide approvals in that person's name."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="api_keys")
    principal = models.CharField(max_length=128, help_text="Who calls, as written on runs and events.")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="api_keys",
        help_text="The person whose key this is; needed to decide approvals. Empty: a service.",
    )
    prefix = models.CharField(max_length=16, editable=False)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    scopes = ArrayField(models.CharField(max_length=16, choices=Scope.choices))
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    created_by = models.CharField(max_length=150, blank=True, default="", editable=False)
    replaces = models.ForeignKey(
        "self",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        editable=False,
        related_name="replaced_by",
        help_text="The key this one was made from, which expires when both have been valid for a while.",
    )
    revoked_at = models.DateTimeField(null=True, blank=True)
    revoked_by = models.CharField(max_length=150, blank=True, default="", editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        verbose_name = "API key"
        ordering = ["-created_at"]
        constraints = [
            models.CheckConstraint(
                name="api_key_decides_only_for_a_person",
                condition=~Q(scopes__contains=["decide"]) | Q(user__isnull=False),
                violation_error_message="A key that decides approvals must belong to a person: set user.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.principal} ({self.prefix}…)"

    @property
    def lifetime(self) -> timedelta | None:
        """How long the key was made to live, in whole seconds; None for one that never expires."""
        if self.expires_at is None:
            return None
        return timedelta(seconds=round((self.expires_at - self.created_at).total_seconds()))

    @staticmethod
    def new_secret() -> str:
        """A fresh key: `orc_` and 256 random bits, base64url."""
        return f"orc_{secrets.token_urlsafe(32)}"

    @staticmethod
    def digest_of(secret: str) -> str:
        """What is stored of a key: the hex SHA-256. No salt is needed for 256 random bits."""
        return hashlib.sha256(secret.encode()).hexdigest()
