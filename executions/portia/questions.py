"""What a run of a Portia plan asks people, in order, as far as the plan tells: templates stand as they are written. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from executions.portia.course import Station, course
from executions.portia.needs import time_to_answer
from executions.portia.wire import JSON, PortiaPlan

APPROVAL, CHOICE, INPUT = "User Verification", "Multiple Choice", "Input"  # of Portia's six categories
MOST_BEFORE = 50


@dataclass(frozen=True, kw_only=True)
class Question:
    """A clarification to come. `after`: the last 50 steps that end before; `deadline_seconds`: from then on, None for ever."""

    step_id: str
    category: str
    title: str
    message: str
    after: list[str]
    repeats: bool
    conditional: bool
    required_approvers: list[str]
    approval_rules: list[str]
    deadline_seconds: float | None


def questions(plan: PortiaPlan) -> Iterator[Question]:
    """Every question, those of conditional steps and of rollbacks too; one of a loop stands for that of each round."""
    for station in course(plan):
        asked = _asked(station.step)
        if asked is not None:
            yield _question(station, asked)


def _asked(step: JSON) -> JSON | None:
    """The words in which the step asks somebody, or None where it asks nobody."""
    if step["type"] == "user_input":
        return step["parameters"]
    return step["approval"] if step["type"] in ("action", "approval") else None


def _question(station: Station, asked: JSON) -> Question:
    step = station.step
    return Question(
        step_id=station.path,
        category=_category(step, asked),
        title=_text(asked.get("title")) or step["name"],
        message=_text(asked.get("message")) or step["description"] or "",
        after=station.before(most=MOST_BEFORE),
        repeats=station.repeats,
        conditional=station.conditional,
        required_approvers=_words(asked.get("required_approvers")),
        approval_rules=_words(asked.get("approval_rules")),
        deadline_seconds=time_to_answer(step),
    )


def _category(step: JSON, asked: JSON) -> str:
    if step["type"] != "user_input":
        return APPROVAL
    return asked.get("category") or (CHOICE if asked.get("options") else INPUT)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _words(value: Any) -> list[str]:
    """A list of names; a user_input may say it as one text, or as something that is none."""
    names = value if isinstance(value, list) else [value]
    return [name for name in names if isinstance(name, str)]
