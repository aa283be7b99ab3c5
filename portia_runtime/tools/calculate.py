"""`calculate`: a CEL expression over values."""

from __future__ import annotations

from portia_runtime.documents import JSON, DocumentError, check_storable
from portia_runtime.expressions import ExpressionError, compiled
from portia_runtime.tools.base import HardError, Tool, ToolCall


def _calculate(call: ToolCall) -> JSON:
    values = dict(call.arguments.get("values") or {})
    names = frozenset(values) | {"values"}
    try:
        result = compiled(call.arguments["expression"], names).value({**values, "values": values})
        check_storable(result)
    except (ExpressionError, DocumentError) as error:
        raise HardError(f"expression {error}") from None
    return {"result": result}


calculate = Tool(
    id="calculate",
    name="Calculate",
    description="Evaluates a CEL expression; each member of `values` is a name in it.",
    args_schema={
        "type": "object",
        "properties": {"expression": {"type": "string", "maxLength": 2000}, "values": {"type": "object"}},
        "required": ["expression"],
        "additionalProperties": False,
    },
    run=_calculate,
    idempotent=True,
    is_quick=True,
    raw_arguments=frozenset({"expression"}),
)
