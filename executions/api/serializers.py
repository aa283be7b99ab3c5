"""What goes in and out of the executions API, as drf-spectacular and DRF read it."""

from __future__ import annotations

from typing import Any, cast

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from executions.actions import runs
from executions.models import Run, RunReason, RunStatus, RunStep

JSON_OBJECT = {"type": "object", "additionalProperties": True}


@extend_schema_field(JSON_OBJECT)
class JSONObjectField(serializers.JSONField):
    """A JSON object; arrays, strings and numbers are refused."""

    default_error_messages = {"invalid": "Holds a number that JSON cannot keep: not finite, or beyond 2^53 - 1."}

    def to_internal_value(self, data: Any) -> Any:
        """Refuse what is no object."""
        if not isinstance(data, dict):
            raise serializers.ValidationError("Send a JSON object.", code="not_an_object")
        return super().to_internal_value(data)


class StrictSerializer(serializers.Serializer[Any]):
    """Refuses fields it does not know, so that a typing error is never taken for a wish."""

    def to_internal_value(self, data: Any) -> Any:
        """Check the names before the values."""
        if not isinstance(data, dict):
            raise serializers.ValidationError({"non_field_errors": ["Send a JSON object."]}, code="not_an_object")
        known = ", ".join(sorted(self.fields))
        sentence = serializers.ErrorDetail(f"Unknown field; known are {known}.", "unknown_field")
        errors: dict[str, Any] = dict.fromkeys(sorted(set(data) - set(self.fields)), sentence)
        try:
            values = super().to_internal_value(data)
        except serializers.ValidationError as invalid:
            errors |= cast("dict[str, Any]", invalid.detail)
        if errors:
            raise serializers.ValidationError(errors)
        return values


class RetryPolicySerializer(StrictSerializer):
    """How often and how fast to try again; delays in seconds."""

    max_attempts = serializers.IntegerField(min_value=1, max_value=100, default=3)
    initial_delay = serializers.FloatField(min_value=0, max_value=3600, default=1.0)
    max_delay = serializers.FloatField(min_value=0, max_value=86_400, default=60.0)
    exponential_base = serializers.FloatField(min_value=1, max_value=10, default=2.0)
    jitter = serializers.BooleanField(default=True)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Refuse a longest delay below the first one."""
        if attrs["max_delay"] < attrs["initial_delay"]:
            raise serializers.ValidationError({"max_delay": "Must not be less than initial_delay."})
        return attrs


class ExecuteSerializer(StrictSerializer):
    """A submission: `executable_plan`, or the `plan_hash` of a stored one, or both if they agree."""

    plan_hash = serializers.RegexField(
        r"^[0-9a-f]{64}$", required=False, help_text="Hex SHA-256 of the plan.",
        error_messages={"invalid": "Send 64 lower-case hex digits."},
    )  # fmt: skip
    executable_plan = JSONObjectField(required=False, help_text="docs/reference/executable-plan.md")
    parameters = JSONObjectField(default=dict)
    variables = JSONObjectField(default=dict, help_text="Win over the plan's variables.")
    dry_run = serializers.BooleanField(default=False, help_text="Check everything, run nothing.")
    async_execution = serializers.BooleanField(
        default=True, help_text="false: answer when the run has ended or after 30 seconds."
    )
    validate_capabilities = serializers.BooleanField(
        default=True, help_text="false is possible in development only, and never excuses a bad token."
    )
    capability_token = serializers.CharField(required=False, max_length=8192, write_only=True)
    hooks = serializers.ListField(child=serializers.CharField(max_length=128), default=list, max_length=20)
    retry_policy = RetryPolicySerializer(required=False, allow_null=True)
    timeout = serializers.FloatField(
        required=False, allow_null=True, min_value=0.001, max_value=31_536_000, help_text="Active seconds."
    )
    triggered_by = serializers.CharField(required=False, max_length=128)
    correlation_id = serializers.RegexField(
        r"^[A-Za-z0-9._:-]{1,128}$", required=False,
        error_messages={"invalid": "Send 1 to 128 letters, digits, dots, colons, hyphens or underscores."},
    )  # fmt: skip

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Ask for something to run."""
        if not attrs.get("executable_plan") and not attrs.get("plan_hash"):
            raise serializers.ValidationError(
                {"executable_plan": "Send the plan here, or the hash of a stored plan as plan_hash."}, code="required"
            )
        return attrs


class StepSerializer(serializers.ModelSerializer[RunStep]):
    """One step of a run; nested ones are named `loop[2].child`."""

    name = serializers.CharField()
    type = serializers.CharField(source="step_type")
    output = serializers.JSONField(allow_null=True)
    error = serializers.JSONField(allow_null=True)

    class Meta:
        model = RunStep
        fields = [
            "step_id", "name", "type", "status", "attempts", "started_at", "completed_at", "next_attempt_at", "output",
            "error", "reason",
        ]  # fmt: skip


class TimingsSerializer(serializers.Serializer[Run]):
    """When what happened (UTC), and how long it took (seconds)."""

    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)
    updated_at = serializers.DateTimeField()
    duration = serializers.SerializerMethodField()

    def get_duration(self, run: Run) -> float | None:
        """Seconds from acceptance to the end."""
        return (run.finished_at - run.created_at).total_seconds() if run.finished_at else None


class RunSummarySerializer(serializers.ModelSerializer[Run]):
    """A run as it stands in a list."""

    run_id = serializers.UUIDField(source="id")
    plan_hash = serializers.CharField(source="plan.plan_hash")
    plan_name = serializers.CharField(source="plan.name")
    status = serializers.ChoiceField(choices=RunStatus.choices)
    reason = serializers.ChoiceField(choices=RunReason.choices)
    requested = serializers.CharField(help_text="A command Portia has not been told yet, or empty.")
    timings = TimingsSerializer(source="*")

    class Meta:
        model = Run
        fields = [
            "run_id", "plan_hash", "plan_name", "status", "reason", "requested", "version", "progress", "current_step",
            "triggered_by", "correlation_id", "timings",
        ]  # fmt: skip


class RunSerializer(RunSummarySerializer):
    """A run with everything that is known of it."""

    steps = serializers.SerializerMethodField()
    results = JSONObjectField()
    error = JSONObjectField(allow_null=True)
    parameters = JSONObjectField()
    variables = JSONObjectField()
    rollback = JSONObjectField()
    capability = JSONObjectField()
    allowed_commands = serializers.SerializerMethodField()
    pending_clarifications = serializers.SerializerMethodField()
    links = serializers.SerializerMethodField()

    class Meta(RunSummarySerializer.Meta):
        fields = [
            *RunSummarySerializer.Meta.fields,
            "steps", "results", "error", "parameters", "variables", "rollback", "capability", "allowed_tools",
            "requested_by", "portia_run_id", "pending_clarifications", "allowed_commands", "links",
        ]  # fmt: skip

    @extend_schema_field(StepSerializer(many=True))
    def get_steps(self, run: Run) -> list[dict[str, Any]]:
        """Steps as Portia last reported them, or as the plan has them before the launch."""
        return [dict(StepSerializer(step).data) for step in runs.steps_of(run)]

    @extend_schema_field(serializers.ListField(child=serializers.UUIDField()))
    def get_pending_clarifications(self, run: Run) -> list[str]:
        """Ids for /v1/approvals/{id}."""
        if not run.portia_run_id:
            return []
        pending = run.clarifications.filter(status="pending")
        return [str(pk) for pk in pending.order_by("requested_at").values_list("pk", flat=True)]

    @extend_schema_field(serializers.ListField(child=serializers.CharField()))
    def get_allowed_commands(self, run: Run) -> list[str]:
        """What may be asked of the run now."""
        return runs.allowed_commands(run)

    @extend_schema_field({"type": "object", "additionalProperties": {"type": "string"}})
    def get_links(self, run: Run) -> dict[str, str]:
        """Where to go from here."""
        base = f"/v1/executions/{run.pk}"
        return {"self": base, **{name: f"{base}/{name}" for name in runs.allowed_commands(run)}}


class PreviewSerializer(serializers.Serializer[Any]):
    """What a dry run says."""

    dry_run = serializers.BooleanField()
    plan_hash = serializers.CharField()
    allowed_tools = serializers.ListField(child=serializers.CharField())
    capability = JSONObjectField()
    step_order = serializers.ListField(child=serializers.CharField())
    portia_plan = JSONObjectField()


class HealthSerializer(serializers.Serializer[Any]):
    """Whether the service works."""

    status = serializers.ChoiceField(choices=["healthy", "degraded", "unhealthy"])
    environment = serializers.CharField()
    version = serializers.CharField()
    checks = JSONObjectField()
