"""What people decided in a run, for its receipt (settings.APPROVAL_DECISIONS). Reads only."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from approvals_bridge.models import Vote
from executions.audit import written


def decisions_of(run_id: UUID) -> list[dict[str, Any]]:
    """Every vote in a run, the first one first: who, when, what, and the seal of the action the person saw. JSON types."""
    votes = Vote.objects.filter(clarification__run=run_id).select_related("voter", "clarification").order_by("id")
    return [
        {
            "clarification_id": str(vote.clarification_id),
            "who": vote.voter.get_username(),
            "when": written(vote.created_at),
            "decision": vote.decision,
            "action_digest": vote.action_digest or None,
        }
        for vote in votes
    ]
