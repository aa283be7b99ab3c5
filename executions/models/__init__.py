"""What the service remembers about plans and runs."""

from executions.models.api_key import ApiKey, Scope
from executions.models.audit import SERVICE, AuditCheckpoint, AuditEntry, AuditLink, Source
from executions.models.event import Event
from executions.models.idempotency import IdempotencyRecord, KeyOrigin
from executions.models.ids import uuid7
from executions.models.plan import Plan
from executions.models.rate import RateState
from executions.models.revoked_token import RevokedToken
from executions.models.run import Command, Run, RunReason, RunStatus, RunStep
from executions.models.tenant import Tenant
from executions.models.work import Kind, Work

__all__ = [
    "SERVICE",
    "ApiKey",
    "AuditCheckpoint",
    "AuditEntry",
    "AuditLink",
    "Command",
    "Event",
    "IdempotencyRecord",
    "KeyOrigin",
    "Kind",
    "Plan",
    "RateState",
    "RevokedToken",
    "Run",
    "RunReason",
    "RunStatus",
    "RunStep",
    "Scope",
    "Source",
    "Tenant",
    "Work",
    "uuid7",
]
