"""What goes in and out of the approvals API."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from approvals_bridge import answers
from approvals_bridge.models import Clarification, ClarificationStatus, Vote
from executions.api.fields import AnyValueField, JSONObjectField
from executions.api.serializers import StrictSerializer
from executions.api.sparse import SparseSerializer
from executions.canonical_json import DIGEST_PATTERN


class VoteSerializer(serializers.ModelSerializer[Vote]):
    """One person's word."""

    voter = serializers.CharField(source="voter.get_username")
    value = serializers.JSONField(allow_null=True)

    class Meta:
        model = Vote
        fields = ["voter", "decision", "value", "reason", "source", "created_at"]


class ClarificationSerializer(SparseSerializer):
    """A question to a person: what will be done, who asked, until when."""

    run_id = serializers.UUIDField()
    plan_name = serializers.CharField(source="run.plan.name")
    plan_hash = serializers.CharField(source="run.plan.plan_hash")
    triggered_by = serializers.CharField(source="run.triggered_by")
    status = serializers.ChoiceField(choices=ClarificationStatus.choices)
    action = JSONObjectField(allow_null=True)
    details = JSONObjectField(source="data", help_text="What only this category has, e.g. a JSON Schema.")
    options = serializers.ListField(child=serializers.JSONField())
    proposed = serializers.JSONField(allow_null=True)
    response = serializers.JSONField(allow_null=True)
    required_approvers = serializers.ListField(child=serializers.CharField())
    approval_rules = serializers.ListField(child=serializers.CharField())
    votes = VoteSerializer(many=True)
    links = serializers.SerializerMethodField()

    needs = {"links": ("run_id", "status", "category")}

    class Meta:
        model = Clarification
        fields = [
            "id", "run_id", "plan_name", "plan_hash", "triggered_by", "category", "status", "portia_status", "round", "title",
            "guidance",
            "step_id", "argument_name", "options", "action_url", "proposed", "details", "action", "action_digest",
            "required_approvers", "approval_rules", "requested_at", "deadline", "decided_at", "decided_by",
            "decision_reason", "response", "delivered_at", "delivery_error", "votes", "links",
        ]  # fmt: skip

    @extend_schema_field({"type": "object", "additionalProperties": {"type": "string"}})
    def get_links(self, clarification: Clarification) -> dict[str, str]:
        """Where to go from here."""
        base = f"/v1/approvals/{clarification.pk}"
        verbs = answers.verbs(clarification) if clarification.status == ClarificationStatus.PENDING else ()
        return {"self": base, "run": f"/v1/executions/{clarification.run_id}", **{v: f"{base}/{v}" for v in verbs}}


class DecisionSerializer(StrictSerializer):
    """A yes or a no; `action_digest` is the seal of what was shown and is needed where the question has one."""

    reason = serializers.CharField(default="", allow_blank=True, max_length=4000)
    action_digest = serializers.RegexField(
        rf"^{DIGEST_PATTERN}\Z",
        required=False,
        trim_whitespace=False,
        error_messages={"invalid": "Send the 64 hex digits of the action_digest."},
    )


class AnswerSerializer(DecisionSerializer):
    """A value, of the kind that was asked for."""

    value = AnyValueField(allow_null=True)
