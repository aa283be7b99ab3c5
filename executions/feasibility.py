"""Can the Portia Runtime run this plan? Its tools, what these take, and its optional capabilities against what every step needs.

What the runtime does not say, or cannot say just now, is not held against a plan: the runtime itself refuses it then.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from executions.errors import InvalidPlan
from executions.plan_document import ExecutablePlan
from executions.plan_model import BODIES
from executions.portia.needs import Runtime, Way, needing
from executions.portia.wire import PortiaPlan
from executions.tool_arguments import check_arguments

AT = "/executable_plan"
FIXES = {
    "parallel": "let the steps run one after the other",
    "retry": "leave the retry policy out, or set max_attempts to 1",
    "step_timeout": "leave the step's timeout out",
    "run_timeout": "leave the run's timeout out",
    "rollback": "set on_failure to stop and leave rollback_steps out",
    "conditions": "leave the conditions out",
    "loops": "write the rounds out as steps",
    "clarification_timeout": "leave the time to answer out",
    "llm": "call a tool in an action instead",
}

Error = dict[str, str]


def check_runtime(
    *, document: ExecutablePlan, plan: PortiaPlan, runtime: Runtime, overridden: Collection[str] = ()
) -> None:
    """Raise InvalidPlan with every step, argument, flow and setting that asks what the runtime cannot do.

    `plan` is the document's translation; `overridden` are those of `timeout` and `retry_policy` that come with the request.
    """
    unknown = sorted(document.tools() - runtime.tools) if runtime.tools is not None else []
    misfits = check_arguments(document, runtime.schemas).misfits
    lacking = _lacking(document, plan, runtime, overridden)
    if not unknown and not misfits and not lacking:
        return
    missing = sorted({name for _, name in lacking})
    sentences = [f"The Portia Runtime has no tool named {', '.join(unknown)}."] if unknown else []
    sentences += ["The plan gives tools arguments that they do not take."] if misfits else []
    sentences += [f"The Portia Runtime lacks what the plan needs: {', '.join(missing)}."] if missing else []
    errors = [
        *_unknown_tools(document, runtime, unknown),
        *({"pointer": f"{AT}{one.pointer}", "code": "invalid_arguments", "detail": one.detail} for one in misfits),
        *(_lacks(runtime, *one) for one in lacking),
    ]
    raise InvalidPlan(" ".join(sentences), errors=errors)


def _unknown_tools(document: ExecutablePlan, runtime: Runtime, unknown: Collection[str]) -> Iterator[Error]:
    known = ", ".join(sorted(runtime.tools or ()))
    for pointer, step in document.every_step() if unknown else ():
        if step.called_tool in unknown:
            detail = f"There is no tool {step.called_tool!r}; there are {known}."
            yield {"pointer": f"{AT}{pointer}", "code": "unknown_tool", "detail": detail}


def _lacking(
    document: ExecutablePlan, plan: PortiaPlan, runtime: Runtime, overridden: Collection[str]
) -> list[tuple[str, str]]:
    """(pointer into the request, capability) of what the runtime does not have, each once."""
    if runtime.capabilities is None:
        return []
    found = [(way, name) for way, name in needing(plan) if name not in runtime.capabilities]
    return list(dict.fromkeys((_pointer(document, plan, way, overridden), name) for way, name in found))


def _lacks(runtime: Runtime, pointer: str, name: str) -> Error:
    kind = f" ({runtime.kind})" if runtime.kind else ""
    detail = f"This needs {name!r}, which the Portia Runtime{kind} does not have: {FIXES[name]}."
    return {"pointer": pointer, "code": "runtime_lacks", "detail": detail}


def _pointer(document: ExecutablePlan, plan: PortiaPlan, way: Way, overridden: Collection[str]) -> str:
    """Where the request asks for what stands at this way in the translated plan."""
    main = next(index for index, flow in enumerate(document.flows) if flow.flow_id == document.main_flow)
    match way:
        case ("timeout" | "retry_policy" as setting,):
            return f"/{setting}" if setting in overridden else f"{AT}{_setting(document, setting)}"
        case ("steps", int(index), *below):
            before = len(plan.steps) - len(document.main.steps)  # the approval of the plan, which needs nothing itself
            return f"{AT}{_step(document, main, index - before, below)}"
        case _:
            return f"{AT}/flows/{main}"


def _setting(document: ExecutablePlan, setting: str) -> str:
    own = getattr(document.configuration, setting)
    return f"/configuration/{setting}" if own is not None else f"/resource_requirements/{setting}"


def _step(document: ExecutablePlan, flow: int, index: int, below: list[str | int]) -> str:
    """The pointer to a step: nested where it is written in place, in a flow of its own where that is called."""
    pointer, step = f"/flows/{flow}/steps/{index}", document.flows[flow].steps[index]
    for key, nth in zip(below[1::3], below[2::3], strict=True):
        if key in step.parameters:
            pointer, step = f"{pointer}/parameters/{key}/{nth}", step.parameters[key][nth]
        else:
            called = step.parameters[BODIES[step.step_type][str(key)]]
            at = next(number for number, one in enumerate(document.flows) if one.flow_id == called)
            pointer, step = f"/flows/{at}/steps/{nth}", document.flows[at].steps[int(nth)]
    return pointer
