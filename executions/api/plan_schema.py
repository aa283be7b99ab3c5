"""The ExecutablePlan in the OpenAPI document: made from the models that check one, so that it promises what they take.

It says what one field alone can tell. What needs a look at others (references, cycles, allowed tools) is beyond a JSON Schema
and is refused with 422 `invalid-plan`; docs/reference/executable-plan.md has all of it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from executions.canonical_json import DIGEST_PATTERN
from executions.expressions import STEP_ID
from executions.plan_model import STEP_TYPES, ExecutablePlan

NAME = "ExecutablePlan"
PREFIX = "Plan"  # of the components that are parts of it
DESCRIPTION = "What is to be run: flows of steps, and what they need. docs/reference/executable-plan.md"
PARAMETERS = "Of an action: the tool's arguments; of the other types: what they are made of, nested steps among it."
PLAN_SCHEMA = {"$ref": f"#/components/schemas/{NAME}"}
Schema = dict[str, Any]


@cache
def plan_components() -> dict[str, Schema]:
    """The plan and its parts as named schemas that refer to each other below `#/components/schemas/`."""
    _, made = models_json_schema(
        [(ExecutablePlan, "validation")],
        ref_template=f"#/components/schemas/{PREFIX}{{model}}",
        schema_generator=_WithoutTitles,
    )
    parts = {f"{PREFIX}{name}": _nullable(schema) for name, schema in made["$defs"].items()}
    _narrow(parts[f"{PREFIX}Step"], parts[f"{PREFIX}Flow"], parts[f"{PREFIX}{NAME}"])
    plan = parts.pop(f"{PREFIX}{NAME}")
    return {NAME: plan | {"description": DESCRIPTION}, **parts}


class _WithoutTitles(GenerateJsonSchema):
    """Leaves out titles: each would only repeat the name of its field."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never."""
        return False


def _nullable(schema: Schema) -> Schema:
    """Let every field that may be left out be null, which means the same; keep only defaults that are plain values."""
    schema = {key: value for key, value in schema.items() if key != "title"}
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        if not isinstance(field.get("default"), str | int | float):
            field.pop("default", None)
        if name not in required:
            schema["properties"][name] = _or_null(field)
    return schema


def _or_null(field: Schema) -> Schema:
    choices = [one for one in field.pop("anyOf", ()) if one != {"type": "null"}]
    if len(choices) == 1:
        field, choices = choices[0] | field, []
    if choices or "$ref" in field:
        ref = {"$ref": field.pop("$ref")} if "$ref" in field else None
        return {**field, "anyOf": [*choices, *([ref] if ref else []), {"type": "null"}]}
    if "enum" in field:
        field["enum"] = [*field["enum"], None]
    return {**field, "type": [field["type"], "null"]} if "type" in field else field


def _narrow(step: Schema, flow: Schema, plan: Schema) -> None:
    """Say what is checked across fields, with a sentence of its own, but can be seen in one."""
    is_id = {"pattern": f"^{STEP_ID.pattern}$"}
    step["properties"]["step_id"] |= is_id
    step["properties"]["step_type"] = {"type": "string", "enum": list(STEP_TYPES)}
    step["properties"]["parameters"]["description"] = PARAMETERS
    flow["properties"]["flow_id"] |= is_id
    plan["properties"]["plan_hash"] = {
        "type": ["string", "null"],
        "pattern": f"^{DIGEST_PATTERN}$",
        "description": "Hex SHA-256 of the content; computed where it is left out, and compared where it is not.",
    }
