"""What the dry run accepts, the embedded runtime takes as a plan, as far as arguments and steps can be seen beforehand."""

from __future__ import annotations

from collections import Counter
from uuid import uuid4

import hypothesis
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from executions.actions import previews
from executions.actions.runs import Submission
from executions.errors import InvalidPlan
from executions.portia.client import portia as client
from tests.factories.documents import action, flow, plan, step
from tests.portia_runtime.conftest import Client

pytestmark = pytest.mark.django_db

TEMPLATES = ["{{variables.x}}", "a ${variables.x} b", ["{{variables.x}}"], {"in": {"it": "${parameters.y}"}}]
LITERALS = [
    0, 3, -1, 2.5, True, None, "", "text", "a@b.example", "two\nlines", "https://example.com", "GET", [], ["a@b.example"],
    {}, {"a": "b"}, {"a": 1}, "${no path}", "size(variables.x) > 1",
]  # fmt: skip
ARGUMENTS = {
    "calculate": ["expression", "values"],
    "data_validator": ["data", "schema"],
    "email_connector": ["to", "cc", "subject", "body"],
    "http_request": ["url", "method", "headers", "params", "json", "body", "allow_error_status"],
    "read_record": ["key", "collection"],
    "write_record": ["key", "value", "increment", "collection"],
    "template_render": ["template", "values", "autoescape"],
    "echo": ["anything"],
    "fail": ["message", "times", "hard"],
    "wait": ["seconds"],
}
GOOD = {
    "calculate": {"expression": "1 + 1"},
    "data_validator": {"data": "{{variables.x}}", "schema": {"type": "array"}},
    "email_connector": {"to": "a@b.example", "subject": "Hello", "body": "{{variables.x}}"},
    "http_request": {"url": "https://example.com", "headers": {"a": "b"}},
    "read_record": {"key": "k"},
    "write_record": {"key": "k", "value": {"a": 1}},
    "template_render": {"template": "{{ x }}", "values": {"x": "{{variables.x}}"}},
    "wait": {"seconds": 1},
}

rarely = st.sampled_from([False, False, False, True])


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, dict, dict]:
    """A tool with arguments and inputs: often what it takes, else mostly names of its own with any value."""
    tool = draw(st.sampled_from(sorted(ARGUMENTS)))
    names = st.sampled_from([*ARGUMENTS[tool], *ARGUMENTS[tool], *ARGUMENTS[tool], "surprise"])
    values = st.sampled_from(LITERALS) | st.sampled_from(TEMPLATES)
    inputs = draw(st.dictionaries(names, st.sampled_from(["x", "variables.x"]), max_size=2)) if draw(rarely) else {}
    good = GOOD.get(tool, {}) if draw(st.sampled_from([True, True, False])) else {}
    return tool, good | (draw(st.dictionaries(names, values)) if not good or draw(rarely) else {}), inputs


@st.composite
def steps_that_call(draw: st.DrawFn, step_id: str, depth: int = 2) -> dict:
    """An action or loop with a call, or a step around others, or a condition that names one."""
    kind = draw(
        st.sampled_from(["action", "action", "loop", *(["sequence", "condition", "parallel"] if depth else [])])
    )
    tool, arguments, inputs = draw(calls())
    if kind == "action":
        return action(step_id, tool, parameters=arguments, inputs=inputs)
    if kind == "loop":
        return step(step_id, "loop", times=2, tool=tool, arguments=arguments) | {"inputs": inputs}
    inside = [draw(steps_that_call(f"{step_id}_{n}", depth - 1)) for n in range(draw(st.integers(1, 2)))]
    if kind == "condition":
        return step(step_id, kind, expression="true", **{draw(st.sampled_from(["then", "else"])): inside})
    return step(step_id, kind, steps=inside)


@st.composite
def documents(draw: st.DrawFn) -> dict:
    """Plans that are right but for their arguments, and for who starts whom in a rollback."""
    steps = [draw(steps_that_call(f"s{n}")) for n in range(draw(st.integers(1, 3)))]
    more_flows, fields = (), {}
    if draw(st.booleans()):
        more_flows = (flow(draw(steps_that_call("deep", 0)), flow_id="called"),)
        steps.append(step("call", "sequence", flow="called"))
    if draw(rarely):
        undo = draw(st.lists(st.sampled_from(["undo", "back", "late"]), min_size=1, unique=True))
        branch = {draw(st.sampled_from(["then", "else"])): [draw(st.sampled_from(["back", "late", action("inner")]))]}
        steps += [step("undo", "condition", expression="true", **branch), action("back"), action("late")]
        fields = {"on_failure": "rollback", "rollback_steps": undo}
    return plan(*steps, more_flows=more_flows, flow_fields=fields, variables={"x": [1, 2]}, name=uuid4().hex)


def test_the_runtime_takes_every_plan_that_the_dry_run_accepts(acme, portia):
    runtime = client().known_runtime(tenant="acme")
    assert len(runtime.schemas) == len(runtime.tools) >= len(ARGUMENTS)
    door, outcomes = Client(portia), Counter()

    @hypothesis.settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(document=documents())
    def takes(document):
        submission = Submission(executable_plan=document, runtime=runtime)
        try:
            said = previews.preview(tenant=acme, principal="agent", user=None, submission=submission)
        except InvalidPlan as refused:
            outcomes.update({one["code"] for one in refused.errors})
            return
        answer = door.call("POST", "/plans", json=said.portia_plan)
        assert answer.status_code == 201, answer.text
        outcomes["accepted"] += 1

    takes()
    assert outcomes["accepted"] > 20
    assert outcomes["invalid_arguments"] > 5


def test_what_the_dry_run_refuses_for_its_arguments_the_runtime_would_refuse_too(acme, portia):
    runtime = client().known_runtime(tenant="acme")
    door, refusals = Client(portia), Counter()

    @hypothesis.settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(one=steps_that_call("s", 0))
    def refuses(one):
        document = plan(one, variables={"x": [1, 2]}, name=uuid4().hex)
        facts = {"tenant": acme, "principal": "agent", "user": None}
        try:
            previews.preview(**facts, submission=Submission(executable_plan=document, runtime=runtime))
            return
        except InvalidPlan as refused:
            if {error["code"] for error in refused.errors} != {"invalid_arguments"}:
                return
        unseen = previews.preview(**facts, submission=Submission(executable_plan=document))
        answer = door.call("POST", "/plans", json=unseen.portia_plan)
        refusals[answer.status_code] += 1
        assert answer.status_code == 422, (document, answer.text)

    refuses()
    assert refusals[422] > 20
