"""Event: a fact, written in the transaction of the change it reports. Sinks read these rows."""

from __future__ import annotations

import pgtrigger
from django.db import models

from executions.models.ids import uuid7
from executions.models.tenant import Tenant


class Event(models.Model):
    """One fact about one run; `sequence` counts the facts of a run from 1 without a gap."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="events")
    run = models.ForeignKey("executions.Run", on_delete=models.CASCADE, related_name="events")
    sequence = models.PositiveIntegerField()
    type = models.CharField(max_length=64)
    subject = models.CharField(max_length=1024)
    actor = models.CharField(max_length=150)
    data = models.JSONField(default=dict)
    correlation_id = models.CharField(max_length=128)
    traceparent = models.CharField(max_length=64, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["run", "sequence"]
        constraints = [models.UniqueConstraint(name="event_sequence_per_run", fields=["run", "sequence"])]
        triggers = [pgtrigger.Protect(name="event_is_immutable", operation=pgtrigger.Update)]

    def __str__(self) -> str:
        return f"{self.type} #{self.sequence}"
