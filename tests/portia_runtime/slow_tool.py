"""A tool that blocks its thread, as real ones do, and says so by no means."""

from __future__ import annotations

import time

from portia_runtime.tools import Tool, ToolCall


def _slow(call: ToolCall) -> dict[str, float]:
    time.sleep(call.arguments["seconds"])
    return {"slept": call.arguments["seconds"]}


slow = Tool(
    id="tests.slow",
    name="Slow",
    description="Blocks.",
    args_schema={"type": "object", "properties": {"seconds": {"type": "number"}}, "required": ["seconds"]},
    run=_slow,
)

blind = Tool(
    id="tests.blind",
    name="Blind",
    description="Gives what is no JSON.",
    args_schema={"type": "object"},
    run=lambda _: {1, 2},
)
