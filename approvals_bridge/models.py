"""Clarification and Vote: a question Portia asks, and what people said to it."""

from __future__ import annotations

from typing import Any

import pgtrigger
from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from executions.models import Run, Tenant, uuid7


class ClarificationStatus(models.TextChoices):
    """Where a clarification is; the words are the seed's."""

    PENDING = "pending", "Waiting for a decision"
    APPROVED = "approved", "Approved"
    REJECTED = "rejected", "Rejected"
    TIMEOUT = "timeout", "Nobody answered in time"
    CANCELLED = "cancelled", "No longer needed"


class Category(models.TextChoices):
    """What kind of answer is asked for; the words are Portia's."""

    ACTION = "Action", "Something to do"
    INPUT = "Input", "A value to enter"
    MULTIPLE_CHOICE = "Multiple Choice", "One of several options"
    VALUE_CONFIRMATION = "Value Confirmation", "A value to confirm"
    USER_VERIFICATION = "User Verification", "An approval"
    CUSTOM = "Custom", "A free-form answer"


DECIDED = (ClarificationStatus.APPROVED, ClarificationStatus.REJECTED)


class ClarificationQuerySet(models.QuerySet["Clarification"]):
    """Named filters over clarifications."""

    def pending(self) -> ClarificationQuerySet:
        """Those that still wait for somebody."""
        return self.filter(status=ClarificationStatus.PENDING)

    def undelivered(self) -> ClarificationQuerySet:
        """Decided by people here, and Portia does not know yet."""
        return self.filter(status__in=DECIDED, delivered_at__isnull=True)

    def visible_to(self, user: Any) -> ClarificationQuerySet:
        """Those of the tenants a person belongs to; a superuser sees all."""
        return self if user.is_superuser else self.filter(tenant__members=user)


class Clarification(models.Model):
    """One question of one run. `action` is exactly what will be done, `action_digest` its seal."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="clarifications")
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="clarifications")
    portia_clarification_id = models.CharField(max_length=128)
    category = models.CharField(max_length=32, help_text="One of Portia's six categories, or a newer word of its own.")
    status = models.CharField(max_length=16, choices=ClarificationStatus.choices, default=ClarificationStatus.PENDING)
    title = models.CharField(max_length=300, blank=True)
    guidance = models.TextField(blank=True)
    round = models.PositiveSmallIntegerField(default=1, help_text="Grows when Portia refused an answer and asks again.")
    portia_status = models.CharField(max_length=32, blank=True, help_text="The status as Portia last said it.")
    step_id = models.CharField(max_length=1024, blank=True)
    argument_name = models.CharField(max_length=128, blank=True)
    options = models.JSONField(default=list, blank=True)
    action_url = models.TextField(blank=True)
    proposed = models.JSONField(null=True, blank=True, help_text="The value to confirm.")
    data = models.JSONField(default=dict, blank=True, help_text="What only this category has.")
    action = models.JSONField(null=True, blank=True, help_text="tool, action, arguments, step_id, plan_hash")
    action_digest = models.CharField(max_length=64, blank=True)
    required_approvers = models.JSONField(default=list, blank=True)
    approval_rules = models.JSONField(default=list, blank=True)
    requested_at = models.DateTimeField(default=timezone.now)
    deadline = models.DateTimeField(null=True, blank=True)

    decided_at = models.DateTimeField(null=True, blank=True)
    decided_by = models.CharField(max_length=150, blank=True)
    decision_reason = models.TextField(blank=True)
    response = models.JSONField(null=True, blank=True)
    delivered_at = models.DateTimeField(null=True, blank=True)
    delivery_error = models.TextField(blank=True)

    objects = ClarificationQuerySet.as_manager()

    class Meta:
        ordering = ["-requested_at"]
        indexes = [
            models.Index(fields=["tenant", "-id"], name="clarification_by_tenant"),
            models.Index(fields=["tenant", "status", "-id"], name="clarification_by_status"),
            models.Index(fields=["deadline"], name="clarification_deadline", condition=Q(status="pending")),
        ]
        permissions = [("decide_clarification", "Can decide clarifications")]
        constraints = [
            models.UniqueConstraint(
                name="clarification_once_per_run_action_and_round",
                fields=["run", "portia_clarification_id", "action_digest", "round"],
            ),
            models.CheckConstraint(
                name="clarification_decided_by_somebody",
                condition=~Q(status__in=["approved", "rejected"]) | Q(decided_at__isnull=False) & ~Q(decided_by=""),
            ),
            models.CheckConstraint(
                name="clarification_undecided_has_no_decider",
                condition=~Q(status="pending") | Q(decided_at__isnull=True, decided_by="", delivered_at__isnull=True),
            ),
        ]
        triggers = [
            pgtrigger.FSM(
                name="clarification_is_decided_once",
                field="status",
                transitions=[("pending", word) for word in ("approved", "rejected", "timeout", "cancelled")],
            )
        ]

    def __str__(self) -> str:
        return self.title or f"{self.category} at {self.step_id}"


class Decision(models.TextChoices):
    """What a person said."""

    APPROVE = "approve", "Approve"
    REJECT = "reject", "Reject"
    ANSWER = "answer", "Answer"


class Vote(models.Model):
    """One person's word on one clarification, never changed afterwards."""

    id = models.BigAutoField(primary_key=True)
    clarification = models.ForeignKey(Clarification, on_delete=models.CASCADE, related_name="votes")
    voter = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="votes")
    decision = models.CharField(max_length=8, choices=Decision.choices)
    value = models.JSONField(null=True, blank=True)
    reason = models.TextField(blank=True)
    action_digest = models.CharField(max_length=64, blank=True, help_text="The seal the person saw.")
    source = models.CharField(max_length=16, help_text="admin, api or command")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["created_at"]
        constraints = [models.UniqueConstraint(name="vote_once_per_person", fields=["clarification", "voter"])]
        triggers = [pgtrigger.Protect(name="vote_is_immutable", operation=pgtrigger.Update)]

    def __str__(self) -> str:
        return f"{self.voter} {self.decision}s"
