"""The dry run: what it says of tools, runtime, people, time and risks, and that it changes nothing."""

import json
import re
from datetime import timedelta
from io import StringIO

import jsonschema
import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from approvals_bridge import actions, policy
from approvals_bridge.models import Clarification
from executions.actions import plans, previews
from executions.actions.runs import Submission
from executions.actions.tenants import create_api_key
from executions.models import Plan, Run, Scope
from tests.conftest import Api, work, work_until
from tests.executions.conftest import ALL_BUT_LLM
from tests.factories.documents import action, flow, plan, step
from tests.factories.models import RunFactory, UserFactory, staff_of

pytestmark = pytest.mark.django_db

ECHO = plan(action("greet"))


@pytest.fixture
def decider(acme):
    """Make somebody of acme who may decide."""
    return lambda name: staff_of(acme, username=name)


@pytest.fixture
def bob(decider):
    return decider("bob")


def dry_run(api, document=ECHO, *, expect=200, headers=None, **fields):
    body = {"executable_plan": document, "dry_run": True, **fields}
    return api.post("/v1/execute", body, expect=expect, **(headers or {}))


def approvals(api, *steps, **fields):
    return dry_run(api, plan(*steps, **fields))["approvals"]


# -- tools and runtime


def test_it_names_the_tools_with_their_steps_and_the_lists_that_allow_them(api, acme, able):
    acme.allowed_tools = ["echo", "wait"]
    acme.save()
    calls_wait = step("each", "loop", times=2, tool="wait", arguments={"seconds": 1})
    grouped = step("group", "sequence", steps=[action("inner")])
    seen = dry_run(
        api, plan(action("greet"), calls_wait, grouped, security_context={"allowed_tools": ["echo", "wait"]})
    )
    allowed_by = {"plan": True, "tenant": True, "capability_token": None}
    assert seen["tools"] == [
        {"name": "echo", "steps": ["greet", "group.inner"], "allowed_by": allowed_by, "in_runtime": True},
        {"name": "wait", "steps": ["each"], "allowed_by": allowed_by, "in_runtime": True},
    ]
    assert (seen["plan_name"], seen["step_order"]) == ("A plan", ["greet", "each", "group"])


def test_a_list_that_is_not_there_says_nothing(api, away, captoken):
    (tool,) = dry_run(api, headers={"x-capability-token": captoken(tools=["echo"])})["tools"]
    assert tool["allowed_by"] == {"plan": None, "tenant": None, "capability_token": True}
    assert tool["in_runtime"] is None


def test_what_the_plan_needs_of_the_runtime_is_named(api, portia):
    seen = dry_run(api, plan(action("a", timeout=9), action("b", conditions=["a.success == true"])), timeout=60)
    needed = ["conditions", "run_timeout", "step_timeout"]
    assert seen["runtime"] == {"answers": True, "kind": "embedded", "needed": needed, "missing": []}


def test_a_runtime_that_is_away_or_says_nothing_is_not_held_against_a_plan(api, odd):
    odd({"status": "ok"})
    seen = dry_run(api, plan(action("a", tool="unheard_of", timeout=9)))
    assert seen["runtime"] == {"answers": True, "kind": None, "needed": ["step_timeout"], "missing": None}
    assert [one for one in seen["warnings"] if "not checked" in one] == [
        "The Portia Runtime does not list its tools: they were not checked.",
        "The Portia Runtime does not list its capabilities: they were not checked.",
    ]


def test_a_runtime_that_does_not_answer_is_warned_of(api, away):
    seen = dry_run(api)
    assert seen["runtime"] == {"answers": False, "kind": None, "needed": [], "missing": None}
    assert "The Portia Runtime does not answer: tools and capabilities were not checked." in seen["warnings"]


NEEDY = plan(
    action("a", retry_policy={"max_attempts": 2}, timeout=9),
    step("each", "loop", times=2, flow="line", parallel=True),
    step("choose", "condition", expression="true", then=[action("b", approval={"timeout": 9})], else_flow="line"),
    action("undo", depends_on=["a"]),
    more_flows=(flow(action("c", conditions=["true"]), flow_id="line"),),
    flow_fields={"on_failure": "rollback", "rollback_steps": ["undo"], "parallel_execution": True},
    security_context={"requires_approval": True},
    resource_requirements={"timeout": 60},
    configuration={"retry_policy": {"max_attempts": 2}},
)
LACKING = [
    ("/executable_plan/resource_requirements/timeout", "run_timeout"),
    ("/executable_plan/configuration/retry_policy", "retry"),
    ("/executable_plan/flows/0", "parallel"),
    ("/executable_plan/flows/0", "rollback"),
    ("/executable_plan/flows/0/steps/0", "retry"),
    ("/executable_plan/flows/0/steps/0", "step_timeout"),
    ("/executable_plan/flows/0/steps/1", "loops"),
    ("/executable_plan/flows/0/steps/1", "parallel"),
    ("/executable_plan/flows/1/steps/0", "conditions"),
    ("/executable_plan/flows/0/steps/2", "conditions"),
    ("/executable_plan/flows/0/steps/2/parameters/then/0", "clarification_timeout"),
]


def lacks(problem):
    return [(one["pointer"], re.search("needs '(.*?)'", one["detail"])[1]) for one in problem["errors"]]


def test_everything_a_runtime_lacks_is_named_where_it_is_needed(api, odd):
    odd({"runtime": "portia-sdk", "capabilities": []}, tools=["echo"])
    problem = dry_run(api, NEEDY, expect=422)
    assert {one["code"] for one in problem["errors"]} == {"runtime_lacks"}
    assert lacks(problem) == LACKING
    assert "(portia-sdk) does not have: leave the step's timeout out" in problem["errors"][5]["detail"]


def test_what_the_request_adds_is_named_in_the_request(api, odd):
    odd({"capabilities": ["conditions"]})
    problem = dry_run(api, expect=422, timeout=5, retry_policy={"max_attempts": 2})
    assert lacks(problem) == [("/timeout", "run_timeout"), ("/retry_policy", "retry")]


def test_a_plan_runs_where_the_runtime_has_what_it_needs(api, odd):
    odd({"capabilities": ALL_BUT_LLM}, tools=["echo"])
    assert dry_run(api, NEEDY)["runtime"]["missing"] == []


def test_steps_for_a_language_model_need_one(api, odd):
    thinking = plan(step("think", "agent", task="Think."))
    odd({"capabilities": [], "llm": True})
    assert dry_run(api, thinking)["runtime"]["needed"] == ["llm"]


def test_unknown_tools_and_missing_capabilities_come_together(api, able):
    problem = dry_run(api, plan(action("a", tool="ecko"), step("think", "llm", task="Think.")), expect=422)
    assert [(one["pointer"][-1], one["code"]) for one in problem["errors"]] == [
        ("0", "unknown_tool"),
        ("1", "runtime_lacks"),
    ]
    assert "no tool named ecko" in problem["detail"]
    assert "lacks what the plan needs: llm" in problem["detail"]


# -- approvals


def test_every_question_is_foreseen_in_order(api):
    asks = {"approval": {"title": "Sure?"}}
    steps = (
        action("look"),
        step("ask", "approval", title="Go on?", message="Really?", approval_rules=["two"], timeout=60),
        step("group", "parallel", steps=[action("left", **asks), action("right", **asks, conditions=["true"])]),
        step(
            "each",
            "loop",
            times=2,
            steps=[action("note"), step("which", "user_input", message="Which?", options=["a"])],
        ),
        step("choose", "condition", expression="true", then=[action("then", **asks)], else_=["late"]),
        step("late", "user_input", message="How much?", category="Input") | {"timeout": 9},
        action("undo", depends_on=["look"], **asks),
    )
    undo = {"on_failure": "rollback", "rollback_steps": ["undo"]}
    needs_yes = {"requires_approval": True, "approval_rules": ["four-eyes"]}
    found = dry_run(api, plan(*steps, flow_fields=undo, security_context=needs_yes, description="All of it."))[
        "approvals"
    ]
    assert [(one["step_id"], one["category"], one["title"], one["after"][-1:]) for one in found] == [
        ("plan_approval", "User Verification", "Run the plan: A plan", []),
        ("ask", "User Verification", "Go on?", ["look"]),
        ("group.left", "User Verification", "Sure?", ["ask"]),
        ("group.right", "User Verification", "Sure?", ["ask"]),
        ("each[].which", "Multiple Choice", "Which", ["each[].note"]),
        ("choose.then", "User Verification", "Sure?", ["each"]),
        ("late", "Input", "Late", ["choose"]),
        ("undo", "User Verification", "Sure?", ["look"]),
    ]
    by_step = {one["step_id"]: one for one in found}
    assert by_step["each[].which"]["after"] == ["plan_approval", "look", "ask", "group", "each[].note"]
    assert [one["step_id"] for one in found if one["repeats"]] == ["each[].which"]
    assert [one["step_id"] for one in found if one["conditional"]] == ["group.right", "choose.then", "late", "undo"]
    assert {name: one["deadline_seconds"] for name, one in by_step.items() if one["deadline_seconds"]} == {
        "ask": 60,
        "late": 9,
    }
    assert (by_step["plan_approval"]["message"], by_step["plan_approval"]["approval_rules"]) == (
        "All of it.",
        ["four-eyes"],
    )
    assert (by_step["ask"]["message"], by_step["ask"]["approval_rules"]) == ("Really?", ["two"])


def test_what_depends_on_a_step_that_may_be_skipped_may_be_skipped_with_it(api):
    maybe = action("maybe", conditions=["true"])
    found = approvals(api, maybe, action("behind", depends_on=["maybe"], approval={}), action("later", approval={}))
    assert [one["conditional"] for one in found] == [True, False]


def test_in_a_parallel_flow_only_what_a_question_depends_on_comes_before(api):
    ask = action("ask", depends_on=["a"], approval={})
    side_by_side = {"parallel_execution": True}
    (found,) = dry_run(api, plan(action("a"), action("b"), ask, flow_fields=side_by_side))["approvals"]
    assert found["after"] == ["a"]


def test_of_very_many_steps_before_a_question_the_last_are_named(api):
    (found,) = approvals(api, *(action(f"a{n}") for n in range(60)), action("ask", approval={}))
    assert found["after"] == [f"a{n}" for n in range(10, 60)]


def test_what_is_foreseen_is_what_is_asked(api, portia, decider):
    everyone = [decider(name) for name in ("bob", "carol", "dave")]
    rows = step(
        "each", "loop", times=2, steps=[action("pay", approval={"title": "Pay?", "required_approvers": ["carol"]})]
    )
    steps = (
        step("amount", "user_input", message="How much?"),
        rows,
        step("last", "approval", title="Done?", timeout=600),
    )
    document = plan(*steps, security_context={"requires_approval": True})
    foreseen = dry_run(api, document, triggered_by="dave")["approvals"]
    run_id = api.post("/v1/execute", {"executable_plan": document, "triggered_by": "dave"}, expect=202)["run_id"]
    for expected in (*foreseen[:2], foreseen[2], foreseen[2], foreseen[3]):
        asked = next_question(run_id)
        deciders = [
            one.username for one in everyone if policy.can_decide(clarification=asked, user=one, now=timezone.now())
        ]
        assert re.sub(r"\[\d+\]", "[]", asked.step_id) == expected["step_id"]
        assert (asked.category, asked.title, deciders) == (
            expected["category"],
            expected["title"],
            expected["eligible"],
        )
        assert (asked.deadline is None) == (expected["deadline_seconds"] is None)
        answer = "answer" if asked.category == "Input" else "approve"
        decider = next(one for one in everyone if one.username == deciders[-1])
        actions.decide(
            clarification_id=asked.pk, user=decider, decision=answer, value="3", action_digest=asked.action_digest, source="api"
        )  # fmt: skip
    work_until(run_id, status="completed")


def next_question(run_id):
    deadline = timezone.now() + timedelta(seconds=15)
    while timezone.now() < deadline:
        work()
        if asked := Clarification.objects.pending().filter(run_id=run_id).first():
            return asked
    raise AssertionError("nobody was asked")


# -- who could decide


ASK = (step("ask", "approval", title="Go on?"),)


def test_those_behind_the_run_do_not_decide_about_it(acme, decider, captoken):
    alice, _, _, erin, _ = (decider(name) for name in ("alice", "bob", "carol", "erin", "frank"))
    parsed = plans.check(tenant=acme, document=plan(*ASK))
    plans.store(tenant=acme, document=plan(*ASK), parsed=parsed, by="compiler", user=erin)
    key = create_api_key(tenant=acme, principal="alice-laptop", scopes=[Scope.EXECUTE], user=alice)
    headers = {"x-capability-token": captoken(subject="carol")}
    (found,) = dry_run(Api(key[1]), plan(*ASK), triggered_by="bob", headers=headers)["approvals"]
    assert (found["eligible"], found["eligible_count"], found["warning"]) == (["frank"], 1, None)


def test_who_asked_may_still_answer_a_question_that_is_no_approval(api, bob):
    (found,) = dry_run(api, plan(step("ask", "user_input", message="How much?")), triggered_by="bob")["approvals"]
    assert found["eligible"] == ["bob"]


def test_only_people_of_the_tenant_with_the_right_are_eligible(api, acme, globex, decider):
    decider("bob")
    get_user_model().objects.filter(pk=decider("ian").pk).update(is_active=False)
    staff_of(globex, username="mallory")
    staff_of(acme, username="dave", permissions=())
    UserFactory(username="root", is_superuser=True)
    assert approvals(api, *ASK)[0]["eligible"] == ["bob", "root"]


@pytest.mark.parametrize(
    ("named", "eligible"),
    [(["bob"], ["bob"]), (["carol@example.com", "x"], ["carol"]), (["group:board"], ["dave"]), (["board"], [])],
)
def test_of_those_who_are_named_only_who_may_decide_is_eligible(api, decider, named, eligible):
    _, _, dave = (decider(name) for name in ("bob", "carol", "dave"))
    Group.objects.create(name="board").user_set.add(dave)
    (found,) = approvals(api, step("ask", "approval", title="Go on?", required_approvers=named))
    assert (found["eligible"], found["required_approvers"]) == (eligible, named)


def test_a_question_that_nobody_could_answer_is_warned_of(api, bob):
    seen = dry_run(api, plan(*ASK, action("pay", approval={"required_approvers": ["carol"]})), triggered_by="bob")
    alone, named = (one["warning"] for one in seen["approvals"])
    assert alone.endswith("who has the right to decide and did not ask for the run.")
    assert named.endswith("and is named in required_approvers.")
    assert [f"ask: {alone}", f"pay: {named}"] == seen["warnings"][-2:]


def test_a_doubt_about_many_questions_is_one_warning(api):
    seen = dry_run(api, plan(*(action(f"a{n}", approval={}) for n in range(12))))
    (doubt,) = (one for one in seen["warnings"] if "Nobody" in one)
    assert doubt.startswith("a0, a1, a2, a3, a4, a5, a6, a7, a8, a9 and 2 more: Nobody could decide this today")


def test_an_approver_named_by_a_template_is_known_only_later(api, bob):
    (found,) = approvals(api, step("ask", "approval", title="Go on?", required_approvers=["{{parameters.manager}}"]))
    assert (found["eligible"], "holds a template" in found["warning"]) == ([], True)


def test_at_most_fifty_people_are_listed_and_all_are_counted(api, acme):
    acme.members.set(UserFactory.create_batch(60, is_superuser=True))
    (found,) = approvals(api, *ASK)
    assert (len(found["eligible"]), found["eligible_count"]) == (50, 60)
    assert found["eligible"] == sorted(found["eligible"])


def test_many_questions_and_people_cost_no_more_queries_than_few(acme, decider):
    def queries(count):
        steps = (step(f"ask{n}", "approval", title="?", required_approvers=[f"person{n}", "bob"]) for n in range(count))
        with CaptureQueriesContext(connection) as captured:
            submission = Submission(executable_plan=plan(*steps))
            seen = previews.preview(tenant=acme, principal="agent", user=None, submission=submission)
        assert [one.eligible_count for one in seen.approvals] == [1] * count
        return len(captured)

    decider("bob")
    few = queries(1)
    for n in range(5):
        decider(f"other{n}")
    assert queries(40) == few


# -- how long, and what to beware of


def test_a_plan_that_was_never_completed_has_no_estimate(api, acme):
    assert dry_run(api)["estimated_duration"] is None


def ended(tenant, document, *seconds, status="completed"):
    parsed = plans.check(tenant=tenant, document=document)
    stored, _ = plans.store(tenant=tenant, document=document, parsed=parsed, by="agent")
    began = timezone.now() - timedelta(hours=1)
    times = ({"created_at": began, "finished_at": began + timedelta(seconds=one)} for one in seconds)
    Run.objects.bulk_create(RunFactory.build(tenant=tenant, plan=stored, status=status, **one) for one in times)


def test_the_estimate_is_of_the_last_hundred_completed_runs_of_this_plan(api, acme, globex):
    ended(acme, ECHO, *[10_000] * 60)
    ended(acme, ECHO, *range(1, 101))
    ended(acme, ECHO, 9_000, status="failed")
    ended(acme, plan(action("other")), 9_000)
    ended(globex, ECHO, 9_000)
    assert dry_run(api)["estimated_duration"] == {"runs": 100, "median": 50.5, "p90": 90.1}


def test_what_production_would_refuse_is_warned_of(api, able):
    assert dry_run(api)["warnings"] == [
        "There is no capability token: production would refuse this.",
        "security_context.allowed_tools is empty: production would refuse this.",
    ]


def test_a_plan_that_names_its_tools_with_a_token_has_no_warnings(api, able, captoken):
    strict = plan(action("greet"), security_context={"allowed_tools": ["echo"]})
    seen = dry_run(api, strict, headers={"x-capability-token": captoken(tools=["echo"])})
    assert seen["warnings"] == []
    assert (seen["capability"]["subject"], seen["capability"]["capabilities"]) == ("carol", ["mail:send"])


def test_a_token_about_to_expire_is_warned_of(api, able, captoken):
    seen = dry_run(api, headers={"x-capability-token": captoken(lifetime=30)})
    assert re.fullmatch(r"The capability token expires in (30|29|28) s: .*", seen["warnings"][0])


def test_a_tenant_with_all_the_runs_it_may_have_is_warned_of(api, acme, able):
    acme.concurrency_limit = 1
    acme.save()
    RunFactory(tenant=acme)
    assert any(one.startswith("1 runs have not ended") for one in dry_run(api)["warnings"])


def test_a_stored_plan_is_tried_by_its_hash(api, acme, able):
    parsed = plans.check(tenant=acme, document=ECHO)
    plans.store(tenant=acme, document=ECHO, parsed=parsed, by="compiler")
    by_hash = api.post("/v1/execute", {"plan_hash": parsed.plan_hash, "dry_run": True}, expect=200)
    assert by_hash == dry_run(api)


# -- what it does not do


def table_contents():
    with connection.cursor() as cursor:
        cursor.execute("SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'")
        tables = [name for (name,) in cursor.fetchall()]
        contents = {}
        for table in tables:
            cursor.execute(f"SELECT md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {table} AS t")
            contents[table] = cursor.fetchone()[0]
    return contents


def test_it_writes_nothing_and_asks_the_runtime_only_to_tell(api, bob, able):
    api.get("/v1/executions")  # which notes when the key was last used
    before = table_contents()
    dry_run(api, NEEDY)
    dry_run(api, NEEDY, headers={"idempotency-key": "k1"})
    dry_run(api, plan(action("a", tool="ecko")), expect=422)
    assert table_contents() == before
    assert {(request.method, request.path.rsplit("/", 1)[1]) for request, _ in able.log} == {
        ("GET", "health"),
        ("GET", "tools"),
    }


def test_the_answer_is_what_the_openapi_document_promises(api, bob, able, client):
    document = json.loads(client.get("/v1/schema?format=json").content)
    promised = {"$ref": "#/components/schemas/Preview", "components": document["components"]}
    seen = dry_run(api, NEEDY)
    jsonschema.validate(seen, promised)
    for name, value in (("Preview", seen), ("ForeseenApproval", seen["approvals"][0]), ("ToolUse", seen["tools"][0])):
        assert value.keys() == document["components"]["schemas"][name]["properties"].keys()


# -- the command


class Terminal(StringIO):
    def isatty(self):
        return True


@pytest.fixture
def plan_file(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan(action("greet"), step("ask", "approval", title="Go [on]?"), action("bye"))))
    return str(path)


@pytest.mark.parametrize(("out", "words"), [(StringIO, ()), (Terminal, ("--json",))])
def test_the_command_says_in_json_what_the_api_says(acme, bob, able, plan_file, out, words):
    out = out()
    call_command("execute", plan_file, "--dry-run", *words, stdout=out)
    seen = json.loads(out.getvalue())
    assert (seen["step_order"], seen["approvals"][0]["eligible"]) == (["greet", "ask", "bye"], ["bob"])
    assert not Plan.objects.exists()


def test_the_command_says_in_a_terminal_what_a_person_wants_to_know(acme, bob, able, plan_file):
    out = Terminal()
    call_command("execute", plan_file, "--dry-run", stdout=out)
    text = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    for words in ("would be accepted: A plan", "greet, ask, bye", "odd; needed: nothing special", "Go [on]?", "bob",
                  "any time", "echo", "production would refuse this"):  # fmt: skip
        assert words in text


def test_json_is_for_dry_runs(acme, plan_file):
    with pytest.raises(CommandError, match="add --dry-run"):
        call_command("execute", plan_file, "--json")


def test_a_refused_dry_run_of_the_command_ends_with_2(acme, able, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan(action("a", tool="ecko"))))
    with pytest.raises(CommandError, match="no tool named ecko") as refused:
        call_command("execute", str(path), "--dry-run", stdout=Terminal())
    assert refused.value.returncode == 2
