"""IdempotencyRecord: the answer to a request that must not be done twice."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from executions.models.tenant import Tenant


class KeyOrigin(models.TextChoices):
    """Where a key comes from."""

    HEADER = "header", "Idempotency-Key header"
    CONTENT = "content", "SHA-256 of the request"


class IdempotencyQuerySet(models.QuerySet["IdempotencyRecord"]):
    """Named filters over records."""

    def live(self) -> IdempotencyQuerySet:
        """Those that answer a repeat: neither expired, by the database's clock, nor released."""
        return self.filter(released_at__isnull=True, expires_at__gt=Now())


class IdempotencyRecord(models.Model):
    """One key of one principal with the answer as it was given, byte for byte. A released one stays as a trace of that."""

    id = models.BigAutoField(primary_key=True)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="idempotency_records")
    principal = models.CharField(max_length=128)
    key = models.CharField(max_length=255)
    origin = models.CharField(max_length=8, choices=KeyOrigin.choices, default=KeyOrigin.HEADER)
    route = models.CharField(max_length=512, help_text="Method and path.")
    fingerprint = models.CharField(max_length=64, help_text="SHA-256 of route, tenant, principal and canonical body.")
    response_status = models.PositiveSmallIntegerField()
    response_headers = models.JSONField(default=dict)
    response_body = models.BinaryField(default=bytes)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField(db_index=True)
    released_at = models.DateTimeField(null=True, blank=True)
    released_by = models.CharField(max_length=150, blank=True, default="")
    release_reason = models.CharField(max_length=500, blank=True, default="")

    objects = IdempotencyQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                name="idempotency_key_once",
                fields=["tenant", "principal", "key"],
                condition=Q(released_at__isnull=True),
            ),
            models.CheckConstraint(
                name="idempotency_released_by_somebody",
                condition=Q(released_at__isnull=True, released_by="", release_reason="")
                | (Q(released_at__isnull=False) & ~Q(released_by="") & ~Q(release_reason="")),
            ),
        ]

    def __str__(self) -> str:
        return self.key
