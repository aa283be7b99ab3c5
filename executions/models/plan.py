"""Plan: an ExecutablePlan as it was submitted, kept by its hash and never changed."""

from __future__ import annotations

import pgtrigger
from django.conf import settings
from django.db import models
from django.db.models import Q

from executions.canonical_json import DIGEST_PATTERN
from executions.models.ids import uuid7
from executions.models.tenant import Tenant


class Plan(models.Model):
    """The document of one tenant under one hash. The database refuses any change of a row."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="plans")
    plan_hash = models.CharField(max_length=64)
    name = models.CharField(max_length=256)
    version = models.CharField(max_length=64, blank=True)
    description = models.TextField(blank=True)
    document = models.JSONField(help_text="The ExecutablePlan, word for word.")
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.CharField(max_length=128, help_text="The principal who submitted it first.")
    created_by_user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )

    class Meta:
        ordering = ["-created_at"]
        indexes = [
            models.Index(fields=["tenant", "-id"], name="plan_by_tenant"),
            models.Index(fields=["tenant", "name", "-id"], name="plan_by_name"),
        ]
        constraints = [
            models.UniqueConstraint(name="plan_once_per_tenant_and_hash", fields=["tenant", "plan_hash"]),
            models.CheckConstraint(name="plan_hash_is_sha256", condition=Q(plan_hash__regex=rf"^{DIGEST_PATTERN}$")),
        ]
        triggers = [pgtrigger.Protect(name="plan_is_immutable", operation=pgtrigger.Update)]

    def __str__(self) -> str:
        return f"{self.name} ({self.plan_hash[:12]})"
