"""What crosses the wire to the Portia Runtime, as dataclasses.

The contract is the Portia Runtime API v1 (docs/reference/portia-runtime.md). Reading is lenient: unknown fields are
ignored and unknown status words are kept as they are; only what identifies an object is required. Writing is strict:
`to_json` sends the contract's fields and no others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

JSON = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class PortiaStep:
    """A step of a Portia plan. `timeout` in seconds per attempt; `retry` as max_attempts, initial_delay, …."""

    id: str
    name: str
    type: str
    description: str | None = None
    tool: str | None = None
    action: str | None = None
    parameters: JSON = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    depends_on: list[str] = field(default_factory=list)
    conditions: list[str] = field(default_factory=list)
    retry: JSON | None = None
    timeout: float | None = None
    on_failure: str | None = None
    approval: JSON | None = None
    metadata: JSON = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class PortiaPlan:
    """A plan as `POST /plans` takes it. `timeout` in active seconds: waiting for people does not count."""

    plan_id: str
    name: str
    steps: list[PortiaStep]
    description: str | None = None
    created_by: str | None = None
    variables: JSON = field(default_factory=dict)
    timeout: float | None = None
    retry_policy: JSON | None = None
    parallel_execution: bool = False
    max_concurrency: int | None = None
    on_failure: str = "stop"
    rollback_steps: list[str] = field(default_factory=list)
    allowed_tools: list[str] = field(default_factory=list)
    metadata: JSON = field(default_factory=dict)

    def to_json(self) -> JSON:
        """The request body."""
        return {**vars(self), "steps": [vars(step) for step in self.steps]}


@dataclass(frozen=True, kw_only=True)
class StoredPlan:
    """A plan as the runtime keeps it; `fingerprint` is the runtime's own hash of the content."""

    plan_id: str
    portia_plan_id: str | None
    fingerprint: str | None
    created_at: datetime | None

    @classmethod
    def from_json(cls, data: JSON) -> StoredPlan:
        """Read what `POST /plans` and `GET /plans/{id}` answer; raises KeyError without an id."""
        return cls(
            plan_id=str(data["plan_id"]),
            portia_plan_id=data.get("portia_plan_id"),
            fingerprint=data.get("fingerprint"),
            created_at=_time(data.get("created_at")),
        )


@dataclass(frozen=True, kw_only=True)
class StepState:
    """How far one step of a remote run is; `id` of nested steps as `loop[2].child`."""

    id: str
    name: str
    type: str
    status: str
    attempts: int
    started_at: datetime | None
    completed_at: datetime | None
    next_attempt_at: datetime | None
    output: Any
    error: Any
    reason: str | None

    @classmethod
    def from_json(cls, data: JSON) -> StepState:
        """Read one element of a run's `steps`; raises KeyError without an id."""
        step_id = str(data.get("id") or data["step_id"])
        return cls(
            id=step_id,
            name=str(data.get("name") or step_id),
            type=str(data.get("type") or "action"),
            status=str(data.get("status") or "pending"),
            attempts=int(data.get("attempts") or 0),
            started_at=_time(data.get("started_at")),
            completed_at=_time(data.get("completed_at")),
            next_attempt_at=_time(data.get("next_attempt_at")),
            output=data.get("output"),
            error=data.get("error"),
            reason=data.get("reason"),
        )


@dataclass(frozen=True, kw_only=True)
class PortiaPlanRun:
    """A remote run. `version` grows with each visible change; `status` is one of the seed's six words or newer."""

    run_id: str
    plan_id: str
    status: str
    paused_reason: str | None
    version: int
    progress: float
    current_step: str | None
    results: JSON
    final_output: Any
    error_message: str | None
    error_details: JSON
    steps: list[StepState]
    pending_clarifications: list[str]
    pause_requested: bool
    rollback: JSON
    started_at: datetime | None
    completed_at: datetime | None

    @classmethod
    def from_json(cls, data: JSON) -> PortiaPlanRun:
        """Read a run; raises KeyError or ValueError where its identity is missing or a number is none."""
        return cls(
            run_id=str(data["run_id"]),
            plan_id=str(data.get("plan_id") or ""),
            status=str(data["status"]),
            paused_reason=data.get("paused_reason"),
            version=int(data.get("version") or 0),
            progress=float(data.get("progress") or 0.0),
            current_step=data.get("current_step"),
            results=dict(data.get("results") or {}),
            final_output=data.get("final_output"),
            error_message=data.get("error_message"),
            error_details=dict(data.get("error_details") or {}),
            steps=[StepState.from_json(step) for step in data.get("steps") or []],
            pending_clarifications=[str(one) for one in data.get("pending_clarifications") or []],
            pause_requested=bool(data.get("pause_requested")),
            rollback=dict(data.get("rollback") or {}),
            started_at=_time(data.get("started_at")),
            completed_at=_time(data.get("completed_at")),
        )


@dataclass(frozen=True, kw_only=True)
class PortiaClarification:
    """A question Portia asks a person; `data` holds what only this category has, besides the named fields."""

    clarification_id: str
    run_id: str
    category: str
    status: str
    resolution: str | None
    title: str
    user_guidance: str
    step_id: str | None
    required_approvers: list[str]
    approval_rules: list[str]
    argument_name: str | None
    options: list[Any]
    action_url: str | None
    response: Any
    action: JSON | None
    action_digest: str | None
    requested_at: datetime | None
    timeout_at: datetime | None
    data: JSON

    @classmethod
    def from_json(cls, data: JSON) -> PortiaClarification:
        """Read a clarification; raises KeyError without its id, run or status."""
        return cls(
            clarification_id=str(data.get("clarification_id") or data["id"]),
            run_id=str(data.get("run_id") or data["plan_run_id"]),
            category=str(data.get("category") or "Custom"),
            status=str(data["status"]),
            resolution=data.get("resolution"),
            title=str(data.get("title") or ""),
            user_guidance=str(data.get("user_guidance") or data.get("description") or ""),
            step_id=data.get("step_id"),
            required_approvers=[str(one) for one in data.get("required_approvers") or []],
            approval_rules=[str(one) for one in data.get("approval_rules") or []],
            argument_name=data.get("argument_name"),
            options=list(data.get("options") or []),
            action_url=data.get("action_url"),
            response=data.get("response"),
            action=data.get("action"),
            action_digest=data.get("action_digest"),
            requested_at=_time(data.get("requested_at")),
            timeout_at=_time(data.get("timeout_at")),
            data=dict(data.get("data") or {}),
        )


@dataclass(frozen=True, kw_only=True)
class Health:
    """What `GET /health` says: which runtime this is and which optional features it has."""

    ok: bool
    runtime: str
    api_version: str
    llm: bool
    capabilities: frozenset[str]

    @classmethod
    def from_json(cls, data: JSON, *, ok: bool) -> Health:
        """Read a health answer; what is missing counts as not there."""
        return cls(
            ok=ok,
            runtime=str(data.get("runtime") or "unknown"),
            api_version=str(data.get("api_version") or "v1"),
            llm=bool(data.get("llm")),
            capabilities=frozenset(str(one) for one in data.get("capabilities") or []),
        )


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A tool the runtime can call; `args_schema` is a JSON Schema, or whatever the runtime gives for one."""

    id: str
    name: str
    description: str
    args_schema: Any

    @classmethod
    def from_json(cls, data: JSON) -> Tool:
        """Read one element of `GET /tools`; raises KeyError without an id."""
        return cls(
            id=str(data["id"]),
            name=str(data.get("name") or data["id"]),
            description=str(data.get("description") or ""),
            args_schema={} if data.get("args_schema") is None else data["args_schema"],
        )


def _time(value: Any) -> datetime | None:
    if not isinstance(value, str) or not value:
        return None
    moment = datetime.fromisoformat(value)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)  # the contract's times are UTC
