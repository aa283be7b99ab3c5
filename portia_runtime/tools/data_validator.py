"""`data_validator`: data against a JSON Schema."""

from __future__ import annotations

from portia_runtime.documents import JSON
from portia_runtime.tools.base import HardError, Tool, ToolCall
from safe_json_schema import UnusableSchema, misfits, time_limit

SECONDS = 5.0  # of CPU


def _validate(call: ToolCall) -> JSON:
    """Invalid data is a result, not a failure; only a bad schema fails. References never leave the schema."""
    try:
        with time_limit(SECONDS):
            found = misfits(call.arguments["schema"], call.arguments["data"])
    except UnusableSchema as error:
        raise HardError(f"schema cannot be applied: {error}") from None
    errors = [{"loc": error.json_path, "msg": error.message[:500]} for error in found]
    return {"success": not errors, "errors": errors}


data_validator = Tool(
    id="data_validator",
    name="Data validator",
    description="Checks data against a JSON Schema (2020-12) and gives success and errors.",
    args_schema={
        "type": "object",
        "properties": {"data": {}, "schema": {"type": ["object", "boolean"]}},
        "required": ["data", "schema"],
    },
    run=_validate,
    schema_arguments=frozenset({"schema"}),
    idempotent=True,
    timeout=10,
)
