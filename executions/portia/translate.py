"""ExecutablePlan to Portia plan: pure, the same plan always gives the same bytes.

A flow that a step runs is written out as that step's nested steps. What Portia's plan has no field for travels in the
metadata of the plan, so that nothing the Plan Compiler said is lost: only plan_id and the `compiled_*` metadata stay behind,
which may differ between two plans of the same hash.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from executions.canonical_json import digest
from executions.plan_document import lasting
from executions.plan_levels import main_level
from executions.plan_model import ExecutablePlan, Step
from executions.plan_parts import Approval, RetryPolicy
from executions.portia.wire import JSON, PortiaPlan, PortiaStep

TRANSLATION = 1  # raise it when the same plan comes out differently: an id stands for one content, at Portia too


def translate(
    plan: ExecutablePlan,
    *,
    allowed_tools: list[str] | None = None,
    timeout: float | None = None,
    retry_policy: dict[str, Any] | None = None,
) -> PortiaPlan:
    """The Portia plan to create for a run; the arguments win over the plan's own values.

    `timeout` is in active seconds: the argument, else configuration.timeout, else resource_requirements.timeout. The plan_id
    names the content: `anumate-<plan_hash>`, and where arguments change the content `-<16 hex digits of their digest>`.
    Raises pydantic's ValidationError for a retry_policy that is none.
    """
    own = _settings(plan)
    asked = {
        "allowed_tools": sorted(set(allowed_tools)) if allowed_tools is not None else None,
        "timeout": timeout,
        "retry_policy": _policy(RetryPolicy.model_validate(retry_policy)) if retry_policy is not None else None,
    }
    changes = {name: value for name, value in asked.items() if value is not None and value != own[name]}
    identity = changes | ({"translation": TRANSLATION} if TRANSLATION > 1 else {})
    main = plan.main
    return PortiaPlan(
        plan_id=f"anumate-{plan.plan_hash}" + (f"-{digest(identity)[:16]}" if identity else ""),
        name=plan.name,
        description=plan.description,
        steps=_steps(plan),
        variables=plan.variables,
        parallel_execution=main.parallel_execution,
        max_concurrency=main.max_concurrency,
        on_failure=main.on_failure,
        rollback_steps=main.rollback_steps,
        metadata=_metadata(plan),
        **(own | changes),
    )


def _steps(plan: ExecutablePlan) -> list[PortiaStep]:
    """The main flow's steps; behind an approval of the whole plan where the plan asks for one."""
    steps = [PortiaStep(**_step(plan, step)) for step in plan.main.steps]
    if not plan.security_context.requires_approval:
        return steps
    gate = _plan_approval(plan, taken={step.id for step in steps})
    return [gate, *(step if step.depends_on else replace(step, depends_on=[gate.id]) for step in steps)]


def _plan_approval(plan: ExecutablePlan, *, taken: set[str]) -> PortiaStep:
    """The step on which all others wait, rollback steps too: without a yes nothing of the plan happens."""
    step_id = "plan_approval"
    while step_id in taken:
        step_id += "_"
    return PortiaStep(
        id=step_id,
        name="Approve the plan",
        type="approval",
        parameters={
            "plan": plan.name,
            "tools": sorted(plan.tools()),
            "steps": [step.name or step.step_id for step in plan.main.steps],
        },
        approval={
            "title": f"Run the plan: {plan.name}"[:300],
            "message": plan.description or "May this plan run, with these tools and steps?",
            "approval_rules": plan.security_context.approval_rules,
        },
    )


def execution_order(plan: ExecutablePlan) -> list[str]:
    """The main flow's step ids in the order they run when nothing is skipped, rollback steps left out."""
    return main_level(plan).order


def _settings(plan: ExecutablePlan) -> dict[str, Any]:
    """What an argument of `translate` can replace, as the plan itself says it."""
    configuration = plan.configuration
    return {
        "allowed_tools": sorted(set(plan.security_context.allowed_tools)),
        "timeout": configuration.timeout or plan.resource_requirements.timeout,
        "retry_policy": _policy(configuration.retry_policy) if configuration.retry_policy else None,
    }


def _metadata(plan: ExecutablePlan) -> JSON:
    """Everything of the plan and its flows, as submitted, without the steps and what the hash leaves out."""
    content = plan.model_dump(exclude={"plan_id", "flows", "metadata", "variables"}, exclude_unset=True)
    flows = [flow.model_dump(exclude={"steps"}, exclude_unset=True) for flow in plan.flows]
    return content | {"flows": flows, "metadata": lasting(plan.metadata)}


def _step(plan: ExecutablePlan, step: Step) -> JSON:
    return {
        "id": step.step_id,
        "name": step.name or step.step_id,
        "type": step.step_type,
        "description": step.description,
        "tool": step.tool,
        "action": step.action,
        "parameters": _parameters(plan, step),
        "inputs": step.inputs,
        "outputs": step.outputs,
        "depends_on": step.depends_on,
        "conditions": step.conditions,
        "retry": _policy(step.retry_policy) if step.retry_policy else None,
        "timeout": step.timeout,
        "on_failure": step.on_failure,
        "approval": _approval(step),
        "metadata": step.metadata,
        "tags": step.tags,
    }


def _parameters(plan: ExecutablePlan, step: Step) -> JSON:
    parameters = dict(step.parameters)
    for key, _ in step.branches():
        if key in parameters:
            parameters[key] = [one if isinstance(one, str) else _step(plan, one) for one in parameters[key]]
    for _, body, flow_id in step.called_flows():
        parameters[body] = [_step(plan, one) for one in plan.flow(flow_id).steps]
    return parameters


def _approval(step: Step) -> JSON | None:
    """What to ask: the step's `approval`; an approval step may say it in its parameters, `approval` wins word by word."""
    if step.step_type != "approval":
        return step.approval.model_dump(exclude_unset=True) if step.approval else None
    asked = {key: value for key, value in step.parameters.items() if key in Approval.model_fields}
    return asked | (step.approval.model_dump(exclude_unset=True) if step.approval else {})


def _policy(policy: RetryPolicy) -> JSON:
    """The flat spelling with all defaults, and beside it what was submitted, nested too: a runtime may read either."""
    return policy.flat() | policy.model_dump(exclude_unset=True)
