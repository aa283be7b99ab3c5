"""Tenant: whose plans, runs and keys these are. Nothing of one tenant exists for another."""

from __future__ import annotations

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import Q

from executions.models.ids import uuid7

HIGHEST_RATE = 1_000_000  # a request's share of a minute is counted in whole microseconds


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
    rate_limit = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(HIGHEST_RATE)],
        help_text="API requests per minute. Empty: unlimited.",
    )
    concurrency_limit = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Runs that have not ended, at once. Empty: unlimited.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["identifier"]
        constraints = [
            models.CheckConstraint(name="tenant_rate_limit_in_range", condition=Q(rate_limit__range=(1, HIGHEST_RATE))),
            models.CheckConstraint(name="tenant_concurrency_limit_at_least_one", condition=Q(concurrency_limit__gte=1)),
            models.CheckConstraint(name="tenant_lists_tools_or_has_no_list", condition=~Q(allowed_tools=[])),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Take no tools, as an empty form field gives them, for no restriction."""
        self.allowed_tools = self.allowed_tools or None
