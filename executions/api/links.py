"""How one operation leads to others: the links of the OpenAPI document.

A link names an operation and says which part of an answer, or of its request, is to be put where (runtime expressions of the
OpenAPI specification).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RUN_ID = {"run_id": "$response.body#/run_id"}
PLAN_HASH = {"plan_hash": "$response.body#/plan_hash"}
OF_A_RUN = {
    "LookAtIt": ("get_execution", RUN_ID),
    "PauseIt": ("pause_execution", RUN_ID),
    "ResumeIt": ("resume_execution", RUN_ID),
    "CancelIt": ("cancel_execution", RUN_ID),
    "ItsPlan": ("get_plan", PLAN_HASH),
}
OF_A_KEY = {"ItsKey": ("get_idempotency_key", {"key": "$request.header.Idempotency-Key"})}
OF_A_PLAN = {"LookAtIt": ("get_plan", PLAN_HASH), "ValidateIt": ("validate_plan", PLAN_HASH)}
FIRST_RUN = {"run_id": "$response.body#/results/0/run_id"}
FIRST_PLAN = {"plan_hash": "$response.body#/results/0/plan_hash"}
FIRST_APPROVAL = {"clarification_id": "$response.body#/results/0/id"}
THIS_TOKEN = {"token_id": "$response.body#/token_id"}
THIS_APPROVAL = {"clarification_id": "$response.body#/id"}

# operation and status -> name of the link -> (operation it leads to, parameters)
LINKS: dict[tuple[str, str], dict[str, tuple[str, dict[str, str]]]] = {
    ("execute", "202"): OF_A_RUN | OF_A_KEY,
    ("execute", "200"): OF_A_RUN | OF_A_KEY,
    ("get_execution", "200"): {
        **{name: link for name, link in OF_A_RUN.items() if name != "LookAtIt"},
        "WhatItAsks": ("get_approval", {"clarification_id": "$response.body#/pending_clarifications/0"}),
    },
    ("list_executions", "200"): {"LookAtTheFirst": ("get_execution", FIRST_RUN)},
    ("store_plan", "201"): OF_A_PLAN,
    ("store_plan", "200"): OF_A_PLAN,
    ("list_plans", "200"): {"LookAtTheFirst": ("get_plan", FIRST_PLAN)},
    ("list_approvals", "200"): {
        "LookAtTheFirst": ("get_approval", FIRST_APPROVAL),
        "ApproveTheFirst": ("approve", FIRST_APPROVAL),
        "RejectTheFirst": ("reject", FIRST_APPROVAL),
        "AnswerTheFirst": ("answer", FIRST_APPROVAL),
    },
    ("get_approval", "200"): {
        "ApproveIt": ("approve", THIS_APPROVAL),
        "RejectIt": ("reject", THIS_APPROVAL),
        "AnswerIt": ("answer", THIS_APPROVAL),
    },
    ("issue_captoken", "201"): {"RevokeIt": ("revoke_captoken", THIS_TOKEN)},
    ("attenuate_captoken", "201"): {"RevokeIt": ("revoke_captoken", THIS_TOKEN)},
    ("get_idempotency_key", "200"): {
        "ReleaseIt": ("release_idempotency_key", {"key": "$response.body#/key"}),
    },
}
# What the body of a decision has to repeat of the answer that showed what is to be decided.
SEALS = {
    "list_approvals": {"action_digest": "$response.body#/results/0/action_digest"},
    "get_approval": {"action_digest": "$response.body#/action_digest"},
}
DECISIONS = ("approve", "reject", "answer")


def add_links(operations: Mapping[str, dict[str, Any]]) -> None:
    """Put the links into the responses of the operations, given by operationId."""
    for (source, status), links in LINKS.items():
        operations[source]["responses"][status]["links"] = {
            name: _link(source, target, parameters) for name, (target, parameters) in links.items()
        }


def _link(source: str, target: str, parameters: dict[str, str]) -> dict[str, Any]:
    link: dict[str, Any] = {"operationId": target, "parameters": parameters}
    return link | ({"requestBody": SEALS[source]} if target in DECISIONS else {})
