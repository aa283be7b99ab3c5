"""What goes in and out of the executions API, as drf-spectacular and DRF read it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, cast

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from executions.actions import runs
from executions.api.fields import JSONObjectField, NamedValuesField, PlanField, ShortListField
from executions.api.sparse import SparseSerializer
from executions.canonical_json import DIGEST_PATTERN
from executions.labels import LONGEST_VALUE, MOST_LABELS, NAME_PATTERN, is_name, is_value
from executions.models import Run, RunReason, RunStatus, RunStep

MOST_FIELDS = 100  # of one object, known or not
COLUMNS_OF_COMMANDS = ("status", "reason", "requested", "pause_pending")


@extend_schema_field(
    {
        "type": "object",
        "maxProperties": MOST_LABELS,
        "propertyNames": {"pattern": f"^{NAME_PATTERN}$"},
        "additionalProperties": {"type": "string", "maxLength": LONGEST_VALUE},
    }
)
class LabelsField(serializers.Field[Any, Any, Any, Any]):
    """Names with texts, by which runs are found again."""

    def to_internal_value(self, data: Any) -> dict[str, str]:
        """Refuse what is no label, each with its name."""
        if not isinstance(data, dict):
            raise serializers.ValidationError("Send a JSON object of names and strings.", code="not_an_object")
        if len(data) > MOST_LABELS:
            raise serializers.ValidationError(f"Send at most {MOST_LABELS} labels.", code="too_many")
        name = serializers.ErrorDetail(
            "Use 1 to 63 letters, digits, dots, slashes, hyphens or underscores.", "invalid_name"
        )
        value = serializers.ErrorDetail(f"Send a string of at most {LONGEST_VALUE} characters.", "invalid_value")
        wrong = {key: value for key, text in data.items() if not is_value(text)}
        wrong |= {key: name for key in data if not is_name(key)}
        if wrong:
            raise serializers.ValidationError(wrong)
        return dict(data)

    def to_representation(self, value: Any) -> Any:
        """The labels as they are."""
        return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


JSON_TYPES: tuple[tuple[type, Callable[[Any], bool], str], ...] = (
    (serializers.CharField, lambda value: isinstance(value, str), "a string"),
    (serializers.BooleanField, lambda value: isinstance(value, bool), "true or false"),
    (serializers.IntegerField, lambda value: _is_number(value) and value % 1 == 0, "a whole number"),
    (serializers.FloatField, _is_number, "a number"),
)


class StrictSerializer(serializers.Serializer[Any]):
    """Refuses fields it does not know, so that a typing error is never taken for a wish, and takes no type for another."""

    holds_too: ClassVar[dict[str, Any]] = {}  # in the words of JSON Schema, what `validate` asks across fields

    def to_internal_value(self, data: Any) -> Any:
        """Check the names before the values."""
        if not isinstance(data, dict):
            raise serializers.ValidationError({"non_field_errors": ["Send a JSON object."]}, code="not_an_object")
        if len(data) > MOST_FIELDS:
            raise serializers.ValidationError(
                {"non_field_errors": [f"Send at most {MOST_FIELDS} fields; these are {len(data)}."]}, code="too_many"
            )
        known = f"known are {', '.join(sorted(self.fields))}" if self.fields else "this takes none"
        sentence = serializers.ErrorDetail(f"Unknown field; {known}.", "unknown_field")
        errors: dict[str, Any] = dict.fromkeys(sorted(set(data) - set(self.fields)), sentence)
        try:
            values = super().to_internal_value(data)
        except serializers.ValidationError as invalid:
            errors |= cast("dict[str, Any]", invalid.detail)
        errors |= self._wrong_types(data)
        if errors:
            raise serializers.ValidationError(errors)
        return values

    def _wrong_types(self, data: dict[str, Any]) -> dict[str, Any]:
        """Values of another JSON type than asked for, which DRF would convert: "5" to 5, "no" to false."""
        return {
            name: serializers.ErrorDetail(f"Send {kind}.", "wrong_type")
            for name, field in self.fields.items()
            for type_of_field, fits, kind in JSON_TYPES
            if isinstance(field, type_of_field) and data.get(name) is not None and not fits(data[name])
        }


class NothingSerializer(StrictSerializer):
    """The body of a request that takes none: missing, or an empty object."""


class ResumeSerializer(StrictSerializer):
    """The body of a resume: missing, empty, or with the fresh token that the run waits for."""

    capability_token = serializers.CharField(required=False, max_length=8192, write_only=True)


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


class RunOptionsSerializer(StrictSerializer):
    """With what a plan is to be run."""

    parameters = NamedValuesField(default=dict)
    variables = NamedValuesField(default=dict, help_text="Win over the plan's variables.")
    validate_capabilities = serializers.BooleanField(
        default=True, help_text="false is possible in development only, and never excuses a bad token."
    )
    capability_token = serializers.CharField(required=False, max_length=8192, write_only=True)
    hooks = ShortListField(child=serializers.CharField(max_length=128), default=list, max_length=20)
    retry_policy = RetryPolicySerializer(required=False, allow_null=True)
    timeout = serializers.FloatField(
        required=False, allow_null=True, min_value=0.001, max_value=31_536_000, help_text="Active seconds."
    )
    triggered_by = serializers.CharField(required=False, max_length=128)
    labels = LabelsField(default=dict, help_text="To find the run by; win over the plan's metadata.labels.")


class ExecuteSerializer(RunOptionsSerializer):
    """A submission: `executable_plan`, or the `plan_hash` of a stored one, or both if they agree."""

    holds_too = {"anyOf": [{"required": ["executable_plan"]}, {"required": ["plan_hash"]}]}

    plan_hash = serializers.RegexField(
        rf"^{DIGEST_PATTERN}\Z", required=False, trim_whitespace=False, help_text="Hex SHA-256 of the plan.",
        error_messages={"invalid": "Send 64 lower-case hex digits."},
    )  # fmt: skip
    executable_plan = PlanField(required=False, help_text="docs/reference/executable-plan.md")
    dry_run = serializers.BooleanField(default=False, help_text="Check everything, run nothing.")
    async_execution = serializers.BooleanField(
        default=True,
        help_text=(
            "false: answer when the run has ended or pauses, or after 30 seconds or what `Prefer: wait` says; at once where too "
            "many requests wait already."
        ),
    )
    deduplicate = serializers.BooleanField(
        default=True,
        help_text=(
            "Without an Idempotency-Key: give the first answer again to the same request within the next minutes "
            "(DEDUPLICATION_TTL). false: this is a new request, however much it looks like the last one."
        ),
    )
    correlation_id = serializers.RegexField(
        r"^[A-Za-z0-9._:-]{1,128}\Z", required=False, trim_whitespace=False,
        error_messages={"invalid": "Send 1 to 128 letters, digits, dots, colons, hyphens or underscores."},
    )  # fmt: skip
    request_id = serializers.CharField(required=False, max_length=128, help_text="The caller's own; not kept.")
    timestamp = serializers.CharField(required=False, max_length=64, help_text="The caller's own; not kept.")

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

    needs = {"duration": ("created_at", "finished_at")}

    def get_duration(self, run: Run) -> float | None:
        """Seconds from acceptance to the end."""
        return (run.finished_at - run.created_at).total_seconds() if run.finished_at else None


class RunSummarySerializer(SparseSerializer):
    """A run as it stands in a list."""

    run_id = serializers.UUIDField(source="id")
    plan_hash = serializers.CharField(source="plan.plan_hash")
    plan_name = serializers.CharField(source="plan.name")
    status = serializers.ChoiceField(choices=RunStatus.choices)
    reason = serializers.ChoiceField(choices=RunReason.choices)
    requested = serializers.CharField(help_text="A command Portia has not been told yet, or empty.")
    labels = LabelsField()
    timings = TimingsSerializer(source="*")

    class Meta:
        model = Run
        fields = [
            "run_id", "plan_hash", "plan_name", "status", "reason", "requested", "version", "progress", "current_step",
            "triggered_by", "requested_by", "correlation_id", "labels", "timings",
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

    needs = {
        "steps": ("portia_run_id", "plan_id"),
        "pending_clarifications": ("portia_run_id",),
        "allowed_commands": COLUMNS_OF_COMMANDS,
        "links": COLUMNS_OF_COMMANDS,
    }

    class Meta(RunSummarySerializer.Meta):
        fields = [
            *RunSummarySerializer.Meta.fields,
            "steps", "results", "error", "parameters", "variables", "rollback", "capability", "allowed_tools",
            "portia_run_id", "pending_clarifications", "allowed_commands", "links",
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


class HealthSerializer(serializers.Serializer[Any]):
    """Whether the service works."""

    status = serializers.ChoiceField(choices=["healthy", "degraded", "unhealthy"])
    environment = serializers.CharField()
    version = serializers.CharField()
    checks = JSONObjectField()
