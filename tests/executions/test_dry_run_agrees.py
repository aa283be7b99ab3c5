"""What the dry run says, the submission does: yes is accepted, and a refusal is the same refusal."""

from collections import Counter
from datetime import timedelta

import hypothesis
import pytest
from django.db import transaction
from django.utils import timezone
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st

from executions.actions import previews, runs
from executions.actions.runs import Submission
from executions.errors import OrchestratorError
from executions.models import Run
from executions.portia.needs import Runtime
from tests.executions.conftest import ALL_BUT_LLM
from tests.factories.documents import action, plan, step
from tests.factories.submissions import NOWHERE, TOOLS, Wish, plans, wishes

pytestmark = pytest.mark.django_db

ECHO = plan(action("greet"))
ASKS = plan(action("pay", approval={"title": "Pay?"}), on_failure="continue")
NO_HURRY = {"deadline": None, "suppress_health_check": list(HealthCheck)}
CAPABILITIES = [*ALL_BUT_LLM, "llm"]

BROKEN = plan(action("a", depends_on=["x"]), action("b", conditions=["a.x =="]), step("c", "user_input"))
REFUSALS = {
    "invalid plan": {"document": BROKEN, "expect": 422},
    "unknown tool": {"document": plan(action("a", tool="ecko")), "expect": 422},
    "tenant list": {"tenant_tools": ["wait"], "expect": 403},
    "token list": {"token": {"tools": ["wait"]}, "expect": 403},
    "missing capability": {
        "document": plan(action("a"), security_context={"required_capabilities": ["payments:refund"]}),
        "token": {"capabilities": ["mail:*"]},
        "expect": 403,
    },
    "runtime lacks a capability": {"document": plan(step("think", "agent", task="Think.")), "expect": 422},
    "unknown hook": {"hooks": ["audit"], "expect": 400},
    "another hash beside the document": {"plan_hash": "0" * 64, "expect": 400},
    "a hash nobody knows": {"document": None, "plan_hash": "0" * 64, "expect": 404},
    "another tenant's plan": {"document": {**ECHO, "tenant_id": "globex"}, "expect": 422},
    "a token that is none": {"raw_token": "nonsense", "expect": 403},
    "an expired token": {"token": {"now": timezone.now() - timedelta(hours=1)}, "expect": 403},
    "no token in production": {"production": True, "expect": 403},
    "no list of tools in production": {"production": True, "token": {}, "expect": 403},
    "a field nobody knows": {"paramters": {}, "expect": 422},
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_what_the_submission_would_be_refused_for_the_dry_run_is_refused_for(api, acme, able, captoken, settings, kind):
    asked = dict(REFUSALS[kind])
    status, document = asked.pop("expect"), asked.pop("document", ECHO)
    settings.IS_PRODUCTION = asked.pop("production", False)
    acme.allowed_tools = asked.pop("tenant_tools", None)
    acme.save()
    given = captoken(**asked.pop("token")) if "token" in asked else asked.pop("raw_token", "")
    body = asked | ({"executable_plan": document} if document else {})
    headers = {"x-capability-token": given} if given else {}
    said, refused = (
        api.post("/v1/execute", {**body, "dry_run": dry}, expect=status, **headers) for dry in (True, False)
    )
    assert without_id(said) == without_id(refused)
    assert not Run.objects.exists()


def without_id(problem):
    return {name: value for name, value in problem.items() if name != "correlation_id"}


def wish_for(document, tenant_tools=None):
    """One of each kind, so that a run without any proves something, too."""
    return Wish(body={"executable_plan": document}, token=None, tenant_tools=tenant_tools, production=False)


def test_a_yes_is_accepted_and_a_refusal_is_the_same_refusal(api, acme, portia, captoken, settings):
    answers = Counter()

    @hypothesis.settings(max_examples=80, **NO_HURRY)
    @given(wish=wishes())
    @example(wish=wish_for(ECHO))
    @example(wish=wish_for(ECHO, tenant_tools=["wait"]))
    @example(wish=wish_for(BROKEN))
    def agrees(wish):
        type(acme).objects.filter(pk=acme.pk).update(allowed_tools=wish.tenant_tools)
        settings.IS_PRODUCTION = wish.production
        headers = {"x-capability-token": captoken(**wish.token)} if wish.token else {}
        said, done = (
            submit(api, {**wish.body, "dry_run": dry, "deduplicate": False}, headers) for dry in (True, False)
        )
        answers[said[0]] += 1
        assert done[0] == 202 if said[0] == 200 else done == said

    agrees()
    assert answers.keys() >= {200, 403, 422}
    assert Run.objects.count() == answers[200]


def submit(api, body, headers):
    response = api.client.post("/v1/execute", body, content_type="application/json", headers=headers)
    return response.status_code, without_id(response.json())


def test_whatever_a_runtime_says_it_has_both_come_to_the_same(acme):
    some = st.none() | st.frozensets(st.sampled_from(CAPABILITIES)) | st.just(frozenset(CAPABILITIES))
    tools = st.none() | st.frozensets(st.sampled_from([*TOOLS, NOWHERE])) | st.just(frozenset(TOOLS))
    runtimes = st.builds(Runtime, answers=st.just(True), tools=tools, capabilities=some)
    outcomes = Counter()

    @hypothesis.settings(max_examples=80, **NO_HURRY)
    @given(document=plans(), runtime=runtimes)
    @example(document=ECHO, runtime=Runtime(answers=True, tools=frozenset(TOOLS), capabilities=frozenset(CAPABILITIES)))
    @example(document=ECHO, runtime=Runtime(answers=True, tools=frozenset(), capabilities=frozenset(CAPABILITIES)))
    @example(document=ASKS, runtime=Runtime(answers=True, tools=frozenset(TOOLS), capabilities=frozenset()))
    def agrees(document, runtime):
        facts = {"tenant": acme, "principal": "agent", "user": None}
        facts |= {"submission": Submission(executable_plan=document, runtime=runtime)}
        said = outcome(lambda: previews.preview(**facts))
        assert outcome(lambda: runs.start(**facts)) == said
        outcomes.update([one["code"] for one in said[1]] if said else ["yes"])

    agrees()
    assert outcomes.keys() >= {"yes", "runtime_lacks", "unknown_tool"}


def outcome(act):
    """What it refused, or None; nothing of it is kept."""
    try:
        with transaction.atomic():
            act()
            transaction.set_rollback(True)
    except OrchestratorError as refused:
        return str(refused), refused.errors, refused.code, refused.extra
    return None
