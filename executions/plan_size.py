"""Is the document of a plan small enough to be looked at? Asked first, and cheap: whatever comes after costs more.

A plan may be refused with hundreds of errors; a document that is out of all bounds is refused for that alone.
"""

from __future__ import annotations

from typing import Any

from executions.bounds import excess
from executions.plan_model import BODIES, MAX_STEPS
from executions.plan_parts import PlanError, escaped

DEEPEST_PLAN = 96  # levels: steps 8 deep take up to 30, and the values in them 64
TOO_MANY_STEPS = f"The plan has more than {MAX_STEPS} steps; split it into several plans."


def oversize(document: dict[str, Any]) -> PlanError | None:
    """What makes the document far too large: steps twice as many as may be, too many levels, or a name too long."""
    if _written_steps(document) > 2 * MAX_STEPS:
        return PlanError("/flows", "too_many_steps", TOO_MANY_STEPS)
    found = excess(document, levels=DEEPEST_PLAN)
    if found is None:
        return None
    path, code, message = found
    return PlanError("".join(f"/{escaped(str(part))}" for part in path), code, message)


def _written_steps(document: dict[str, Any]) -> int:
    """Entries of all lists of steps, at any depth, whether they are steps or not."""
    flows = document.get("flows")
    lists = [flow.get("steps") for flow in flows if isinstance(flow, dict)] if isinstance(flows, list) else []
    count = 0
    for steps in lists:  # which grows on the way
        if isinstance(steps, list):
            count += len(steps)
            lists += [nested for step in steps if isinstance(step, dict) for nested in _nested(step)]
    return count


def _nested(step: dict[str, Any]) -> list[Any]:
    kind, parameters = step.get("step_type"), step.get("parameters")
    if not isinstance(kind, str) or kind not in BODIES or not isinstance(parameters, dict):
        return []
    return [parameters.get(key) for key in BODIES[kind]]
