"""The parts of an ExecutablePlan that are no steps, the types its fields have, and what is said of a wrong one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    PlainValidator,
    StringConstraints,
    TypeAdapter,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError, PydanticKnownError

from executions.bounds import LONGEST_NAME, MOST_NAMES

YEAR = 365 * 24 * 3600
DAY = 24 * 3600
LONGEST_QUANTITY = 64
LONGEST_TITLE = 256


@dataclass(frozen=True)
class PlanError:
    """One thing wrong with a document: where (RFC 6901 JSON Pointer), a stable code, and what to do about it."""

    pointer: str
    code: str
    message: str


class PlanInvalid(ValueError):
    """The document is no valid ExecutablePlan; `errors` has every reason, in document order."""

    def __init__(self, errors: list[PlanError]) -> None:
        self.errors = errors
        lines = [f"{error.pointer or '/'}: {error.message} [{error.code}]" for error in errors]
        super().__init__("\n".join([f"The plan has {len(errors)} error(s):", *lines]))


def escaped(name: str) -> str:
    """A name as one part of a JSON Pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def _quantity(value: Any) -> str | float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise PydanticCustomError("wrong_type", "Give a number, or a text such as '500m' or '2Gi'.")
    if isinstance(value, str) and len(value) > LONGEST_QUANTITY:
        raise PydanticKnownError("string_too_long", {"max_length": LONGEST_QUANTITY})
    return value


def _named(value: dict[str, Any]) -> dict[str, Any]:
    if not all(1 <= len(name) <= LONGEST_NAME for name in value):
        raise PydanticCustomError("invalid_name", f"Give every name in here 1 to {LONGEST_NAME} characters.")
    return value


def or_text(kind: Any) -> PlainValidator:
    """Accept `kind`, or a text: a template gives the value when the step runs."""
    adapter, text = TypeAdapter(kind), TypeAdapter(Text)
    return PlainValidator(
        lambda value: (text if isinstance(value, str) else adapter).validate_python(value),
        json_schema_input_type=kind | Text,
    )


Id = Annotated[str, StringConstraints(max_length=256)]  # no valid one is so long: what it is made of is checked later
Title = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_TITLE)]
Text = Annotated[str, StringConstraints(max_length=10_000)]
Seconds = Annotated[float, Field(gt=0, le=YEAR, allow_inf_nan=False)]
Delay = Annotated[float, Field(ge=0, le=DAY, allow_inf_nan=False)]
# Of a list of texts only the first wrong entry is named: half a million of them would take half a gigabyte.
Names = Annotated[list[Title], Field(max_length=1000), FailFast()]
_OF_NAMES = Field(
    max_length=MOST_NAMES, json_schema_extra={"propertyNames": {"minLength": 1, "maxLength": LONGEST_NAME}}
)
Values = Annotated[dict[str, Any], _OF_NAMES, AfterValidator(_named)]
Texts = Annotated[dict[str, Text], _OF_NAMES, AfterValidator(_named)]
Quantity = Annotated[
    Any, PlainValidator(_quantity, json_schema_input_type=Annotated[str, Field(max_length=LONGEST_QUANTITY)] | float)
]
Category = Literal["Action", "Input", "Multiple Choice", "Value Confirmation", "User Verification", "Custom"]
OnFailure = Literal["stop", "continue", "rollback"]


class Part(BaseModel):
    """A part of the document; a field that is null counts as left out. None has more than MOST_NAMES fields."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", json_schema_extra={"maxProperties": MOST_NAMES})

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if len(data) > MOST_NAMES:
            raise PydanticKnownError(
                "too_long", {"field_type": "Object", "max_length": MOST_NAMES, "actual_length": len(data)}
            )
        return {key: value for key, value in data.items() if value is not None} if None in data.values() else data


class _Delays(Part):
    initial_delay: Delay = 1.0
    max_delay: Delay = 60.0
    exponential_base: Annotated[float, Field(ge=1, le=100, allow_inf_nan=False)] = 2.0
    jitter: bool = True

    @field_validator("max_delay")
    @classmethod
    def _not_below_the_first(cls, value: float, info: ValidationInfo) -> float:
        if value < info.data.get("initial_delay", 0.0):
            raise PydanticCustomError("out_of_range", "Set max_delay to at least initial_delay.")
        return value


class Backoff(_Delays):
    """The nested spelling of a RetryPolicy's delays, in seconds."""

    strategy: Literal["exponential", "fixed"] = "exponential"


class RetryPolicy(_Delays):
    """How often something is tried, and how long between: seconds. `backoff`, where given, wins over the flat delays."""

    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    backoff: Backoff | None = None

    def flat(self) -> dict[str, Any]:
        """All five numbers in the flat spelling, defaults filled in."""
        delays = self.backoff or self
        base = 1.0 if self.backoff and self.backoff.strategy == "fixed" else delays.exponential_base
        return {
            "max_attempts": self.max_attempts,
            "initial_delay": delays.initial_delay,
            "max_delay": max(delays.max_delay, delays.initial_delay),
            "exponential_base": base,
            "jitter": delays.jitter,
        }


class Approval(Part):
    """What a person is asked before a step runs. `timeout` in seconds; names of people, groups and rules are the bridge's."""

    title: Title | None = None
    message: Text | None = None
    required_approvers: Names = []
    approval_rules: Names = []
    timeout: Seconds | None = None


class ResourceRequirements(Part):
    """What the Plan Compiler asks of the place a plan runs in. `timeout` in seconds."""

    cpu: Quantity | None = None
    memory: Quantity | None = None
    storage: Quantity | None = None
    network_access: bool | None = None
    external_services: Names = []
    runtime: Title | None = None
    capabilities: Names = []
    timeout: Seconds | None = None


class SecurityContext(Part):
    """What a plan may do and who must agree. An empty `allowed_tools` restricts nothing here; the tenant's list still does.

    `fresh_capability_after_wait`: a run that outlives its token while people decide goes on only with a fresh one.
    """

    allowed_tools: Names = []
    required_capabilities: Names = []
    policy_refs: Names = []
    requires_approval: bool = False
    approval_rules: Names = []
    data_classification: Title | None = None
    pii_handling: Title | None = None
    fresh_capability_after_wait: bool = False


class Configuration(Part):
    """Settings of the run: `timeout` in active seconds, the steps' default `retry_policy`, and what else the compiler adds."""

    model_config = ConfigDict(extra="allow")

    timeout: Seconds | None = None
    retry_policy: RetryPolicy | None = None
