"""The plans in examples/plans: each is valid, carries its hash, and uses only tools of the embedded runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from executions.plan_document import canonical_hash, parse
from executions.portia.translate import execution_order, translate

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "plans"
NAMES = ["fan_out", "loop", "refund", "rollback", "user_input", "welcome"]
TOOLS = {
    "calculate",
    "data_validator",
    "echo",
    "email_connector",
    "fail",
    "http_request",
    "read_record",
    "template_render",
    "wait",
    "write_record",
}


def example(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text())


def test_these_are_the_example_plans() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_example_is_valid_and_carries_its_hash(name: str) -> None:
    document = example(name)
    assert document["plan_hash"] == canonical_hash(document) == parse(document).plan_hash


@pytest.mark.parametrize("name", NAMES)
def test_every_example_allows_exactly_the_tools_it_uses(name: str) -> None:
    plan = parse(example(name))
    assert plan.tools() == set(plan.security_context.allowed_tools)
    assert plan.tools() <= TOOLS


@pytest.mark.parametrize("name", NAMES)
def test_every_step_of_an_example_has_a_name_to_read(name: str) -> None:
    assert all(step.name and step.name != step.step_id for _, step in parse(example(name)).every_step())


def test_refund_pays_only_after_a_person_agreed_to_that_payment() -> None:
    (pay,) = [step for step in translate(parse(example("refund"))).steps if step.id == "pay_back"]
    assert (pay.tool, pay.approval["title"]) == ("write_record", "Refund order {{order.id}}")


def test_fan_out_joins_three_offers_that_run_at_once() -> None:
    plan = translate(parse(example("fan_out")))
    needs = {step.id: step.depends_on for step in plan.steps}
    assert plan.parallel_execution
    assert needs["choose_cheapest"] == ["offer_post", "offer_rail", "offer_courier"]
    assert all(needs[offer] == ["check_parcel"] for offer in needs["choose_cheapest"])


def test_rollback_steps_are_not_in_the_normal_order() -> None:
    assert execution_order(parse(example("rollback"))) == [
        "reserve_hotel",
        "reserve_flight",
        "charge_card",
        "confirm_trip",
    ]
