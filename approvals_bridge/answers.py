"""Is this the kind of value that was asked for? Each category of clarification has its own answer.

Nothing is guessed or converted: a yes/no is a boolean, an option is one that was offered, of the same JSON type.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from jsonschema.exceptions import best_match

from approvals_bridge.models import Category, Clarification, Decision
from executions.errors import InvalidRequest
from executions.plan_parts import escaped
from safe_json_schema import UnusableSchema, misfits

ACTION_DONE = "complete"
NEED_A_VALUE = (Category.INPUT, Category.MULTIPLE_CHOICE, Category.CUSTOM)
LONGEST_TEXT = 20_000  # characters of one answer as JSON
LONGEST_MESSAGE = 500


def check(clarification: Clarification, value: Any) -> Any:
    """Return the value to send to Portia. Raises InvalidRequest, with a pointer to /value, for one that does not fit."""
    if len(json.dumps(value, default=str)) > LONGEST_TEXT:
        raise _refusal(f"The answer is longer than {LONGEST_TEXT} characters.")
    checker = CHECKERS.get(clarification.category, _check_schema)
    return checker(clarification, value)


def is_yes_or_no(clarification: Clarification) -> bool:
    """Whether this is decided by approve or reject alone, with no value to give."""
    return clarification.category == Category.USER_VERIFICATION


def check_decision(clarification: Clarification, decision: str) -> None:
    """Refuse an answer where a yes or no is asked for, and a bare yes where a value is."""
    if decision == Decision.ANSWER and is_yes_or_no(clarification):
        raise InvalidRequest("This is a yes or no: approve or reject it.")
    if decision == Decision.APPROVE and clarification.category in NEED_A_VALUE:
        raise InvalidRequest("This asks for a value: answer it.")


def verbs(clarification: Clarification) -> tuple[str, ...]:
    """Name the ways to decide this: the last parts of its API addresses."""
    if is_yes_or_no(clarification):
        return ("approve", "reject")
    return ("answer", "reject") if clarification.category in NEED_A_VALUE else ("approve", "answer", "reject")


def safe_url(url: str) -> str:
    """Return an address a person may be sent to, or nothing: http and https only."""
    try:
        return url if urlsplit(url).scheme in ("http", "https") else ""
    except ValueError:
        return ""


def _check_choice(clarification: Clarification, value: Any) -> Any:
    if any(type(option) is type(value) and option == value for option in clarification.options):
        return value
    offered = ", ".join(json.dumps(option, ensure_ascii=False) for option in clarification.options)
    raise _refusal(f"Choose one of: {offered}.")


def _check_confirmation(clarification: Clarification, value: Any) -> Any:
    proposed = clarification.proposed
    if value is None or value == proposed:
        return proposed
    if proposed is not None and type(value) is not type(proposed):
        raise _refusal(f"A value like {json.dumps(proposed)} is asked for; this one is of another kind.")
    return _check_schema(clarification, value)


def _check_action(clarification: Clarification, value: Any) -> Any:
    if value not in (None, ACTION_DONE):
        raise _refusal(f'Say "{ACTION_DONE}" once it is done.')
    return ACTION_DONE


def _check_given(clarification: Clarification, value: Any) -> Any:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise _refusal("Enter a value.")
    return _check_schema(clarification, value)


def _check_schema(clarification: Clarification, value: Any) -> Any:
    try:
        problem = best_match(misfits(clarification.data.get("schema") or {}, value))
    except UnusableSchema as error:
        raise _refusal(f"No value can be checked against the schema of this question, so reject it: {error}") from None
    if problem is not None:
        where = "".join(f"/{escaped(str(part))}" for part in problem.absolute_path)
        raise _refusal(problem.message[:LONGEST_MESSAGE], pointer=f"/value{where}")
    return value


CHECKERS: dict[str, Callable[[Clarification, Any], Any]] = {
    Category.MULTIPLE_CHOICE: _check_choice,
    Category.VALUE_CONFIRMATION: _check_confirmation,
    Category.ACTION: _check_action,
    Category.INPUT: _check_given,
    Category.CUSTOM: _check_given,
}


def _refusal(detail: str, pointer: str = "/value") -> InvalidRequest:
    return InvalidRequest(detail, errors=[{"pointer": pointer, "code": "invalid_answer", "detail": detail}])
