"""Submissions for hypothesis: plans put together from small parts, some broken, with tokens, lists and other wishes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tests.factories.documents import JSON, action, flow, plan, step

TOOLS = ["echo", "read_record", "calculate"]
NOWHERE = "ecko"
CAPABILITIES = ["mail:send", "payments:refund"]

some_tools = st.none() | st.just(TOOLS) | st.lists(st.sampled_from([*TOOLS, NOWHERE]), unique=True)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """A submission and what surrounds it. `token` is None for none, else what differs from a good one."""

    body: JSON
    token: JSON | None
    tenant_tools: list[str] | None
    production: bool


@st.composite
def wishes(draw: st.DrawFn) -> Wish:
    """Submissions of which about a third has nothing wrong with it."""
    body: JSON = {"executable_plan": draw(plans()), **draw(_extras)}
    if draw(_rarely):
        body |= draw(
            st.sampled_from([{"plan_hash": "0" * 64}, {"hooks": ["audit"]}, {"timeout": -1}, {"paramters": {}}])
        )
    return Wish(
        body=body,
        token=draw(st.none() | _good_tokens | _tokens),
        tenant_tools=draw(some_tools) or ["another_tool"] if draw(_rarely) else None,
        production=draw(_rarely),
    )


_rarely = st.sampled_from([False, False, False, False, True])
_good_tokens = st.just({"capabilities": ["mail:*", "payments:*"]})
_tokens = st.fixed_dictionaries(
    {"capabilities": st.lists(st.sampled_from(CAPABILITIES), min_size=1)},
    optional={
        "tools": st.lists(st.sampled_from(TOOLS), unique=True),
        "tenant": st.sampled_from(["acme", "globex"]),
        "lifetime": st.sampled_from([30, 300]),
    },
)
_extras = st.fixed_dictionaries(
    {},
    optional={
        "timeout": st.floats(0.1, 3600),
        "retry_policy": st.fixed_dictionaries({"max_attempts": st.integers(1, 5)}),
        "parameters": st.just({"amount": 3}),
        "triggered_by": st.sampled_from(["alice", "bob"]),
        "validate_capabilities": st.booleans(),
    },
)


@st.composite
def plans(draw: st.DrawFn) -> JSON:
    """Plans of all kinds of steps, with references, conditions, loops, approvals and lists; about one in three is broken."""
    steps = _steps(draw, "s", 2)
    more_flows = ()
    if draw(_rarely):
        more_flows = (flow(*_steps(draw, "called", 1), flow_id="called"),)
        steps.append(step("call", draw(st.sampled_from(["sequence", "parallel"])), flow="called"))
    document = plan(*steps, more_flows=more_flows, variables={"rows": [1, 2]}, **draw(_settings))
    document["flows"][0]["parallel_execution"] = draw(_rarely)
    if draw(_rarely):
        document["flows"][0] |= {"on_failure": "rollback", "rollback_steps": ["undo"]}
        document["flows"][0]["steps"].append(action("undo", depends_on=[steps[0]["step_id"]]))
    if draw(st.integers(0, 2)) == 2:
        draw(st.sampled_from(_BREAKS))(document, draw(st.sampled_from(steps)))
    return document


_settings = st.fixed_dictionaries(
    {},
    optional={
        "security_context": st.fixed_dictionaries(
            {},
            optional={
                "allowed_tools": st.just(TOOLS) | st.lists(st.sampled_from(TOOLS), unique=True),
                "required_capabilities": st.lists(st.sampled_from(CAPABILITIES), unique=True),
                "requires_approval": st.booleans(),
            },
        ),
        "configuration": st.fixed_dictionaries(
            {}, optional={"timeout": st.floats(1, 9), "retry_policy": st.just({"max_attempts": 2})}
        ),
        "tenant_id": st.just("acme"),
    },
)


def _steps(draw: st.DrawFn, prefix: str, depth: int) -> list[JSON]:
    steps: list[JSON] = []
    for number in range(draw(st.integers(1, 3))):
        one = _step(draw, f"{prefix}{number}", depth)
        if steps and draw(st.booleans()):
            before = steps[-1]["step_id"]
            one |= {"depends_on": [before], "conditions": [f"{before}.success == true"]}
        steps.append(one)
    return steps


def _step(draw: st.DrawFn, step_id: str, depth: int) -> JSON:
    kind = draw(st.sampled_from(["action", "action", "approval", "user_input", "exit", *(_HOLDING if depth else ())]))
    if kind == "action":
        return action(step_id, draw(st.sampled_from(TOOLS)), **draw(_fields), parameters={"rows": "{{variables.rows}}"})
    parameters: JSON = {
        "approval": {"title": "Go on?", "required_approvers": draw(st.sampled_from([[], ["bob"], ["{{amount}}"]]))},
        "user_input": {"message": "How much is {{parameters.amount}}?"},
        "exit": {"message": "Done."},
    }.get(kind, {})
    if kind in _HOLDING:
        inside = "then" if kind == "condition" else "steps"
        parameters = {inside: _steps(draw, f"{step_id}_", depth - 1)}
    parameters |= {"condition": {"expression": "size(variables.rows) > 1"}, "loop": {"over": "{{variables.rows}}"}}.get(
        kind, {}
    )
    return step(step_id, kind, **parameters)


_HOLDING = ["loop", "parallel", "sequence", "condition"]
_fields = st.fixed_dictionaries(
    {},
    optional={
        "timeout": st.floats(0.1, 60),
        "retry_policy": st.just({"max_attempts": 3}),
        "approval": st.fixed_dictionaries({}, optional={"title": st.just("Sure?"), "timeout": st.just(60)}),
        "on_failure": st.sampled_from(["stop", "continue"]),
    },
)


def _set(**fields: Any) -> Any:
    return lambda document, one: one.update(fields)


_BREAKS = [
    _set(depends_on=["ghost"]),
    _set(conditions=["ghost.x == 1"]),
    _set(conditions=["1 +"]),
    _set(timeout=-1),
    _set(step_id="s0"),
    _set(step_type="dance"),
    _set(step_type="action", tool=NOWHERE, parameters={}),
    _set(step_type="agent", parameters={"task": "Think."}),
    _set(colour="green"),
    lambda document, one: one["parameters"].update(note="{{ghost.total}}"),
    lambda document, one: document.update(main_flow="ghost"),
    lambda document, one: document.update(tenant_id="globex"),
    lambda document, one: document.update(plan_hash="0" * 64),
    lambda document, one: document.pop("name"),
]
