"""ExecutablePlan documents as plain dicts: small builders for tests of one thing, a large plan, and a hypothesis strategy."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

JSON = dict[str, Any]


def action(step_id: str, tool: str = "echo", **fields: Any) -> JSON:
    """An action step that calls `tool`."""
    return {
        "step_id": step_id,
        "name": step_id.replace("_", " ").capitalize(),
        "step_type": "action",
        "tool": tool,
    } | fields


def step(step_id: str, step_type: str, **parameters: Any) -> JSON:
    """A step of another type; the keyword arguments are its parameters (`then_=` and `else_=` without the underscore)."""
    named = {key.rstrip("_"): value for key, value in parameters.items()}
    return {
        "step_id": step_id,
        "name": step_id.replace("_", " ").capitalize(),
        "step_type": step_type,
        "parameters": named,
    }


def flow(*steps: JSON, flow_id: str = "main", **fields: Any) -> JSON:
    """A flow of these steps."""
    return {"flow_id": flow_id, "name": flow_id.title(), "steps": list(steps)} | fields


def plan(*steps: JSON, more_flows: tuple[JSON, ...] = (), flow_fields: JSON | None = None, **fields: Any) -> JSON:
    """A plan whose main flow has these steps; without any, one that echoes."""
    main = flow(*(steps or (action("greet"),)), **(flow_fields or {}))
    return {"plan_id": "plan-1", "name": "A plan", "main_flow": "main", "flows": [main, *more_flows]} | fields


def large_plan(*, steps: int) -> JSON:
    """A plan as a compiler writes them: chained steps with conditions, templates, retries and texts; about 840 bytes a step."""
    return plan(
        *(_chained(number) for number in range(steps)),
        flow_fields={"parallel_execution": True, "max_concurrency": 8},
        variables={"region": "eu-central", "limit": 250},
        configuration={"timeout": 3600, "retry_policy": {"max_attempts": 3}},
    )


def _chained(number: int) -> JSON:
    before = f"book_{number - 1}"
    return action(
        f"book_{number}",
        tool="http_request",
        action="post",
        name=f"Book item {number} in the ledger",
        description="Writes one line of the order into the ledger of the region and keeps the receipt for the customer.",
        parameters={
            "url": "https://ledger.example.com/v1/lines",
            "method": "POST",
            "headers": {"X-Region": "{{variables.region}}", "Accept": "application/json"},
            "json": {"line": number, "amount": 12.5, "note": f"Line {number} für {{{{order_id}}}}"},
        },
        inputs={"previous": f"{before}.receipt"} if number else {},
        outputs={"receipt": f"receipt_{number}"},
        depends_on=[before] if number else [],
        conditions=[f"{before}.success == true && variables.limit > {number % 7}"] if number else [],
        retry_policy={"max_attempts": 5, "initial_delay": 1.0, "max_delay": 30.0},
        timeout=30.0,
        metadata={"owner": "billing", "ticket": f"BIL-{number}"},
        tags=["ledger", "nightly"],
    )


def full_plan() -> JSON:
    """A plan in which every field of every part is given, with a value that is not the default."""
    return plan(
        action(
            "look_up",
            action="get",
            description="Looks the order up.",
            parameters={"url": "https://shop.example.com/{{order_id}}", "params": {"limit": 3}},
            inputs={"customer": "variables.customer"},
            outputs={"status": "order_status"},
            retry_policy={
                "max_attempts": 5,
                "initial_delay": 0.5,
                "max_delay": 20.0,
                "exponential_base": 3.0,
                "jitter": False,
                "backoff": {
                    "strategy": "fixed",
                    "initial_delay": 2.0,
                    "max_delay": 9.0,
                    "exponential_base": 4.0,
                    "jitter": True,
                },
            },
            timeout=12.5,
            on_failure="continue",
            metadata={"owner": "shop"},
            tags=["lookup"],
        ),
        action(
            "pay",
            depends_on=["look_up"],
            conditions=["look_up.status == 200"],
            approval={
                "title": "Pay {{order_id}}",
                "message": "Pay it?",
                "required_approvers": ["carol"],
                "approval_rules": ["two-people"],
                "timeout": 3600.0,
            },
        ),
        step(
            "each", "loop", over="{{variables.lines}}", item="line", max_iterations=7, parallel=True, flow="line_flow"
        ),
        step(
            "choose",
            "condition",
            expression="size(variables.lines) > 1",
            then=["undo_nothing"],
            else_=[action("other")],
        ),
        action("undo_nothing"),
        action("undo_pay", depends_on=["pay"]),
        more_flows=(flow(action("book_line"), flow_id="line_flow", description="One line.", metadata={"lines": 1}),),
        flow_fields={
            "description": "Everything.",
            "parallel_execution": True,
            "max_concurrency": 4,
            "on_failure": "rollback",
            "rollback_steps": ["undo_pay"],
            "metadata": {"graph": "wide"},
        },
        plan_hash="",
        tenant_id="acme",
        version="3.1.4",
        description="A plan with everything.",
        resource_requirements={
            "cpu": "500m",
            "memory": 256,
            "storage": "1Gi",
            "network_access": True,
            "external_services": ["shop"],
            "runtime": "portia",
            "capabilities": ["http"],
            "timeout": 500.0,
        },
        security_context={
            "allowed_tools": ["echo"],
            "required_capabilities": ["orders:read"],
            "policy_refs": ["policy-7"],
            "requires_approval": True,
            "approval_rules": ["four-eyes"],
            "data_classification": "internal",
            "pii_handling": "masked",
            "fresh_capability_after_wait": True,
        },
        metadata={"source_capsule_id": "cap-1", "estimated_cost": 0.2, "labels": {"team": "orders"}},
        configuration={"timeout": 300.0, "retry_policy": {"max_attempts": 2}, "region": "eu"},
        variables={"customer": "maria", "lines": [1, 2]},
    )


texts = st.text(st.characters(codec="utf-8", exclude_characters="{}$\0"), max_size=12)
numbers = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(-1e15, 1e15, allow_nan=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
free_form = st.dictionaries(texts.filter(bool), json_values.filter(lambda value: value is not None), max_size=3)


@st.composite
def plan_documents(draw: st.DrawFn) -> JSON:
    """Valid plans of all step types, nested and with called flows; each may lack any field that can be left out."""
    more_flows = (flow(*_steps(draw, "called", 1), flow_id="called"),) if draw(st.booleans()) else ()
    steps = _steps(draw, "step", 2)
    if more_flows:
        steps.append(step("call", draw(st.sampled_from(["sequence", "parallel"])), flow="called"))
    document = plan(
        *steps,
        more_flows=more_flows,
        flow_fields={"parallel_execution": draw(st.booleans())},
        variables=draw(free_form),
        metadata=draw(free_form),
        description=draw(texts),
    )
    if draw(st.booleans()):
        document["flows"][0] |= {"on_failure": "rollback", "rollback_steps": ["undo"]}
        document["flows"][0]["steps"].append(action("undo", depends_on=[steps[0]["step_id"]]))
    for name in ("description", "metadata", "variables"):
        if draw(st.booleans()):
            del document[name]
    return document


def _steps(draw: st.DrawFn, prefix: str, depth: int) -> list[JSON]:
    steps: list[JSON] = []
    for number in range(draw(st.integers(1, 3))):
        one = _any_step(draw, f"{prefix}_{number}", depth)
        if steps and draw(st.booleans()):
            before = draw(st.sampled_from(steps))["step_id"]
            one |= {"depends_on": [before], "conditions": [f"{before}.success == true"], "inputs": {"last": before}}
        steps.append(one)
    return steps


def _any_step(draw: st.DrawFn, step_id: str, depth: int) -> JSON:
    simple = {
        "action": lambda: action(step_id, parameters=draw(free_form), approval={"title": "Sure?"}, outputs={"a": "b"}),
        "approval": lambda: step(step_id, "approval", title="Go on?", required_approvers=["carol"]),
        "user_input": lambda: step(step_id, "user_input", message="Which?", options=draw(st.lists(texts, min_size=1))),
        "exit": lambda: step(step_id, "exit", message=draw(texts), error=draw(st.booleans())),
        "agent": lambda: step(step_id, "agent", task=draw(texts)),
    }
    nested = {
        "loop": lambda: step(
            step_id, "loop", times=draw(st.integers(0, 9)), steps=_steps(draw, f"{step_id}_in", depth - 1)
        ),
        "parallel": lambda: step(step_id, "parallel", steps=_steps(draw, f"{step_id}_in", depth - 1)),
        "condition": lambda: step(
            step_id, "condition", expression="true", then=_steps(draw, f"{step_id}_in", depth - 1)
        ),
    }
    kinds = simple | nested if depth > 0 else simple
    return kinds[draw(st.sampled_from(sorted(kinds)))]() | draw(_options)


_options = st.fixed_dictionaries(
    {},
    optional={
        "description": texts,
        "timeout": st.floats(0.1, 3600) | st.integers(1, 3600),
        "retry_policy": st.fixed_dictionaries(
            {"max_attempts": st.integers(1, 9)}, optional={"initial_delay": st.floats(0, 9), "jitter": st.booleans()}
        ),
        "on_failure": st.sampled_from(["stop", "continue"]),
        "metadata": free_form,
        "tags": st.lists(texts.filter(bool), max_size=2),
    },
)
