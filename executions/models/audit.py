"""The audit log: who did what, when, why and from where; append-only, chained per tenant, sealed by signed checkpoints.

No foreign keys: the log outlives what it tells of. `tenant_id` is the nil UUID for what concerns the service as a whole.
"""

from __future__ import annotations

from uuid import UUID

import pgtrigger
from django.db import models
from django.db.models import Q

from executions.canonical_json import DIGEST_PATTERN
from executions.models.ids import uuid7
from orchestrator_project.origin import Source

SERVICE = UUID(int=0)  # the tenant of entries that belong to none


class AppendOnly(models.Model):
    """Rows that the database lets nobody change or delete, one by one or all at once."""

    class Meta:
        abstract = True
        triggers = [
            pgtrigger.Protect(name="append_only", operation=pgtrigger.Update | pgtrigger.Delete),
            pgtrigger.Trigger(
                name="never_emptied",
                level=pgtrigger.Statement,
                when=pgtrigger.Before,
                operation=pgtrigger.Truncate,
                func="RAISE EXCEPTION '% is append-only: it is never emptied', TG_TABLE_NAME;",
            ),
        ]


class AuditEntry(AppendOnly):
    """One thing that somebody did, in the transaction in which it was done."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant_id = models.UUIDField(default=SERVICE)
    at = models.DateTimeField()
    actor = models.CharField(max_length=150, help_text="The principal, the person, or the part of the service.")
    source = models.CharField(max_length=16, choices=Source.choices)
    action = models.CharField(max_length=64, help_text="What was done, e.g. execution.cancel_requested.")
    subject = models.CharField(max_length=200, help_text="To what, e.g. execution/<run_id>.")
    reason = models.TextField(blank=True)
    correlation_id = models.CharField(max_length=128, blank=True)
    address = models.CharField(max_length=45, blank=True, help_text="The caller's IP address.")
    before = models.JSONField(null=True, blank=True)
    after = models.JSONField(null=True, blank=True)
    digest = models.CharField(max_length=64, help_text="SHA-256 of the entry in canonical JSON (RFC 8785).")

    class Meta(AppendOnly.Meta):
        verbose_name_plural = "audit entries"
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["tenant_id", "-id"], name="audit_by_tenant"),
            models.Index(fields=["tenant_id", "subject", "-id"], name="audit_by_subject"),
            models.Index(fields=["tenant_id", "actor", "-id"], name="audit_by_actor"),
            models.Index(fields=["tenant_id", "action", "-id"], name="audit_by_action"),
        ]
        constraints = [
            models.CheckConstraint(name="audit_digest_is_sha256", condition=Q(digest__regex=rf"^{DIGEST_PATTERN}$")),
        ]

    def __str__(self) -> str:
        return f"{self.actor}: {self.action} {self.subject}"


class AuditLink(AppendOnly):
    """The place of an entry in its tenant's chain; a trigger (migration 0010) makes it when the entry is committed."""

    id = models.BigAutoField(primary_key=True)
    tenant_id = models.UUIDField()
    sequence = models.BigIntegerField()
    entry_id = models.UUIDField(unique=True)
    previous = models.CharField(max_length=64, help_text="The hash of the link before; 64 zeros for the first.")
    hash = models.CharField(
        max_length=64, help_text="SHA-256 of tenant, sequence, previous hash and the entry's digest."
    )

    class Meta(AppendOnly.Meta):
        constraints = [
            models.UniqueConstraint(name="audit_sequence_once", fields=["tenant_id", "sequence"]),
            models.CheckConstraint(name="audit_sequence_from_one", condition=Q(sequence__gte=1)),
        ]

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.sequence}"


class AuditCheckpoint(AppendOnly):
    """A signature over a tenant's chain up to a link: what lies before can be changed no more without its being seen."""

    id = models.BigAutoField(primary_key=True)
    tenant_id = models.UUIDField()
    sequence = models.BigIntegerField()
    hash = models.CharField(max_length=64)
    key_id = models.CharField(max_length=64)
    envelope = models.JSONField(help_text="DSSE: the statement and its Ed25519 signature.")
    signed_at = models.DateTimeField()

    class Meta(AppendOnly.Meta):
        constraints = [models.UniqueConstraint(name="audit_checkpoint_once", fields=["tenant_id", "sequence"])]

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.sequence}"
