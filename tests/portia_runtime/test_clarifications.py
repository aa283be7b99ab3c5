"""Questions to people: every category, strict answers, seals, time limits, and what a refusal does."""

from __future__ import annotations

import pytest

from portia_runtime.models import Clarification
from tests.portia_runtime.conftest import Client, step

PAY = {"id": "pay", "tool": "write_record", "parameters": {"key": "paid", "increment": 1}}
GATE = {"id": "gate", "type": "approval", "parameters": {"title": "Refund", "message": "Refund {{order}}?"}}
ORDER = {"parameters": {"order": "A-17"}}


def asking(client: Client, **parameters):
    run = client.run({"id": "ask", "type": "user_input", "parameters": parameters})
    assert (run["status"], run["state"], run["paused_reason"]) == ("paused", "NEED_CLARIFICATION", "clarification")
    return run, client.question(run)


def test_an_approval_pauses_the_run_and_its_answer_lets_it_go_on(client: Client):
    run = client.run(GATE, {"id": "done", "tool": "echo", "parameters": {"by": "{{gate.approver_id}}"}}, body=ORDER)
    asked = client.question(run)
    assert run["pending_clarifications"] == [asked["id"]]
    assert (asked["category"], asked["clarification_type"], asked["description"]) == (
        "User Verification", "approval", "Refund A-17?",
    )  # fmt: skip
    assert client.answer(asked, reason="fine", metadata={"votes": 2}).status_code == 200
    run = client.until(run["run_id"])
    assert (run["status"], run["final_output"]) == ("completed", {"by": "bob"})


def test_a_rejection_fails_the_run_and_names_the_person(client: Client):
    run = client.run(GATE, PAY, body=ORDER)
    asked = client.question(run)
    client.answer(asked, approved=False, reason="too much")
    run = client.until(run["run_id"], "failed")
    assert run["error_details"] == {
        "code": "clarification_rejected", "step_id": "gate", "attempts": 1, "failed_steps": ["gate"],
        "clarification_id": asked["id"], "approver_id": "bob",
    }  # fmt: skip
    assert "too much" in run["error_message"]


def test_the_same_decision_again_is_replayed_and_another_one_is_too_late(client: Client):
    asked = client.question(client.run(GATE, body=ORDER))
    assert client.answer(asked).status_code == client.answer(asked).status_code == 200
    late = client.answer(asked, approved=False)
    assert (late.status_code, late.json()["code"]) == (409, "clarification_already_resolved")


def test_a_tool_is_called_only_after_its_approval_and_with_what_was_approved(client: Client):
    run = client.run(
        {**PAY, "approval": {"title": "Pay?", "required_approvers": ["u-1"], "approval_rules": ["four-eyes"]}}
    )
    asked = client.question(run)
    assert (asked["required_approvers"], asked["approval_rules"]) == (["u-1"], ["four-eyes"])
    assert asked["action"]["tool"] == "write_record"
    assert asked["action"]["arguments"] == {"key": "paid", "increment": 1}
    assert client.answer(asked, action_digest=asked["action_digest"]).status_code == 200
    assert client.until(run["run_id"])["results"]["pay"]["writes"] == 1


def test_a_decision_for_another_action_is_stale(client: Client):
    asked = client.question(client.run({**PAY, "approval": {}}))
    refused = client.answer(asked, action_digest="0" * 64)
    assert (refused.status_code, refused.json()["code"]) == (409, "stale_subject")
    assert client.get(f"/clarifications/{asked['id']}")["status"] == "pending"


def test_arguments_that_changed_after_the_approval_are_asked_about_again(client: Client):
    change = {"id": "ask", "type": "user_input", "parameters": {}, "outputs": {"response": "amount"}}
    pay = {"id": "pay", "tool": "echo", "parameters": {"amount": "{{amount}}"}, "approval": {}}
    run = client.run(change, pay, parallel_execution=True, variables={"amount": 5})
    questions = {
        one["step_id"]: one for one in client.get("/clarifications", params={"status": "pending"})["clarifications"]
    }
    client.call("POST", f"/runs/{run['run_id']}/pause")
    client.answer(questions["pay"])
    client.answer(questions["ask"], response=5000)
    client.call("POST", f"/runs/{run['run_id']}/resume")
    run = client.until(run["run_id"])
    again = client.question(run)
    assert (again["step_id"], again["action"]["arguments"]) == ("pay", {"amount": 5000})
    assert client.answer(again, action_digest=questions["pay"]["action_digest"]).status_code == 409
    client.answer(again)
    assert client.until(run["run_id"])["results"]["pay"] == {"amount": 5000}


INPUT_SCHEMA = {"type": "integer", "minimum": 1}
CATEGORIES = [
    ({"message": "how many?", "schema": INPUT_SCHEMA}, "Input", "input", {"response": 3}, 3),
    ({"options": ["main", 1]}, "Multiple Choice", "multiple_choice", {"response": 1}, 1),
    ({"category": "Action", "action_url": "https://x.example"}, "Action", "action", {}, "complete"),
    ({"category": "Value Confirmation", "value": 9}, "Value Confirmation", "value_confirmation", {}, 9),
    ({"category": "Custom", "data": {"a": 1}}, "Custom", "custom", {"response": {"b": 2}}, {"b": 2}),
    ({"category": "User Verification"}, "User Verification", "approval", {}, True),
]


@pytest.mark.parametrize(("parameters", "category", "kind", "answer", "response"), CATEGORIES)
def test_every_category_can_be_asked_and_answered(client: Client, parameters, category, kind, answer, response):
    run, asked = asking(client, **parameters)
    assert (asked["category"], asked["clarification_type"]) == (category, kind)
    assert client.answer(asked, **answer).status_code == 200
    assert client.until(run["run_id"])["results"]["ask"]["response"] == response


@pytest.mark.parametrize(
    ("parameters", "body"),
    [
        ({"options": ["1", 2]}, {"response": 1}),
        ({"options": [1, 2]}, {"response": True}),
        ({"options": [1, 2]}, {}),
        ({"schema": INPUT_SCHEMA}, {"response": "three"}),
        ({"schema": INPUT_SCHEMA}, {"response": 0}),
        ({}, {}),
        ({"category": "Custom"}, {}),
        ({"category": "User Verification"}, {"response": "yes"}),
        ({"category": "User Verification"}, {"approved": "true"}),
        ({"category": "User Verification"}, {"approver_id": ""}),
        ({"category": "User Verification"}, {"approver_id": 7}),
    ],
)
def test_an_answer_of_the_wrong_kind_is_refused_and_changes_nothing(client: Client, parameters, body):
    run, asked = asking(client, **parameters)
    refused = client.answer(asked, **body)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_response")
    assert client.get(f"/clarifications/{asked['id']}")["status"] == "pending"
    assert client.get(f"/runs/{run['run_id']}")["version"] == run["version"]


def test_a_refused_choice_says_what_the_options_are(client: Client):
    _, asked = asking(client, options=["main", "reserve"])
    assert client.answer(asked, response="other").json()["options"] == ["main", "reserve"]


@pytest.mark.parametrize("key", ["schema", "data"])
def test_a_question_with_a_bad_schema_is_refused_with_its_place(client: Client, key):
    schema = {"properties": {"a": {"$ref": "file:///etc/hostname"}}}
    ask = {"id": "ask", "type": "user_input", "parameters": {key: {"schema": schema} if key == "data" else schema}}
    answer = client.call("POST", "/plans", json={"plan_id": "p", "name": "p", "steps": [ask]})
    place = "schema" if key == "schema" else "data.schema"
    (found,) = answer.json()["errors"]
    assert (answer.status_code, found["loc"]) == (422, f"steps[0].parameters.{place}.properties.a.$ref")


def test_a_question_whose_schema_turns_out_bad_is_not_asked(client: Client):
    ask = {"id": "ask", "type": "user_input", "parameters": {"schema": {"pattern": "{{p}}"}}}
    run = client.run(ask, variables={"p": "(a"})
    assert (run["status"], run["error_details"]["code"]) == ("failed", "invalid_arguments")
    asked = client.question(client.run(ask, variables={"p": "^(a+)+$"}))
    assert client.answer(asked, response="a" * 5_000 + "!").json()["code"] == "invalid_response"
    assert client.answer(asked, response="aa").status_code == 200


def test_a_question_stored_with_a_bad_schema_refuses_every_response(client: Client):
    _, asked = asking(client, message="how many?")
    Clarification.objects.filter(pk=asked["id"]).update(details={"data": {"schema": {"$ref": "#"}}})
    refused = client.answer(asked, response=1)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_response")
    assert client.answer(asked, approved=False).status_code == 200


def test_a_response_alone_counts_as_approval(client: Client):
    run, asked = asking(client, options=["a", "b"])
    answer = client.call("POST", f"/clarifications/{asked['id']}/respond", json={"approver_id": "bob", "response": "a"})
    assert (answer.status_code, answer.json()["status"]) == (200, "approved")
    assert client.until(run["run_id"])["status"] == "completed"


def test_an_unanswered_question_times_out_and_fails_the_run(client: Client):
    run = client.run({**GATE, "approval": {"timeout": 0.3}}, body=ORDER)
    assert client.question(run)["timeout_at"]
    run = client.until(run["run_id"], "failed")
    assert run["error_details"]["code"] == "clarification_timeout"
    (asked,) = client.get(f"/runs/{run['run_id']}/clarifications")["clarifications"]
    assert (asked["status"], asked["resolution"]) == ("timeout", "timeout")
    assert client.answer(asked).json()["code"] == "clarification_already_resolved"


def test_questions_left_open_by_a_failure_are_closed(client: Client):
    gates = [{**GATE, "id": name} for name in ("one", "two")]
    run = client.until(client.start(client.plan(*gates, parallel_execution=True), **ORDER)["run_id"])
    one, two = client.get("/clarifications", params={"status": "pending"})["clarifications"]
    client.answer(one, approved=False)
    client.until(run["run_id"], "failed")
    closed = client.get(f"/clarifications/{two['id']}")
    assert (closed["status"], closed["resolution"]) == ("rejected", "run_failed")


def test_a_run_that_does_not_resume_by_itself_waits_for_resume(client: Client):
    run = client.run(GATE, body={**ORDER, "auto_resume": False})
    client.answer(client.question(run))
    run = client.get(f"/runs/{run['run_id']}")
    assert (run["status"], run["state"], run["paused_reason"]) == ("paused", "READY_TO_RESUME", "ready_to_resume")
    assert client.call("POST", f"/runs/{run['run_id']}/resume").status_code == 202
    assert client.until(run["run_id"])["status"] == "completed"


def test_another_tenant_sees_no_question(client: Client, mallory: Client):
    asked = client.question(client.run(GATE, body=ORDER))
    assert mallory.call("GET", f"/clarifications/{asked['id']}").status_code == 404
    assert mallory.answer(asked).status_code == 404
    assert mallory.get("/clarifications")["count"] == 0


def test_an_approved_step_that_is_tried_again_is_not_asked_again(client: Client):
    flaky = {"id": "f", "tool": "fail", "parameters": {"times": 1}, "approval": {}}
    run = client.run({**flaky, "retry": {"max_attempts": 2, "initial_delay": 0.01}})
    client.answer(client.question(run))
    run = client.until(run["run_id"])
    assert (run["status"], step(run, "f")["attempts"]) == ("completed", 2)
