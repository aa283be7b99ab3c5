"""IdempotencyRecord: the answer to a request that must not be done twice."""

from __future__ import annotations

from django.db import models

from executions.models.tenant import Tenant


class IdempotencyRecord(models.Model):
    """One key of one principal on one route, with the answer as it was given, byte for byte."""

    id = models.BigAutoField(primary_key=True)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="idempotency_records")
    principal = models.CharField(max_length=128)
    route = models.CharField(max_length=200, help_text="Method and path.")
    key = models.CharField(max_length=255)
    fingerprint = models.CharField(max_length=64, help_text="SHA-256 of route and canonical body.")
    response_status = models.PositiveSmallIntegerField(null=True)
    response_headers = models.JSONField(default=dict)
    response_body = models.BinaryField(default=bytes)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(name="idempotency_key_once", fields=["tenant", "principal", "route", "key"])
        ]

    def __str__(self) -> str:
        return self.key
