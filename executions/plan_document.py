"""The ExecutablePlan document: from decoded JSON to a plan that may be run, or to every reason why not.

`parse` first asks whether the document can be hashed and stored at all, then checks its shape (plan_model) and everything
across fields (plan_checks), and reports both together. What each field means: docs/reference/executable-plan.md.
"""

from __future__ import annotations

import re
from collections.abc import Container
from copy import deepcopy
from hashlib import sha256
from itertools import islice
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from executions.canonical_json import JSONPath, NotCanonical, canonical_json, flaws
from executions.plan_checks import check
from executions.plan_model import ExecutablePlan, Flow, Step
from executions.plan_parts import PlanError, PlanInvalid, RetryPolicy, escaped
from executions.plan_size import oversize

__all__ = ["ExecutablePlan", "Flow", "PlanError", "PlanInvalid", "RetryPolicy", "Step", "canonical_hash", "parse"]

NOT_HASHED = frozenset({"plan_id", "plan_hash"})
VOLATILE_METADATA = "compiled_"
REPAIRS = 5
MAX_ERRORS = 500
MAX_SHAPE_ERRORS = 1000
QUOTED = 80
_NUL = b"\\u0000"

# What stands in for a missing field, so that the checks across fields can still look at the rest of the document.
_STEP_STAND_IN = {"step_id": "", "step_type": ""}
_STAND_INS: dict[str | int, Any] = {
    "flows": [{"flow_id": "", "steps": [_STEP_STAND_IN]}],
    "steps": [_STEP_STAND_IN],
    "name": "-",
    "expression": "true",
}
# pydantic's error types: our code and what to do; the names in braces are of pydantic's context.
_SHAPE_ERRORS = {
    "missing": ("missing_field", "Add the field '{field}'."),
    "extra_forbidden": ("unknown_field", "There is no field '{field}' here; remove it, or move it into metadata."),
    "string_type": ("wrong_type", "Give a string."),
    "int_type": ("wrong_type", "Give a whole number."),
    "float_type": ("wrong_type", "Give a number."),
    "bool_type": ("wrong_type", "Give true or false."),
    "list_type": ("wrong_type", "Give a list."),
    "dict_type": ("wrong_type", "Give an object."),
    "model_type": ("wrong_type", "Give an object."),
    "literal_error": ("invalid_value", "Use one of {expected}."),
    "finite_number": ("out_of_range", "Give a finite number."),
    "greater_than": ("out_of_range", "Give more than {gt}."),
    "greater_than_equal": ("out_of_range", "Give at least {ge}."),
    "less_than_equal": ("out_of_range", "Give at most {le}."),
    "too_short": ("too_short", "Give at least {min_length} of these."),
    "too_long": ("too_long", "Give at most {max_length} of these."),
    "string_too_short": ("too_short", "Give at least {min_length} character."),
    "string_too_long": ("too_long", "Give at most {max_length} characters."),
}
# Errors across fields that a wrong field elsewhere brings along: their codes, and where that field may be.
_CAUSES = {
    "missing_parameter": r"HERE/.*",
    "tool_not_allowed": r"/security_context(/.*)?",
    "unknown_main_flow": r"/flows(/\d+(/flow_id)?)?",
}


def parse(document: Any) -> ExecutablePlan:
    """The plan of a JSON-decoded document, with its `plan_hash` computed.

    Raises PlanInvalid with every error at once. Only a document that cannot be hashed or stored, or is out of all bounds, is
    refused for that alone.
    """
    if not isinstance(document, dict):
        raise PlanInvalid([PlanError("", "not_an_object", "Send the plan as a JSON object.")])
    if too_large := oversize(document):
        raise PlanInvalid([too_large])
    plan_hash = canonical_hash(document)
    plan, errors = _shaped(document | {"plan_hash": plan_hash})
    errors += _wrong_hash(document.get("plan_hash"), plan_hash)
    if plan:
        known = {error.pointer for error in errors}
        errors += [error for error in check(plan) if not _follows_from(known, error)]
    if errors or plan is None:
        raise PlanInvalid(_listed(errors))
    return plan


def canonical_hash(document: dict[str, Any]) -> str:
    """64 hex digits: SHA-256 of the RFC 8785 bytes without plan_id, plan_hash and the metadata keys `compiled_*`.

    Raises PlanInvalid for what cannot be hashed exactly or cannot be stored.
    """
    content = {key: value for key, value in document.items() if key not in NOT_HASHED}
    if isinstance(content.get("metadata"), dict):
        content["metadata"] = lasting(content["metadata"])
    try:
        canonical = canonical_json(content)
    except NotCanonical:
        canonical = b""
    if not canonical or _NUL in canonical:  # which may also be a backslash and five letters: look closely
        _require_sound(document)
    _require_sound({key: value for key, value in document.items() if key in {*NOT_HASHED, "metadata"}})
    return sha256(canonical).hexdigest()


def lasting(metadata: dict[str, Any]) -> dict[str, Any]:
    """A plan's metadata without what differs from one compilation of the same plan to the next."""
    return {key: value for key, value in metadata.items() if not str(key).startswith(VOLATILE_METADATA)}


def _require_sound(document: dict[str, Any]) -> None:
    found = [
        PlanError(_pointer(path), code, message) for path, code, message in islice(flaws(document), MAX_SHAPE_ERRORS)
    ]
    if found:
        raise PlanInvalid(_listed(found))


def _wrong_hash(submitted: Any, computed: str) -> list[PlanError]:
    if submitted is None or submitted == computed:
        return []
    given = str(submitted)[:QUOTED]
    message = (
        f"The content's hash is {computed}, not {given}: send that one, leave plan_hash out, or restore the content."
    )
    return [PlanError("/plan_hash", "plan_hash_mismatch", message)]


def _shaped(document: dict[str, Any]) -> tuple[ExecutablePlan | None, list[PlanError]]:
    """The plan and its errors of shape; broken parts are replaced, so that the checks across fields see the rest."""
    errors: dict[str, PlanError] = {}
    for _ in range(REPAIRS):
        try:
            return ExecutablePlan.model_validate(document), list(errors.values())
        except ValidationError as invalid:
            found = invalid.errors(include_url=False, include_input=False)
        if len(found) > MAX_SHAPE_ERRORS:
            return None, [_shape_error(one) for one in found[:MAX_SHAPE_ERRORS]]
        new = [_shape_error(one) for one in found]
        errors |= {one.pointer: one for one in new if not _is_within(one.pointer, errors)}
        document = _repaired(document, found)
    return None, list(errors.values())


def _shape_error(found: ErrorDetails) -> PlanError:
    code, message = _SHAPE_ERRORS.get(found["type"], (found["type"], found["msg"]))
    values = {"field": (found["loc"] or ("",))[-1]} | found.get("ctx", {})
    return PlanError(_pointer(found["loc"]), code, message.format_map(values))


def _repaired(document: dict[str, Any], found: list[ErrorDetails]) -> dict[str, Any]:
    document = deepcopy(document)
    for one in found:
        if not one["loc"]:
            continue
        *way, last = one["loc"]
        parent: Any = document
        try:
            for key in way:
                parent = parent[key]
            if one["type"] == "missing":
                parent[last] = _STAND_INS.get(last, "")
            elif isinstance(parent, list):
                parent[int(last)] = {} if one["type"] == "model_type" else "-"
            else:
                del parent[last]
        except (KeyError, IndexError, TypeError):
            continue  # a part further up was replaced already
    return document


def _follows_from(known: set[str], error: PlanError) -> bool:
    """Whether an error only comes of a part that was left out because of an error of shape."""
    causes = _CAUSES.get(error.code, "(?!)").replace("HERE", re.escape(error.pointer))
    return _is_within(error.pointer, known) or any(re.fullmatch(causes, one) for one in known)


def _is_within(pointer: str, known: Container[str]) -> bool:
    parts = pointer.split("/")
    return any("/".join(parts[:end]) in known for end in range(1, len(parts) + 1))


def _pointer(path: JSONPath) -> str:
    return "".join(f"/{escaped(str(part))}" for part in path)


def _listed(errors: list[PlanError]) -> list[PlanError]:
    """The errors in document order, each once; beyond MAX_ERRORS only their number."""
    found = sorted(dict.fromkeys(errors), key=_document_order)
    if len(found) <= MAX_ERRORS:
        return found
    message = f"There are at least {len(found) - MAX_ERRORS} more errors; mend these {MAX_ERRORS} first."
    return [*found[:MAX_ERRORS], PlanError("", "too_many_errors", message)]


def _document_order(error: PlanError) -> list[str]:
    return [part.zfill(6) if part.isdigit() else part for part in error.pointer.split("/")]
