"""Tenant: whose plans, runs and keys these are. Nothing of one tenant exists for another."""

from __future__ import annotations

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.core.validators import RegexValidator
from django.db import models

from executions.models.ids import uuid7


class Tenant(models.Model):
    """An organisation or team. `identifier` is what stands in X-Tenant-ID and in capability tokens."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    identifier = models.CharField(
        max_length=63,
        unique=True,
        validators=[RegexValidator(r"^[a-z0-9][a-z0-9-]*$", "Lower-case letters, digits and hyphens only.")],
    )
    name = models.CharField(max_length=200)
    is_active = models.BooleanField(default=True, help_text="The keys of an inactive tenant are refused.")
    allowed_tools = ArrayField(
        models.CharField(max_length=128),
        null=True,
        blank=True,
        help_text="Tools its plans may use, separated by commas. Empty: no restriction by the tenant.",
    )
    members = models.ManyToManyField(
        settings.AUTH_USER_MODEL, related_name="tenants", blank=True, help_text="Staff who see and decide its requests."
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["identifier"]

    def __str__(self) -> str:
        return self.name
