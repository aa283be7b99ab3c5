"""`data_validator`: data against a JSON Schema."""

from __future__ import annotations

from itertools import islice

from jsonschema import Draft202012Validator, SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable

from portia_runtime.documents import JSON
from portia_runtime.tools.base import HardError, Tool, ToolCall

MAX_ERRORS = 100


def _validate(call: ToolCall) -> JSON:
    """Invalid data is a result, not a failure; only a bad schema fails. References never leave the schema."""
    schema = call.arguments["schema"]
    try:
        Draft202012Validator.check_schema(schema)
        found = Draft202012Validator(schema, registry=Registry()).iter_errors(call.arguments["data"])
        errors = [{"loc": error.json_path, "msg": error.message[:500]} for error in islice(found, MAX_ERRORS)]
    except SchemaError as error:
        raise HardError(f"schema is not a JSON Schema: {error.message[:500]}") from None
    except (Unresolvable, RecursionError) as error:
        raise HardError(f"schema cannot be applied: {error}"[:500]) from None
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
    idempotent=True,
    timeout=10,
)
