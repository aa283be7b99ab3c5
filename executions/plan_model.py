"""The ExecutablePlan as frozen pydantic models: which fields there are, their types and ranges.

What one field alone can tell is checked here; what needs a look at others (references, cycles, allowed tools) is in
plan_checks. The meaning of every field is in docs/reference/executable-plan.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    FailFast,
    Field,
    PlainValidator,
    StringConstraints,
    TypeAdapter,
    ValidationInfo,
    field_validator,
)

from executions.bounds import MOST_NAMES
from executions.expressions import MAX_EXPRESSION
from executions.plan_parts import (
    Approval,
    Category,
    Configuration,
    Id,
    Names,
    OnFailure,
    Part,
    ResourceRequirements,
    RetryPolicy,
    Seconds,
    SecurityContext,
    Text,
    Texts,
    Title,
    Values,
    or_text,
)

MAX_STEPS = 5000
MAX_STEP_DEPTH = 8
MAX_ROUNDS = 100_000  # of a loop
STEP_TYPES = ("action", "approval", "condition", "exit", "loop", "parallel", "sequence", "user_input", "agent", "llm")
LLM_TYPES = frozenset({"agent", "llm"})


def _step_or_id(value: Any) -> Step | str:
    return (_ID if isinstance(value, str) else _STEP).validate_python(value)


StepOrId = Annotated[Any, PlainValidator(_step_or_id, json_schema_input_type="Step | Id")]
Condition = Annotated[str, Field(json_schema_extra={"maxLength": MAX_EXPRESSION})]  # which plan_references looks at
Ids = Annotated[list[Id], Field(max_length=MAX_STEPS), FailFast()]


class Step(Part):
    """One step. In `parameters` of a loop, parallel, sequence or condition, nested steps are Step objects too."""

    step_id: Id
    name: Title | None = None
    description: Text | None = None
    step_type: Id
    action: Title | None = None
    tool: Title | None = None
    parameters: Values = {}
    inputs: Texts = {}
    outputs: Texts = {}
    depends_on: Ids = []
    conditions: Annotated[list[Condition], Field(max_length=50), FailFast()] = []
    retry_policy: RetryPolicy | None = None
    timeout: Seconds | None = None
    on_failure: Literal["stop", "continue"] | None = None
    approval: Approval | None = None
    metadata: Values = {}
    tags: Names = []

    @field_validator("parameters")
    @classmethod
    def _by_type(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        # A ValidationError raised in here keeps its own locations and gets this field's in front.
        step_type = info.data.get("step_type", "")
        if step_type in PARAMETERS:
            checked = PARAMETERS[step_type].model_validate(value)
            value = {key: one for key, one in value.items() if one is not None}
            return value | {key: getattr(checked, _attribute(key)) for key in BODIES.get(step_type, {}) if key in value}
        return value

    def branches(self) -> Iterator[tuple[str, list[tuple[str, Step]]]]:
        """The nested steps by parameter name, each with its pointer below this step."""
        for key in BODIES.get(self.step_type, {}):
            entries = enumerate(self.parameters.get(key, ()))
            yield key, [(f"/parameters/{key}/{index}", one) for index, one in entries if isinstance(one, Step)]

    def branch_ids(self) -> Iterator[tuple[str, str]]:
        """(pointer below this step, step id) of the steps beside it which a condition starts by their ids."""
        for key in BODIES.get(self.step_type, {}):
            for index, one in enumerate(self.parameters.get(key, ())):
                if isinstance(one, str):
                    yield f"/parameters/{key}/{index}", one

    def called_flows(self) -> Iterator[tuple[str, str, str]]:
        """(parameter that names it, parameter it stands for, flow id) of every flow that runs as nested steps."""
        for body, key in BODIES.get(self.step_type, {}).items():
            if key in self.parameters:
                yield key, body, self.parameters[key]

    @property
    def called_tool(self) -> str | None:
        """The tool this step calls: an action's own, or the one a loop calls for each item."""
        return self.parameters.get("tool") if self.step_type == "loop" else self.tool


class _Parameters(Part):
    model_config = ConfigDict(extra="allow")


class GroupParameters(_Parameters):
    """Of a parallel or sequence step: its own steps, or the flow whose steps they are."""

    steps: Annotated[list[Step], Field(max_length=MAX_STEPS)] = []
    flow: Id | None = None


class LoopParameters(GroupParameters):
    """Of a loop: what it goes over, and its body: `steps`, a `flow`, or a `tool` with `arguments`."""

    over: Annotated[list[Any] | str, or_text(Annotated[list[Any], Field(max_length=MAX_ROUNDS)])] = []
    times: Annotated[int | str, or_text(Annotated[int, Field(strict=True, ge=0, le=MAX_ROUNDS)])] = 0
    while_: Condition = Field(default="", alias="while")
    item: Annotated[str, StringConstraints(max_length=64)] = "item"
    tool: Title | None = None
    arguments: Values = {}
    max_iterations: Annotated[int, Field(ge=1, le=MAX_ROUNDS)] = 1000
    parallel: bool = False


class ConditionParameters(_Parameters):
    """Of a condition: a CEL expression, and what runs if it is true (then) or false (else)."""

    expression: Condition
    then: Annotated[list[StepOrId], Field(max_length=MAX_STEPS)] = []
    else_: Annotated[list[StepOrId], Field(max_length=MAX_STEPS)] = Field(default=[], alias="else")
    then_flow: Id | None = None
    else_flow: Id | None = None


class UserInputParameters(_Parameters):
    """Of a user_input: the question, its category, and the answers to choose from if not every answer will do."""

    message: Text
    category: Category | None = None
    options: Annotated[list[Any] | str, or_text(Annotated[list[Any], Field(min_length=1, max_length=200)])] = ""
    timeout: Seconds | None = None
    schema_: Annotated[dict[str, Any], Field(max_length=MOST_NAMES)] = Field(default={}, alias="schema")
    data: Values = {}


class ApprovalParameters(Approval):
    """Of an approval step: the same words as in `approval`, and whatever else the person should see."""

    model_config = ConfigDict(extra="allow")


class ExitParameters(_Parameters):
    """Of an exit: the last words, and whether the run ends as failed."""

    message: Text = ""
    error: Annotated[bool | str, or_text(Annotated[bool, Field(strict=True)])] = False


PARAMETERS: dict[str, type[Part]] = {
    "loop": LoopParameters,
    "parallel": GroupParameters,
    "sequence": GroupParameters,
    "condition": ConditionParameters,
    "user_input": UserInputParameters,
    "approval": ApprovalParameters,
    "exit": ExitParameters,
}
# The parameters that hold nested steps, and those that name a flow in their place.
BODIES = {
    "loop": {"steps": "flow"},
    "parallel": {"steps": "flow"},
    "sequence": {"steps": "flow"},
    "condition": {"then": "then_flow", "else": "else_flow"},
}
_STEP = TypeAdapter(Step)
_ID = TypeAdapter(Id)


def _attribute(parameter: str) -> str:
    return "else_" if parameter == "else" else parameter


class Flow(Part):
    """Steps that run together; the main flow runs first, others run where a step names them."""

    flow_id: Id
    name: Title | None = None
    description: Text | None = None
    steps: Annotated[list[Step], Field(min_length=1, max_length=MAX_STEPS)]
    parallel_execution: bool = False
    max_concurrency: Annotated[int, Field(ge=1, le=1000)] | None = None
    on_failure: OnFailure = "stop"
    rollback_steps: Ids = []
    metadata: Values = {}

    def every_step(self, pointer: str = "") -> Iterator[tuple[str, Step]]:
        """Every step with its JSON Pointer below `pointer`, nested and rollback steps too, parents before children."""
        for index, step in enumerate(self.steps):
            place = f"{pointer}/steps/{index}"
            yield place, step
            if step.step_type in BODIES:
                yield from _walk(place, step)


class ExecutablePlan(Part):
    """A valid plan; `plan_hash` is always there, computed. Only plan_document.parse makes one."""

    plan_id: Title | None = None
    plan_hash: str = ""
    tenant_id: Title | None = None
    name: Title
    version: Annotated[str, StringConstraints(min_length=1, max_length=64)] = "1.0.0"
    description: Text | None = None
    flows: Annotated[list[Flow], Field(min_length=1, max_length=500)]
    main_flow: Id
    resource_requirements: ResourceRequirements = ResourceRequirements()
    security_context: SecurityContext = SecurityContext()
    metadata: Values = {}
    configuration: Configuration = Configuration()
    variables: Values = {}

    @property
    def main(self) -> Flow:
        """The flow that runs first."""
        return self.flow(self.main_flow)

    def flow(self, flow_id: str) -> Flow:
        """The flow with this id; raises KeyError."""
        for flow in self.flows:
            if flow.flow_id == flow_id:
                return flow
        raise KeyError(flow_id)

    def every_step(self) -> Iterator[tuple[str, Step]]:
        """Every step with its JSON Pointer: all flows, nested and rollback steps too, parents before children."""
        for index, flow in enumerate(self.flows):
            yield from flow.every_step(f"/flows/{index}")

    def tools(self) -> set[str]:
        """The ids of all tools that any step may call."""
        return {step.called_tool for _, step in self.every_step() if step.called_tool}

    @property
    def needs_llm(self) -> bool:
        """Whether a step is of a type that only a runtime whose health says `llm` can run."""
        return any(step.step_type in LLM_TYPES for _, step in self.every_step())


def _walk(pointer: str, step: Step) -> Iterator[tuple[str, Step]]:
    for _, children in step.branches():
        for below, child in children:
            yield pointer + below, child
            yield from _walk(pointer + below, child)
