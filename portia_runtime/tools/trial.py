"""Tools for trying plans out: echo, fail and wait."""

from __future__ import annotations

from typing import Any

from django.utils import timezone

from portia_runtime.documents import JSON
from portia_runtime.tools.base import HardError, NotYet, SoftError, Tool, ToolCall


def _echo(call: ToolCall) -> JSON:
    return call.arguments


def _fail(call: ToolCall) -> JSON:
    """Fail the first `times` attempts (all, unless given)."""
    times: Any = call.arguments.get("times")
    if times is not None and call.attempt > times:
        return {"success": True, "attempts": call.attempt}
    kind = HardError if call.arguments.get("hard") else SoftError
    raise kind(call.arguments.get("message") or "failed as asked")


def _wait(call: ToolCall) -> JSON:
    """Done once `seconds` have passed since the step began; until then no thread is held."""
    seconds = float(call.arguments["seconds"])
    left = seconds - (timezone.now() - call.started_at).total_seconds()
    if left > 0:
        raise NotYet(left)
    return {"waited_seconds": seconds}


echo = Tool(
    id="echo",
    name="Echo",
    description="Gives its arguments back.",
    args_schema={"type": "object"},
    run=_echo,
    idempotent=True,
    is_quick=True,
)

fail = Tool(
    id="fail",
    name="Fail",
    description="Fails: always, or only the first `times` attempts; `hard` failures are never tried again.",
    args_schema={
        "type": "object",
        "properties": {
            "message": {"type": "string"},
            "times": {"type": "integer", "minimum": 0},
            "hard": {"type": "boolean"},
        },
        "additionalProperties": False,
    },
    run=_fail,
    idempotent=True,
    is_quick=True,
)

wait = Tool(
    id="wait",
    name="Wait",
    description="Waits so many seconds. The wake-up time is stored: it survives a restart and holds no worker.",
    args_schema={
        "type": "object",
        "properties": {"seconds": {"type": "number", "minimum": 0, "maximum": 31_536_000}},
        "required": ["seconds"],
        "additionalProperties": False,
    },
    run=_wait,
    idempotent=True,
    is_quick=True,
)
