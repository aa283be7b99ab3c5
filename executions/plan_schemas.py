"""The JSON Schemas in a plan: of the answers to its questions, and those that `data_validator` is called with.

A schema with templates in it is looked at when their values are known: then the step fails with the same words.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from executions.expressions import templates
from executions.plan_levels import Level
from executions.plan_model import Step
from executions.plan_parts import PlanError, escaped
from safe_json_schema import flaws, time_limit

SECONDS = 1.0  # of CPU, for all schemas of a plan
VALIDATOR = "data_validator"


def check_schemas(found: list[Level]) -> list[PlanError]:
    """Every error in the schemas of a plan; `found` are its levels."""
    with time_limit(SECONDS):
        return [error for level in found for pointer, step in level.steps for error in _step_errors(step, pointer)]


def _step_errors(step: Step, pointer: str) -> Iterator[PlanError]:
    for below, schema in _schemas(step):
        if not _has_template(schema):
            for path, message in flaws(schema):
                where = "".join(f"/{escaped(str(part))}" for part in path)
                yield PlanError(f"{pointer}/parameters{below}{where}", "invalid_schema", message)


def _schemas(step: Step) -> Iterator[tuple[str, Any]]:
    """The schemas of a step that are there, each with its pointer below the parameters."""
    given = step.parameters
    if step.step_type == "user_input":
        places = {"/schema": given.get("schema"), "/data/schema": (given.get("data") or {}).get("schema")}
    elif step.called_tool == VALIDATOR:
        is_loop = step.step_type == "loop"
        arguments, below = (given.get("arguments", {}), "/arguments") if is_loop else (given, "")
        places = {f"{below}/schema": arguments.get("schema")}
    else:
        return
    yield from ((below, schema) for below, schema in places.items() if schema is not None)


def _has_template(value: Any) -> bool:
    if isinstance(value, str):
        return any(path for _, path in templates(value))
    if isinstance(value, dict):
        return any(map(_has_template, value.values()))
    return isinstance(value, list) and any(map(_has_template, value))
