"""Run and RunStep: what became of a plan.

`status` is coarse and drives behaviour; `reason` is fine and explains. TRANSITIONS is the only list of allowed changes:
`Run.transition` reads it, a trigger in the database is made from it, docs/reference/run-states.md is generated from it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pgtrigger
from django.conf import settings
from django.contrib.postgres.indexes import BrinIndex, GinIndex
from django.db import models
from django.db.models import Q
from django.utils import timezone

from executions import audit, events
from executions.errors import TransitionRefused
from executions.models.ids import uuid7
from executions.models.plan import Plan
from executions.models.tenant import Tenant


class RunStatus(models.TextChoices):
    """Where a run is, in six words."""

    PENDING = "pending", "Pending"
    RUNNING = "running", "Running"
    PAUSED = "paused", "Paused"
    COMPLETED = "completed", "Completed"
    FAILED = "failed", "Failed"
    CANCELLED = "cancelled", "Cancelled"


class RunReason(models.TextChoices):
    """Why a run is where it is."""

    ACCEPTED = "accepted", "Accepted"
    PORTIA_UNREACHABLE = "portia_unreachable", "Portia does not answer"
    EXECUTING = "executing", "Executing"
    ROLLING_BACK = "rolling_back", "Rolling back"
    AWAITING_CLARIFICATION = "awaiting_clarification", "Waiting for a person"
    PAUSE_REQUESTED = "pause_requested", "Paused on request"
    OK = "ok", "Done"
    STEP_FAILED = "step_failed", "A step failed"
    REJECTED = "rejected", "Rejected by a person"
    CLARIFICATION_EXPIRED = "clarification_expired", "Nobody answered in time"
    TIMED_OUT = "timed_out", "Timed out"
    CAPABILITY_DENIED = "capability_denied", "Not allowed"
    PLAN_REFUSED = "plan_refused", "Portia refused the plan"
    RUN_LOST = "run_lost", "Portia lost the run"
    ROLLBACK_FAILED = "rollback_failed", "The rollback failed"
    CANCEL_REQUESTED = "cancel_requested", "Cancelled on request"


TRANSITIONS: dict[str, frozenset[str]] = {
    RunStatus.PENDING: frozenset({RunStatus.RUNNING, RunStatus.PAUSED, RunStatus.FAILED, RunStatus.CANCELLED}),
    RunStatus.RUNNING: frozenset({RunStatus.PAUSED, RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED}),
    RunStatus.PAUSED: frozenset(
        {RunStatus.PENDING, RunStatus.RUNNING, RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED}
    ),
    RunStatus.COMPLETED: frozenset(),
    RunStatus.FAILED: frozenset(),
    RunStatus.CANCELLED: frozenset(),
}

REASONS: dict[str, frozenset[str]] = {
    RunStatus.PENDING: frozenset({RunReason.ACCEPTED, RunReason.PORTIA_UNREACHABLE}),
    RunStatus.RUNNING: frozenset({RunReason.EXECUTING, RunReason.ROLLING_BACK}),
    RunStatus.PAUSED: frozenset({RunReason.AWAITING_CLARIFICATION, RunReason.PAUSE_REQUESTED}),
    RunStatus.COMPLETED: frozenset({RunReason.OK}),
    RunStatus.FAILED: frozenset(
        {
            RunReason.STEP_FAILED,
            RunReason.REJECTED,
            RunReason.CLARIFICATION_EXPIRED,
            RunReason.TIMED_OUT,
            RunReason.CAPABILITY_DENIED,
            RunReason.PLAN_REFUSED,
            RunReason.RUN_LOST,
            RunReason.ROLLBACK_FAILED,
        }
    ),
    RunStatus.CANCELLED: frozenset({RunReason.CANCEL_REQUESTED}),
}

STATUS_OF_REASON = {reason: status for status, reasons in REASONS.items() for reason in reasons}

TERMINAL = frozenset(status for status, following in TRANSITIONS.items() if not following)

EVENT_OF_STATUS: dict[str, str] = {
    RunStatus.RUNNING: events.STARTED,
    RunStatus.PAUSED: events.PAUSED,
    RunStatus.COMPLETED: events.COMPLETED,
    RunStatus.FAILED: events.FAILED,
    RunStatus.CANCELLED: events.CANCELLED,
}


class Command(models.TextChoices):
    """What somebody asked of a run and Portia has not been told yet."""

    PAUSE = "pause", "Pause"
    RESUME = "resume", "Resume"
    CANCEL = "cancel", "Cancel"


PORTIA = "portia"  # as the actor of what nobody here asked for
REASON_OF_COMMAND = {Command.PAUSE: RunReason.PAUSE_REQUESTED, Command.CANCEL: RunReason.CANCEL_REQUESTED}


class RunQuerySet(models.QuerySet["Run"]):
    """Named filters over runs."""

    def terminal(self) -> RunQuerySet:
        """Runs that will never change again."""
        return self.filter(status__in=TERMINAL)

    def not_ended(self) -> RunQuerySet:
        """Runs that still go on, through the index made for them."""
        return self.filter(finished_at__isnull=True)

    def finished_before(self, moment: datetime) -> RunQuerySet:
        """Terminal runs that ended before this moment (UTC)."""
        return self.terminal().filter(finished_at__lt=moment)


class Run(models.Model):
    """One execution of a plan. `id` is ours, given out at once; `portia_run_id` is Portia's, known after the launch.

    An index that ends with the id, which grows with time, has the runs of one value in the order of the lists. Times have none of
    that kind: `updated_at` changes with everything, and would have to be written into every index (a BRIN index is excepted).
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="runs", db_index=False)
    plan = models.ForeignKey(Plan, on_delete=models.PROTECT, related_name="runs", db_index=False)
    status = models.CharField(max_length=16, choices=RunStatus.choices, default=RunStatus.PENDING)
    reason = models.CharField(max_length=32, choices=RunReason.choices, default=RunReason.ACCEPTED)
    version = models.PositiveIntegerField(default=1, help_text="Grows with every visible change.")

    parameters = models.JSONField(default=dict, blank=True)
    variables = models.JSONField(default=dict, blank=True, help_text="Win over the variables of the plan.")
    retry_policy = models.JSONField(null=True, blank=True, help_text="Wins over the retry policy of the plan.")
    timeout = models.FloatField(null=True, blank=True, help_text="Active seconds; wins over the timeout of the plan.")
    hooks = models.JSONField(default=list, blank=True)
    capability = models.JSONField(default=dict, blank=True, help_text="The CapabilityValidation of the submission.")
    allowed_tools = models.JSONField(default=list, blank=True, help_text="Tools the runtime may call for this run.")
    triggered_by = models.CharField(max_length=128)
    requested_by = models.CharField(max_length=128, help_text="The principal whose key submitted the run.")
    requested_by_user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        help_text="The person that key belongs to.",
    )
    correlation_id = models.CharField(max_length=128)
    traceparent = models.CharField(max_length=64, blank=True)
    labels = models.JSONField(default=dict, blank=True, help_text="The plan's and the submission's: name -> text.")

    requested = models.CharField(max_length=8, choices=Command.choices, blank=True, default="")
    commanded_by = models.CharField(max_length=150, blank=True, default="", help_text="Who gave the last command.")
    awaited = models.CharField(
        max_length=8,
        choices=Command.choices,
        blank=True,
        default="",
        help_text="A command whose effect has not shown yet.",
    )
    portia_plan_id = models.CharField(max_length=128, blank=True, default="")
    portia_run_id = models.CharField(max_length=128, null=True, blank=True)  # noqa: DJ001 - several runs may have none yet
    portia_version = models.BigIntegerField(default=0)
    pause_pending = models.BooleanField(default=False, help_text="Portia pauses at the end of the running step.")
    unsent_attempts = models.PositiveIntegerField(default=0, help_text="Launches of which Portia surely saw nothing.")
    portia_missing_since = models.DateTimeField(null=True, blank=True)
    pending_clarifications = models.JSONField(default=list, blank=True, help_text="Ids as Portia gave them.")

    progress = models.FloatField(default=0.0, help_text="Finished top-level steps / all of them, 0 to 1.")
    current_step = models.CharField(max_length=1024, blank=True, default="")
    results = models.JSONField(default=dict, blank=True)
    rollback = models.JSONField(default=dict, blank=True)
    error = models.JSONField(null=True, blank=True)

    created_at = models.DateTimeField(default=timezone.now)
    updated_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    event_sequence = models.PositiveIntegerField(default=0)

    objects = RunQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["tenant", "-id"], name="run_by_tenant"),
            models.Index(fields=["tenant", "status", "-id"], name="run_by_tenant_and_status"),
            models.Index(fields=["tenant", "reason", "-id"], name="run_failed_by_reason", condition=Q(status="failed")),
            models.Index(fields=["plan", "-id"], include=["tenant"], name="run_by_plan"),
            models.Index(fields=["plan", "-id"], name="run_completed_by_plan", condition=Q(status="completed")),
            models.Index(fields=["tenant", "triggered_by", "-id"], name="run_by_trigger"),
            models.Index(fields=["tenant", "requested_by", "-id"], name="run_by_requester"),
            models.Index(fields=["tenant", "correlation_id", "-id"], name="run_by_correlation"),
            GinIndex(fields=["labels"], name="run_labels", fastupdate=False),
            BrinIndex(fields=["updated_at"], name="run_updated", pages_per_range=32, autosummarize=True),
            models.Index(fields=["finished_at"], name="run_finished", condition=Q(finished_at__isnull=False)),
            models.Index(fields=["tenant"], name="run_not_ended", condition=Q(finished_at__isnull=True)),
        ]
        constraints = [
            models.UniqueConstraint(name="run_once_at_portia", fields=["portia_run_id"]),
            models.CheckConstraint(
                name="run_reason_fits_status",
                condition=Q(*(Q(status=s, reason__in=sorted(r)) for s, r in REASONS.items()), _connector=Q.OR),
            ),
            models.CheckConstraint(
                name="run_finished_at_if_terminal",
                condition=Q(status__in=sorted(TERMINAL), finished_at__isnull=False)
                | Q(~Q(status__in=sorted(TERMINAL)), finished_at__isnull=True),
            ),
            models.CheckConstraint(name="run_progress_in_range", condition=Q(progress__gte=0, progress__lte=1)),
            models.CheckConstraint(
                name="run_launched_before_running",
                condition=~Q(status__in=["running", "completed"]) | Q(portia_run_id__isnull=False),
            ),
        ]
        triggers = [
            pgtrigger.FSM(
                name="run_follows_transitions",
                field="status",
                transitions=[(old, new) for old, following in TRANSITIONS.items() for new in sorted(following)],
            ),
            pgtrigger.Trigger(
                name="run_tells_who_waits",
                when=pgtrigger.After,
                operation=pgtrigger.UpdateOf("version"),
                func="PERFORM pg_notify('run_changed', NEW.id::text); RETURN NULL;",
            ),
        ]

    def __str__(self) -> str:
        return str(self.id)

    @property
    def is_terminal(self) -> bool:
        """Whether the run has ended, for good."""
        return self.status in TERMINAL

    def transition(
        self,
        status: str,
        reason: str,
        *,
        by: str = "",
        error: dict[str, Any] | None = None,
        also: tuple[str, ...] = (),
    ) -> None:
        """Move to a status and reason; the only writer of both. Saves the fields named in `also` in the same statement.

        `by`: who brought it about; unless said, whoever gave the command that this follows, else Portia. Needs the caller's
        transaction and a locked row. Stamps times, bumps the version, records event and audit entry. Raises
        TransitionRefused for a change the table does not have; where the run is there already, only `also` is saved.
        """
        if (status, reason) == (self.status, self.reason):
            return self.touch(*also) if also else None
        if status != self.status and status not in TRANSITIONS[self.status]:
            raise TransitionRefused(run=self, to=status)
        if self.is_terminal or reason not in REASONS[status]:
            raise TransitionRefused(run=self, to=f"{status}/{reason}")
        by, before, now = by or self._commander(status, reason), (self.status, self.reason), timezone.now()
        self.status, self.reason, self.error = status, reason, error
        if status == RunStatus.RUNNING and self.started_at is None:
            self.started_at = now
        if self.is_terminal:
            self.finished_at, self.requested, self.awaited = now, "", ""
        self.touch("status", "reason", "error", "started_at", "finished_at", "requested", "awaited", *also)
        self._tell(before=before, by=by)
        return None

    def _commander(self, status: str, reason: str) -> str:
        """Who gave the command that a change to this status follows from, and wait for that no longer; else Portia."""
        if self.awaited == Command.RESUME:
            goes_on = (RunStatus.PENDING, RunStatus.RUNNING)
            follows = status in goes_on and self.reason == RunReason.PAUSE_REQUESTED
        else:
            follows = bool(self.awaited) and reason == REASON_OF_COMMAND[Command(self.awaited)]
        if not follows:
            return PORTIA
        self.awaited = ""
        return self.commanded_by

    def _tell(self, *, before: tuple[str, str], by: str) -> None:
        """Write down the change from this status and reason: for good in the audit log, and as an event where it is one."""
        code = {"error": self.error["code"]} if self.error and "code" in self.error else {}
        audit.record(
            action="execution.changed",
            subject=f"execution/{self.pk}",
            by=by,
            tenant_id=self.tenant_id,
            before={"status": before[0], "reason": before[1]},
            after={"status": self.status, "reason": self.reason, **code},
            correlation=self.correlation_id,
        )
        if before[0] == self.status:
            return
        resumes = before[0] == RunStatus.PAUSED and not self.is_terminal
        kind = events.RESUMED if resumes else EVENT_OF_STATUS.get(self.status)
        if kind:
            data = {"status": self.status, "reason": self.reason, "error": self.error}
            events.record(run=self, kind=kind, by=by, data=data)

    def touch(self, *fields: str) -> None:
        """Save these fields as one more version of the run; a trigger tells who waits for it when the caller commits."""
        self.version += 1
        self.updated_at = timezone.now()
        self.save(update_fields=[*fields, "version", "updated_at"])


class RunStep(models.Model):
    """How far one step of a run is, as Portia last said; nested steps are named `loop[2].child`."""

    id = models.BigAutoField(primary_key=True)
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="steps")
    step_id = models.CharField(max_length=1024)
    position = models.PositiveIntegerField()
    name = models.CharField(max_length=256)
    step_type = models.CharField(max_length=32)
    status = models.CharField(max_length=32)
    attempts = models.PositiveIntegerField(default=0)
    output = models.JSONField(null=True, blank=True)
    error = models.JSONField(null=True, blank=True)
    reason = models.TextField(blank=True, default="")
    started_at = models.DateTimeField(null=True, blank=True)
    completed_at = models.DateTimeField(null=True, blank=True)
    next_attempt_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["run", "position"]
        constraints = [models.UniqueConstraint(name="run_step_once", fields=["run", "step_id"])]

    def __str__(self) -> str:
        return self.step_id
