"""A plan as the engine works with it: parsed, typed, and immutable (contract section 4).

`plan_checks.read` makes a PlanSpec from the JSON document and finds everything that is wrong with it.
"""

from __future__ import annotations

import heapq
import random
import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from portia_runtime.expressions import Expression

Seconds = Annotated[float, Field(gt=0, le=31_536_000)]
StepId = Annotated[str, Field(pattern=r"^[^\s.\[\]{}$\"'\x00]+$", min_length=1, max_length=128)]
Category = Literal["Input", "Multiple Choice", "Action", "Value Confirmation", "User Verification", "Custom"]


class Document(BaseModel):
    """Base of what is read from outside: unknown fields are ignored, a null counts as left out."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data


class Backoff(Document):
    """How long to wait before the next attempt."""

    strategy: Literal["exponential", "linear", "fixed", "constant"] = "exponential"
    initial_delay: float = Field(1.0, ge=0, le=86_400)
    max_delay: float = Field(60.0, ge=0, le=86_400)
    base: float = Field(2.0, ge=1, le=100, validation_alias=AliasChoices("exponential_base", "multiplier", "base"))
    jitter: bool = True

    def delay(self, attempt: int) -> float:
        """Seconds after the failed attempt (1 = the first); jitter takes away up to a half."""
        growth = {"exponential": self.base ** min(attempt - 1, 64), "linear": float(attempt)}.get(self.strategy, 1.0)
        delay = min(self.initial_delay * growth, self.max_delay)
        return delay * random.uniform(0.5, 1.0) if self.jitter else delay  # noqa: S311


class Retry(Document):
    """A retry policy in either of its shapes: flat, or with the delays under `backoff`."""

    max_attempts: int = Field(1, ge=1, le=100)
    backoff: Backoff = Backoff()

    @model_validator(mode="before")
    @classmethod
    def _nest(cls, data: Any) -> Any:
        if isinstance(data, dict) and "backoff" not in data:
            return {**data, "backoff": {key: value for key, value in data.items() if key != "max_attempts"}}
        return data


class Approval(Document):
    """Who is asked before a tool is called, and for how long."""

    title: str = ""
    message: str = ""
    required_approvers: list[str] = []
    approval_rules: list[str] = []
    timeout: Seconds | None = None


class StepDocument(Document):
    """The fields every step has, whatever its type."""

    id: StepId
    name: str = ""
    description: str = ""
    type: str = "action"
    tool: str = ""
    action: str = ""
    parameters: dict[str, Any] = {}
    inputs: dict[str, Any] = {}
    outputs: dict[str, str] = {}
    depends_on: list[str] = []
    conditions: list[str] = []
    retry: Retry | None = None
    timeout: Seconds | None = None
    on_failure: Literal["stop", "fail", "continue", "rollback"] = "stop"
    approval: Approval | None = None
    metadata: dict[str, Any] = {}
    tags: list[str] = []


class PlanDocument(Document):
    """The fields of a plan; its steps are read one by one."""

    plan_id: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00]*$")]
    name: str = ""
    variables: dict[str, Any] = {}
    timeout: Seconds | None = None
    retry_policy: Retry = Retry()
    parallel_execution: bool = False
    max_concurrency: int | None = Field(None, ge=1, le=1_000)
    on_failure: Literal["stop", "continue", "rollback"] = "stop"
    rollback_steps: list[str] = []
    allowed_tools: list[str] = []
    metadata: dict[str, Any] = {}
    steps: list[Any] = Field(min_length=1)


class ConditionParameters(Document):
    """`then` and `else` name other top-level steps or hold steps of their own."""

    expression: str
    then: list[Any] = []
    otherwise: list[Any] = Field([], validation_alias="else")


class LoopParameters(Document):
    """Exactly one of over, times, while; either `steps` or one `tool` with its `arguments`."""

    over: Any = None
    times: int | str | None = None
    condition: str | None = Field(None, validation_alias="while")
    item: StepId = "item"
    steps: list[Any] = []
    tool: str = ""
    arguments: dict[str, Any] = {}
    max_iterations: int = Field(1_000, ge=1, le=100_000)
    parallel: bool = False


class GroupParameters(Document):
    """The steps of a `parallel` or `sequence` step."""

    steps: list[Any] = Field(min_length=1)


class ApprovalParameters(Document):
    """What an approval step asks when it has no `approval` block."""

    title: str = ""
    message: str = ""
    required_approvers: list[str] | str = []
    approval_rules: list[str] | str = []
    timeout: Seconds | None = None


class QuestionParameters(Document):
    """What a user_input step asks; each category has fields of its own."""

    category: Category | None = None
    title: str = ""
    message: str = ""
    options: list[Any] | str = []
    timeout: Seconds | None = None
    argument_name: str = ""
    action_url: str = ""
    require_confirmation: bool = False
    value: Any = None
    schema_: dict[str, Any] = Field({}, validation_alias="schema")
    data: dict[str, Any] = {}
    required_approvers: list[str] | str = []
    approval_rules: list[str] | str = []

    @property
    def schemas(self) -> dict[str, Any]:
        """The schemas for the answer by their places; the first wins."""
        places = {"schema": self.schema_, "data.schema": self.data.get("schema")}
        return {place: schema for place, schema in places.items() if schema not in ({}, None)}


class ExitParameters(Document):
    """How the run ends here: failed when `error` is true."""

    message: str = ""
    error: bool | str = False


@dataclass(frozen=True, kw_only=True, eq=False)
class StepSpec:
    """A step ready to run. `children` are the steps inside it, `otherwise` those of a condition's other branch;

    `gates` are the (condition id, branch) pairs of which one must hold for a step that conditions name.
    """

    document: StepDocument
    names: frozenset[str]
    retry: Retry
    conditions: tuple[Expression, ...] = ()
    settings: Any = None
    expression: Expression | None = None
    children: tuple[StepSpec, ...] = ()
    otherwise: tuple[StepSpec, ...] = ()
    gates: list[tuple[str, bool]] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The step's id among its siblings."""
        return self.document.id

    @property
    def type(self) -> str:
        """One of the types of the contract."""
        return self.document.type

    @property
    def name(self) -> str:
        """What a person reads."""
        return self.document.name or self.document.id

    @property
    def waits_for(self) -> list[str]:
        """The siblings that must have ended before this step."""
        return [*self.document.depends_on, *(condition for condition, _ in self.gates)]

    @property
    def is_tolerated(self) -> bool:
        """Whether the run goes on when this step fails."""
        return self.document.on_failure == "continue"


@dataclass(frozen=True, kw_only=True, eq=False)
class PlanSpec:
    """A plan ready to run: `flow` in the order of execution, `rollback` the steps that only a failure runs."""

    document: PlanDocument
    steps: tuple[StepSpec, ...]

    def __post_init__(self) -> None:
        undo = frozenset(self.document.rollback_steps)
        object.__setattr__(self, "undo", undo)
        object.__setattr__(self, "flow", in_order([step for step in self.steps if step.id not in undo]))
        object.__setattr__(self, "rollback", [step for step in self.steps if step.id in undo])
        object.__setattr__(self, "position", {step.id: number for number, step in enumerate(self.steps)})

    undo: frozenset[str] = field(init=False)
    flow: list[StepSpec] = field(init=False)
    rollback: list[StepSpec] = field(init=False)
    position: dict[str, int] = field(init=False)

    @property
    def max_concurrency(self) -> int:
        """How many tools of one run may be called at once."""
        return self.document.max_concurrency or 16

    def at(self, path: str) -> StepSpec:
        """The step at a path such as `loop[2].child`. Raises StopIteration when the plan has none there."""
        first, *rest = re.sub(r"\[\d+\]", "", path).split(".")
        step = self.steps[self.position[first]]
        for name in rest:
            step = next(child for child in (*step.children, *step.otherwise) if child.id == name)
        return step


def in_order(steps: list[StepSpec]) -> list[StepSpec]:
    """The steps as listed, except that each comes after what it waits for; those in a cycle are left out."""
    index = {step.id: number for number, step in enumerate(steps)}
    open_needs = {step.id: {need for need in step.waits_for if need in index} for step in steps}
    followers: dict[str, list[str]] = {}
    for step_id, needs in open_needs.items():
        for need in needs:
            followers.setdefault(need, []).append(step_id)
    ready = [index[step_id] for step_id, needs in open_needs.items() if not needs]
    ordered = []
    while ready:
        step = steps[heapq.heappop(ready)]
        ordered.append(step)
        for follower in followers.get(step.id, []):
            open_needs[follower].discard(step.id)
            if not open_needs[follower]:
                heapq.heappush(ready, index[follower])
    return ordered
