"""What schemathesis must know besides the OpenAPI document; test_contract.py runs it with this file."""

from __future__ import annotations

import json
import re
from itertools import count
from pathlib import Path
from typing import Any

import schemathesis
from schemathesis.core.failures import Failure
from schemathesis.openapi.checks import RejectedPositiveData

WELCOME = Path(__file__).resolve().parent.parent / "examples" / "plans" / "welcome.json"
KEY = re.compile(r'"([ !#-\[\]-~]|\\["\\]){1,255}"|[!#-+\--~]{1,255}')
NUMBERS = count()
VERSIONS_PATTERN = r'\*|"[1-9][0-9]{0,9}"([ \t]*,[ \t]*"[1-9][0-9]{0,9}")*'

# A request that fits the document may be refused for what no JSON Schema can say. These are all such reasons.
CODES = {
    "invalid-plan",  # what steps refer to, and what the runtime has
    "idempotency-key-reused",  # what was sent before
    "version-changed",  # what the run is by now
    "expired",  # what time it is
}
ERRORS = {
    ("/retry_policy/max_delay", "invalid"),  # not less than initial_delay
    ("/plan_hash", "plan_hash_mismatch"),  # not the hash of the plan beside it
    ("/hooks", "unknown_hook"),
    ("/limits", "invalid_limit"),  # schemas of a subset, each with its type
    ("/reason", "required"),  # by a rejection
    ("/value", "invalid_answer"),  # to the question
}
DECISIONS = {"approve", "answer"}  # one of them, as the question is


@schemathesis.hook
def filter_failure(context: Any, failure: Failure, case: Any, response: Any) -> bool:
    """Whether a failure is one."""
    if not isinstance(failure, RejectedPositiveData):
        return True
    return _versions_fit(case) and not is_beyond_any_schema(case, response.json())


def _versions_fit(case: Any) -> bool:
    """Whether `If-Match` is as the document says: schemathesis takes any entity tag for one, and "0" for lack of a better."""
    given = (case.headers or {}).get("If-Match")
    return given is None or re.fullmatch(VERSIONS_PATTERN, given) is not None


def is_beyond_any_schema(case: Any, problem: dict[str, Any]) -> bool:
    """Whether a refusal is for a reason that no JSON Schema can say."""
    if problem["code"] in CODES:
        return True
    if "errors" not in problem:
        operation = case.operation.definition.raw["operationId"]
        return problem["code"] == "invalid-request" and operation in DECISIONS
    found = {(_top(one["pointer"]), one["code"]) for one in problem["errors"]}
    return all(error in ERRORS or error[1] == "number_too_large" for error in found)  # beyond 2^53 - 1, at any depth


def _top(pointer: str) -> str:
    """The pointer without what lies below a value of the caller's own, or a place in a list."""
    name = pointer.split("/")[1] if pointer else ""
    return pointer if name == "retry_policy" else f"/{name}"


@schemathesis.hook
def before_load_schema(context: Any, raw_schema: dict[str, Any]) -> None:
    """Try everything a plan can be at one place, where it is the whole body; submit a sound one, so that there are runs."""
    submission = raw_schema["components"]["schemas"]["ExecuteRequest"]["properties"]
    welcome = json.loads(WELCOME.read_text())
    submission["executable_plan"] = {"type": "object", "enum": [welcome]}
    submission["plan_hash"]["enum"] = [welcome["plan_hash"]]


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Give each request that brings a sound key one of its own: a key used twice would hide whatever else is wrong."""
    kwargs["auth"] = _with_a_fresh_key


def _with_a_fresh_key(request: Any) -> Any:
    """Change the prepared request, which is later than schemathesis looks at it."""
    if KEY.fullmatch(request.headers.get("Idempotency-Key", "")):
        request.headers["Idempotency-Key"] = f'"request-{next(NUMBERS)}"'
    return request
