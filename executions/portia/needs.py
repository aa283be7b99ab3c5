"""What a plan needs of a runtime beyond the ordinary, and what a runtime says it has. Pure.

The names are those of the contract's optional capabilities (docs/reference/portia-runtime.md); of those that are no matter of
plans, such as `long_poll`, nothing is said here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from executions.argument_schemas import ArgumentSchema
from executions.plan_model import BODIES, LLM_TYPES
from executions.portia.wire import JSON, PortiaPlan

QUESTIONS = frozenset({"approval", "user_input"})
OF_STEP_TYPES = {"condition": "conditions", "loop": "loops", "parallel": "parallel", **dict.fromkeys(LLM_TYPES, "llm")}

Way = tuple[str | int, ...]  # through a plan's JSON, as in ("steps", 3, "parameters", "then", 0)


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """What is known of the runtime, as of some seconds ago; `tools` and `capabilities` are None where it does not say.

    `schemas` has the arguments of the tools that say which they take; None where what they say cannot be used.
    """

    answers: bool = False
    kind: str | None = None
    tools: frozenset[str] | None = None
    capabilities: frozenset[str] | None = None
    schemas: Mapping[str, ArgumentSchema | None] = field(default_factory=dict, hash=False)


UNKNOWN = Runtime()


def needs(plan: PortiaPlan) -> frozenset[str]:
    """The optional capabilities that this plan makes use of."""
    return frozenset(name for _, name in needing(plan))


def needing(plan: PortiaPlan) -> Iterator[tuple[Way, str]]:
    """Each use of an optional capability: the way to the plan's field or to the step, and the capability's name."""
    if plan.timeout is not None:
        yield ("timeout",), "run_timeout"
    if _tries_again(plan.retry_policy):
        yield ("retry_policy",), "retry"
    if plan.parallel_execution:
        yield ("parallel_execution",), "parallel"
    if plan.on_failure == "rollback":
        yield ("on_failure",), "rollback"
    for way, step in every_step(plan):
        for name in _of_step(step):
            yield way, name


def every_step(plan: PortiaPlan) -> Iterator[tuple[Way, JSON]]:
    """Every step with the way to it, nested ones too, parents before children."""
    for index, step in enumerate(plan.steps):
        yield from _with_nested(("steps", index), vars(step))


def nested(step: JSON) -> Iterator[tuple[str, list[tuple[Way, JSON]]]]:
    """The steps inside a step by the parameter that holds them, each with the way to it from there; ids are left out."""
    for key in BODIES.get(step["type"], ()):
        entries = enumerate(step["parameters"].get(key) or ())
        yield key, [(("parameters", key, index), one) for index, one in entries if isinstance(one, dict)]


def _with_nested(way: Way, step: JSON) -> Iterator[tuple[Way, JSON]]:
    yield way, step
    for _, children in nested(step):
        for below, child in children:
            yield from _with_nested(way + below, child)


def _of_step(step: JSON) -> Iterator[str]:
    is_question = step["type"] in QUESTIONS
    if step["type"] in OF_STEP_TYPES:
        yield OF_STEP_TYPES[step["type"]]
    if step["type"] == "loop" and step["parameters"].get("parallel"):
        yield "parallel"
    if step["conditions"]:
        yield "conditions"
    if _tries_again(step["retry"]):
        yield "retry"
    if step["timeout"] is not None and not is_question:
        yield "step_timeout"
    if time_to_answer(step) is not None:
        yield "clarification_timeout"


def time_to_answer(step: JSON) -> float | None:
    """The seconds a person has to answer what this step asks, where it asks something and sets a time."""
    own = step["parameters"].get("timeout") if step["type"] == "user_input" else (step["approval"] or {}).get("timeout")
    if own is None and step["type"] in QUESTIONS:
        return step["timeout"]
    return own


def _tries_again(policy: dict[str, Any] | None) -> bool:
    return bool(policy) and policy is not None and policy["max_attempts"] > 1
