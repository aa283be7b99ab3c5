"""What a dry run says, as drf-spectacular and DRF read it."""

from __future__ import annotations

from typing import Any, get_args

from rest_framework import serializers

from executions.api.serializers import JSONObjectField
from executions.plan_parts import Category


class ToolListsSerializer(serializers.Serializer[Any]):
    """Which lists allow a tool: true, or null where there is no such list."""

    plan = serializers.BooleanField(allow_null=True)
    tenant = serializers.BooleanField(allow_null=True)
    capability_token = serializers.BooleanField(allow_null=True)


class ToolUseSerializer(serializers.Serializer[Any]):
    """A tool that the plan uses."""

    name = serializers.CharField()
    steps = serializers.ListField(child=serializers.CharField(), help_text="The steps that call it.")
    allowed_by = ToolListsSerializer()
    in_runtime = serializers.BooleanField(
        allow_null=True, help_text="Whether the runtime has it; null when it does not say."
    )


class CapabilityValidationSerializer(serializers.Serializer[Any]):
    """What the capability token was found to allow."""

    valid = serializers.BooleanField()
    mode = serializers.ChoiceField(choices=["token", "development_without_token"])
    token_id = serializers.CharField(allow_null=True)
    subject = serializers.CharField(allow_null=True)
    capabilities = serializers.ListField(child=serializers.CharField())
    tools = serializers.ListField(
        child=serializers.CharField(), allow_null=True, help_text="Tools the token is limited to; null: not limited."
    )
    limits = JSONObjectField(help_text="Schemas that the arguments of tools must fit, by tool; empty: not limited.")
    parents = serializers.ListField(
        child=serializers.CharField(),
        help_text="The tokens it was made from by attenuation; to revoke one is to revoke it.",
    )
    expires_at = serializers.DateTimeField(allow_null=True)
    error = serializers.CharField(allow_null=True)
    reason = serializers.CharField(
        allow_null=True, help_text="The code of a refusal: docs/reference/capability-tokens.md."
    )
    warnings = serializers.ListField(child=serializers.CharField(), help_text="Such as that it expires soon.")


class ForeseenApprovalSerializer(serializers.Serializer[Any]):
    """A question the run will ask, and who could answer it by today's people and rules."""

    step_id = serializers.CharField(
        help_text="As the clarification will name it; `loop[].ask` stands for `loop[0].ask`, `loop[1].ask` and so on."
    )
    category = serializers.ChoiceField(choices=get_args(Category), help_text="Portia's word.")
    title = serializers.CharField(help_text="As the plan has it; templates are filled in when it is asked.")
    message = serializers.CharField(allow_blank=True, help_text="As the plan has it.")
    after = serializers.ListField(
        child=serializers.CharField(), max_length=50, help_text="The steps that end before, in order; the last 50."
    )
    repeats = serializers.BooleanField(help_text="It is in a loop and asked in each round.")
    conditional = serializers.BooleanField(
        help_text="A run may end well without asking: it is under a condition, or part of a rollback."
    )
    required_approvers = serializers.ListField(
        child=serializers.CharField(),
        help_text="Names, addresses and `group:` names, as the plan has them; empty: any.",
    )
    approval_rules = serializers.ListField(child=serializers.CharField())
    deadline_seconds = serializers.FloatField(
        allow_null=True, help_text="Time to answer, from when it is asked; null: any time."
    )
    eligible = serializers.ListField(
        child=serializers.CharField(), max_length=50, help_text="Usernames of who could decide it now, the first 50."
    )
    eligible_count = serializers.IntegerField(min_value=0, help_text="How many they are in all.")
    warning = serializers.CharField(allow_null=True, help_text="Why it might wait in vain.")


class RuntimeFitSerializer(serializers.Serializer[Any]):
    """The Portia Runtime, and the optional capabilities the plan needs of it."""

    answers = serializers.BooleanField()
    kind = serializers.CharField(allow_null=True)
    needed = serializers.ListField(child=serializers.CharField())
    missing = serializers.ListField(
        child=serializers.CharField(),
        allow_null=True,
        help_text="Empty, as a plan that lacks something is refused; null when the runtime does not say what it has.",
    )


class EstimatedDurationSerializer(serializers.Serializer[Any]):
    """How long the latest 100 completed runs of this plan took: seconds from acceptance to end, waits for people included."""

    runs = serializers.IntegerField(min_value=1, max_value=100, help_text="How many runs this is taken from.")
    median = serializers.FloatField(help_text="Half of them took no longer. Includes waits for people.")
    p90 = serializers.FloatField(help_text="Nine in ten took no longer. Includes waits for people.")


class PreviewSerializer(serializers.Serializer[Any]):
    """What a dry run says: nothing speaks against this submission, and this is what would happen."""

    dry_run = serializers.BooleanField(help_text="Always true.")
    plan_hash = serializers.CharField()
    plan_name = serializers.CharField()
    allowed_tools = serializers.ListField(
        child=serializers.CharField(), help_text="What the runtime may call: allowed by plan, token and tenant."
    )
    capability = CapabilityValidationSerializer()
    tools = ToolUseSerializer(many=True)
    step_order = serializers.ListField(
        child=serializers.CharField(), help_text="The main flow's steps in the order they run when none is skipped."
    )
    approvals = ForeseenApprovalSerializer(many=True, help_text="Everything people will be asked, in order.")
    runtime = RuntimeFitSerializer()
    estimated_duration = EstimatedDurationSerializer(
        allow_null=True,
        help_text="Of the latest 100 completed runs of this plan, waits for people included; null: none.",
    )
    warnings = serializers.ListField(child=serializers.CharField(), help_text="Sentences; none of them is a refusal.")
    portia_plan = JSONObjectField(help_text="The plan as the Portia Runtime would get it.")
