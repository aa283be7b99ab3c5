"""RateState: how much of its request rate a tenant has used up, as one moment per tenant."""

from __future__ import annotations

from django.db import models

from executions.models.tenant import Tenant


class RateState(models.Model):
    """When the tenant's allowance will be whole again; every admitted request puts that moment off by its share.

    The table is UNLOGGED: a request costs no wait for the disk, and a crash of the database hands out fresh allowances.
    """

    tenant = models.OneToOneField(Tenant, on_delete=models.CASCADE, primary_key=True, related_name="rate_state")
    full_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.full_at:%H:%M:%S}"
