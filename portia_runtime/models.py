"""The rows of the runtime: plans, runs, steps, clarifications, idempotency keys and the records of the record tools.

Every row belongs to a tenant (directly or through its run). A step has a row only once something happened to it: a step
without a row is pending.
"""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.utils import timezone

from portia_runtime.documents import JSON, new_id


def new_run_id() -> str:
    """A fresh run id, sortable by time."""
    return new_id("prun")


def new_clarification_id() -> str:
    """A fresh clarification id, sortable by time."""
    return new_id("clar")


def new_portia_plan_id() -> str:
    """A fresh id for the stored plan, besides the one its sender gave."""
    return new_id("plan")


class RunStatus(models.TextChoices):
    """The six words of the contract; finer detail is in `paused_reason` and `error_details`."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED)


class PausedReason(models.TextChoices):
    """Why a run is paused."""

    CLARIFICATION = "clarification"
    READY_TO_RESUME = "ready_to_resume"
    REQUESTED = "requested"


class StepStatus(models.TextChoices):
    """`waiting` waits for a person or for a time; `failed_ignored` failed and is tolerated."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    FAILED_IGNORED = "failed_ignored"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


OPEN_STEP = (StepStatus.PENDING, StepStatus.RUNNING, StepStatus.WAITING)
FAILED_STEP = (StepStatus.FAILED, StepStatus.TIMED_OUT)


class ClarificationStatus(models.TextChoices):
    """The closed list of the contract; `resolution` tells more."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    TIMEOUT = "timeout"


class Resolution(models.TextChoices):
    """How a clarification ended; the last two show the status `rejected`."""

    APPROVED = "approved"
    REJECTED = "rejected"
    TIMEOUT = "timeout"
    RUN_CANCELLED = "run_cancelled"
    RUN_FAILED = "run_failed"


class Plan(models.Model):
    """A plan as it was sent. Never changed: the same plan_id with other content is a conflict."""

    tenant = models.CharField(max_length=128, blank=True, default="")
    plan_id = models.CharField(max_length=128)
    portia_plan_id = models.CharField(max_length=64, unique=True, default=new_portia_plan_id)
    fingerprint = models.CharField(max_length=64)
    document = models.JSONField()
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        db_table = "portia_plan"
        constraints = [models.UniqueConstraint(fields=["tenant", "plan_id"], name="portia_plan_one_per_tenant_and_id")]

    def __str__(self) -> str:
        return self.plan_id


class Run(models.Model):
    """One execution of a plan.

    `due_at` is when a worker has to look at it next (none: an event wakes it). A worker holds it by `lease_token` until
    `lease_until`; whoever writes as a worker names the token. `kicks` counts what happened from outside, so that a worker
    letting go of the run does not miss a thing.
    """

    run_id = models.CharField(max_length=128, primary_key=True, default=new_run_id)
    tenant = models.CharField(max_length=128, blank=True, default="")
    plan = models.ForeignKey(Plan, on_delete=models.PROTECT, related_name="runs")
    status = models.CharField(max_length=16, choices=RunStatus.choices, default=RunStatus.PENDING)
    paused_reason = models.CharField(max_length=16, choices=PausedReason.choices, null=True, blank=True)  # noqa: DJ001
    parameters = models.JSONField(default=dict, blank=True)
    variables = models.JSONField(default=dict, blank=True)
    metadata = models.JSONField(default=dict, blank=True)
    triggered_by = models.TextField(blank=True, default="")
    end_user_id = models.TextField(blank=True, default="")
    correlation_id = models.TextField(blank=True, default="")
    auto_resume = models.BooleanField(default=True)
    created_at = models.DateTimeField(default=timezone.now)
    updated_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True, blank=True)
    completed_at = models.DateTimeField(null=True, blank=True)
    final_output = models.JSONField(null=True, blank=True)
    error_message = models.TextField(null=True, blank=True)  # noqa: DJ001
    error_details = models.JSONField(default=dict, blank=True)
    rollback = models.JSONField(null=True, blank=True)
    active_seconds = models.FloatField(default=0.0)
    active_since = models.DateTimeField(null=True, blank=True)
    pause_requested = models.BooleanField(default=False)
    cancel_requested = models.BooleanField(default=False)
    version = models.BigIntegerField(default=1)
    kicks = models.BigIntegerField(default=0)
    due_at = models.DateTimeField(null=True, blank=True, default=timezone.now)
    lease_token = models.UUIDField(null=True, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "portia_run"
        indexes = [
            models.Index(fields=["due_at"], condition=Q(due_at__isnull=False), name="portia_run_due"),
            models.Index(fields=["tenant", "updated_at", "run_id"], name="portia_run_by_change"),
            models.Index(fields=["updated_at"], condition=Q(status="running"), name="portia_run_running"),
        ]
        constraints = [
            models.CheckConstraint(condition=Q(status__in=RunStatus.values), name="portia_run_status_known"),
            models.CheckConstraint(
                condition=Q(status="paused") ^ Q(paused_reason__isnull=True), name="portia_run_paused_has_reason"
            ),
            models.CheckConstraint(
                condition=Q(status__in=ENDED) ^ Q(completed_at__isnull=True), name="portia_run_ended_has_time"
            ),
            models.CheckConstraint(
                condition=~Q(status__in=ENDED) | Q(due_at__isnull=True, lease_token__isnull=True),
                name="portia_run_ended_is_left_alone",
            ),
            models.CheckConstraint(
                condition=Q(lease_token__isnull=True) ^ Q(lease_until__isnull=False), name="portia_run_lease_is_whole"
            ),
        ]

    def __str__(self) -> str:
        return self.run_id

    @property
    def has_ended(self) -> bool:
        """Whether nothing about this run changes any more."""
        return self.status in ENDED

    @property
    def is_rolling_back(self) -> bool:
        """Whether the run failed and its rollback steps are under way."""
        return bool(self.rollback) and not self.has_ended


class Step(models.Model):
    """What happened to one step of a run; `path` is its id in the contract, nested ones as `loop[2].child`."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="steps")
    path = models.CharField(max_length=1024)
    position = models.IntegerField()
    name = models.TextField(blank=True, default="")
    type = models.CharField(max_length=16)
    status = models.CharField(max_length=16, choices=StepStatus.choices, default=StepStatus.PENDING)
    attempts = models.IntegerField(default=0)
    started_at = models.DateTimeField(null=True, blank=True)
    completed_at = models.DateTimeField(null=True, blank=True)
    next_attempt_at = models.DateTimeField(null=True, blank=True)
    output = models.JSONField(null=True, blank=True)
    error = models.JSONField(null=True, blank=True)
    reason = models.TextField(null=True, blank=True)  # noqa: DJ001
    state = models.JSONField(default=dict, blank=True)

    class Meta:
        db_table = "portia_step"
        constraints = [
            models.UniqueConstraint(fields=["run", "path"], name="portia_step_one_per_run_and_path"),
            models.CheckConstraint(condition=Q(status__in=StepStatus.values), name="portia_step_status_known"),
            models.CheckConstraint(
                condition=Q(status__in=OPEN_STEP) ^ Q(completed_at__isnull=False), name="portia_step_ended_has_time"
            ),
        ]

    def __str__(self) -> str:
        return self.path

    @property
    def is_open(self) -> bool:
        """Whether the step still has something to do."""
        return self.status in OPEN_STEP

    @property
    def failure(self) -> JSON:
        """The error as code, message and step_id; empty where there is none."""
        return self.error or {}

    @property
    def has_failed(self) -> bool:
        """Whether the step failed and nobody said that it may."""
        return self.status in FAILED_STEP


class Clarification(models.Model):
    """A question to a person. `details` holds what only its category has; `action` is what an approval is sealed to."""

    clarification_id = models.CharField(max_length=128, primary_key=True, default=new_clarification_id)
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="clarifications")
    tenant = models.CharField(max_length=128, blank=True, default="")
    step_id = models.CharField(max_length=1024)
    step_index = models.IntegerField(default=0)
    category = models.CharField(max_length=32)
    title = models.TextField(blank=True, default="")
    guidance = models.TextField(blank=True, default="")
    required_approvers = models.JSONField(default=list, blank=True)
    approval_rules = models.JSONField(default=list, blank=True)
    details = models.JSONField(default=dict, blank=True)
    action = models.JSONField(null=True, blank=True)
    action_digest = models.CharField(max_length=64, blank=True, default="")
    status = models.CharField(max_length=16, choices=ClarificationStatus.choices, default=ClarificationStatus.PENDING)
    resolution = models.CharField(max_length=16, choices=Resolution.choices, null=True, blank=True)  # noqa: DJ001
    response = models.JSONField(null=True, blank=True)
    approver_id = models.TextField(null=True, blank=True)  # noqa: DJ001
    response_reason = models.TextField(null=True, blank=True)  # noqa: DJ001
    response_metadata = models.JSONField(default=dict, blank=True)
    requested_at = models.DateTimeField(default=timezone.now)
    responded_at = models.DateTimeField(null=True, blank=True)
    timeout_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "portia_clarification"
        indexes = [models.Index(fields=["tenant", "status", "requested_at"], name="portia_clarification_open")]
        constraints = [
            models.CheckConstraint(
                condition=Q(status__in=ClarificationStatus.values), name="portia_clarification_status_known"
            ),
            models.CheckConstraint(
                condition=Q(status="pending") ^ Q(resolution__isnull=False),
                name="portia_clarification_resolved_has_how",
            ),
            models.CheckConstraint(
                condition=Q(status="pending") ^ Q(responded_at__isnull=False),
                name="portia_clarification_resolved_has_time",
            ),
        ]

    def __str__(self) -> str:
        return self.clarification_id


class IdempotencyKey(models.Model):
    """Which run an Idempotency-Key made, and from which body."""

    tenant = models.CharField(max_length=128, blank=True, default="")
    route = models.CharField(max_length=64)
    key = models.CharField(max_length=255)
    body_digest = models.CharField(max_length=64)
    run_id = models.CharField(max_length=128)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        db_table = "portia_idempotency_key"
        constraints = [
            models.UniqueConstraint(fields=["tenant", "route", "key"], name="portia_idempotency_key_one_per_scope")
        ]

    def __str__(self) -> str:
        return self.key


class Record(models.Model):
    """A value kept by the tool `write_record`; `writes` counts how often it really was written."""

    tenant = models.CharField(max_length=128, blank=True, default="")
    collection = models.CharField(max_length=128, default="default")
    key = models.CharField(max_length=255)
    value = models.JSONField(null=True, blank=True)
    writes = models.BigIntegerField(default=0)
    updated_at = models.DateTimeField(default=timezone.now)

    class Meta:
        db_table = "portia_record"
        constraints = [
            models.UniqueConstraint(fields=["tenant", "collection", "key"], name="portia_record_one_per_key"),
            models.CheckConstraint(condition=Q(writes__gte=0), name="portia_record_writes_count_up"),
        ]

    def __str__(self) -> str:
        return f"{self.collection}/{self.key}"


class RecordWrite(models.Model):
    """One write of a record by one step of one run: the unique key makes a repeat of that step count once."""

    record = models.ForeignKey(Record, on_delete=models.CASCADE, related_name="history")
    effect = models.CharField(max_length=1200, unique=True)
    value = models.JSONField(null=True, blank=True)
    writes = models.BigIntegerField()
    written_at = models.DateTimeField(default=timezone.now)

    class Meta:
        db_table = "portia_record_write"

    def __str__(self) -> str:
        return self.effect
