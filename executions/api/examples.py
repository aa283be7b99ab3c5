"""Examples of requests and answers in the OpenAPI document: one small story, told with the plans in examples/plans.

They are real: tests/test_contract.py sends each request to the running service and compares each answer with what comes back.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from django.conf import settings

from executions.canonical_json import canonical_json, digest
from executions.plan_document import parse
from executions.portia.translate import translate
from executions.signing import RECEIPT

JSON = dict[str, Any]

RUN = "01a20add-65c2-7d9d-9157-4cfbcf985754"
REFUND_RUN = "01a20add-681f-76d8-bbdd-493024fbebf8"
WORKPLACE_RUN = "01a20add-fd0d-77e8-bf5c-88ede6552bf1"
KEY = "8e03978e-40d5-43dd-bc93-6894a57f9324"
CAPABILITY: JSON = {
    "valid": True, "mode": "token", "token_id": "tok-4711", "subject": "alice", "capabilities": ["mail:send"], "tools": None,
    "limits": {}, "parents": [], "expires_at": "2026-11-24T08:05:00Z", "error": None, "reason": None, "warnings": [],
}  # fmt: skip
TOOLS = ["data_validator", "email_connector"]
CAPTOKEN = "eyJhbGciOiJFZDI1NTE5Iiwia2lkIjoi….eyJpc3MiOiJjYXB0b2tlbnMi….W7Yh3k…"  # cut short: it is no token
REFUND_LIMIT: JSON = {
    "required": ["value"],
    "properties": {"value": {
        "type": "object", "required": ["amount_cents"],
        "properties": {"amount_cents": {"type": "integer", "minimum": 1, "maximum": 10_000}},
    }},
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Examples:
    """The examples of one operation: of its request by name, of its answers by status and name."""

    requests: JSON = field(default_factory=dict)
    answers: dict[str, JSON] = field(default_factory=dict)


@cache
def examples() -> dict[str, Examples]:
    """All examples, by operationId."""
    welcome = plan("welcome")
    wishes: JSON = {
        "parameters": {"email": "maria@example.com"},
        "labels": {"channel": "web"},
        "triggered_by": "web-shop",
    }
    stored = {"stored": _stored_plan(welcome)}
    accepted, ended, refund = _accepted_run(), _ended_run(), _waiting_run()
    approval, choice = _approval(), _choice()
    return {
        "health": Examples(answers={"200": {"healthy": _health()}}),
        "store_plan": Examples(requests={"welcome": welcome}, answers={"201": stored, "200": stored}),
        "get_plan": Examples(answers={"200": {"stored": {**_stored_plan(welcome), "executable_plan": welcome}}}),
        "list_plans": Examples(answers={"200": {"page": _page(_stored_plan(welcome))}}),
        "validate_plan": Examples(requests={"welcome": wishes}, answers={"200": {"fine": _preview(welcome)}}),
        "execute": Examples(
            requests={
                "by_hash": {"plan_hash": welcome["plan_hash"], **wishes},
                "with_plan": {"executable_plan": welcome, **wishes, "deduplicate": False},
                "dry_run": {"plan_hash": welcome["plan_hash"], **wishes, "dry_run": True},
            },
            answers={"202": {"accepted": accepted}, "200": {"ended": ended, "dry_run": _preview(welcome)}},
        ),
        "list_executions": Examples(answers={"200": {"page": _page(_summary(ended))}}),
        "get_execution": Examples(answers={"200": {"ended": ended, "waiting": refund}}),
        "pause_execution": Examples(
            requests={"nothing": {}}, answers={"202": {"asked": _asked(refund, "pause", ["resume", "cancel"])}}
        ),
        "resume_execution": Examples(
            requests={"nothing": {}, "fresh_token": {"capability_token": CAPTOKEN}},
            answers={"202": {"asked": _asked(refund, "resume", ["pause", "cancel"])}},
        ),
        "cancel_execution": Examples(
            requests={"nothing": {}}, answers={"202": {"asked": _asked(refund, "cancel", ["cancel"])}}
        ),
        "get_receipt": Examples(answers={"200": {"ended": _receipt()}}),
        "list_audit_keys": Examples(answers={"200": {"one": _audit_keys()}}),
        "list_audit_entries": Examples(answers={"200": {"page": _page(_audit_entry())}}),
        "get_idempotency_key": Examples(answers={"200": {"completed": _key()}}),
        "release_idempotency_key": Examples(
            requests={"mistake": {"reason": "The order was cancelled and placed anew."}},
            answers={"200": {"released": _released_key()}},
        ),
        "list_api_keys": Examples(answers={"200": {"page": _page(_api_key())}}),
        "create_api_key": Examples(
            requests={
                "reader": {"principal": "report-agent", "scopes": ["read"], "lifetime": 7_776_000},
                "as_long_as_mine": {"principal": "report-agent", "scopes": ["read"]},
            },
            answers={"201": {"reader": _made_api_key()}},
        ),
        "rotate_api_key": Examples(
            requests={"within_an_hour": {"overlap": 3600}},
            answers={"201": {"successor": _made_api_key(replaces="01a20ad1-5c1e-7b4f-8e63-0c5f8f1d2a77")}},
        ),
        "revoke_api_key": Examples(
            requests={"lost": {"reason": "The laptop it was on is gone."}},
            answers={"200": {"revoked": _api_key(revoked_at="2026-11-25T16:20:11.402175Z", revoked_by="ops-agent")}},
        ),
        "jwks": Examples(answers={"200": {"one": {"keys": [_public_key()]}}}),
        "issue_captoken": Examples(
            requests={
                "for_alice": {"subject": "alice", "capabilities": ["mail:send", "payments:*"], "lifetime": 300},
                "limited": {
                    "subject": "alice",
                    "capabilities": ["payments:refund"],
                    "tools": ["write_record"],
                    "limits": {"write_record": REFUND_LIMIT},
                },
            },
            answers={"201": {"for_alice": _captoken()}},
        ),
        "attenuate_captoken": Examples(
            requests={"mail_only": {"token": CAPTOKEN, "capabilities": ["mail:send"], "tools": TOOLS, "lifetime": 60}},
            answers={"201": {"mail_only": _narrow_captoken()}},
        ),
        "verify_captoken": Examples(
            requests={"mail": {"token": CAPTOKEN, "required_capabilities": ["mail:send"]}},
            answers={"200": {"good": CAPABILITY, "revoked": _revoked_captoken()}},
        ),
        "revoke_captoken": Examples(
            requests={"lost": {"reason": "The laptop it was on is gone."}},
            answers={
                "200": {
                    "revoked": {
                        "token_id": "tok-4711",
                        "revoked_at": "2026-11-24T08:02:19.730044Z",
                        "revoked_by": "ops-agent",
                        "reason": "The laptop it was on is gone.",
                    }
                }
            },
        ),
        "list_approvals": Examples(answers={"200": {"page": _page(approval)}}),
        "get_approval": Examples(answers={"200": {"approval": approval, "choice": choice}}),
        "approve": Examples(
            requests={"refund": {"action_digest": approval["action_digest"], "reason": "Return checked."}},
            answers={"200": {"refund": _decided(approval, "approve", "approved", True, "Return checked.")}},
        ),
        "reject": Examples(
            requests={"refund": {"action_digest": approval["action_digest"], "reason": "The box was empty."}},
            answers={"200": {"refund": _decided(approval, "reject", "rejected", None, "The box was empty.")}},
        ),
        "answer": Examples(
            requests={"choice": {"value": "Light laptop"}},
            answers={"200": {"choice": _decided(choice, "answer", "approved", "Light laptop", "")}},
        ),
    }


def add_examples(operations: Mapping[str, JSON]) -> None:
    """Put the examples into the operations, given by operationId."""
    for name, found in examples().items():
        operation = operations[name]
        if found.requests:
            operation["requestBody"]["content"]["application/json"]["examples"] = _named(found.requests)
        for status, answers in found.answers.items():
            operation["responses"][status]["content"]["application/json"]["examples"] = _named(answers)


def _named(values: JSON) -> JSON:
    return {name: {"value": value} for name, value in values.items()}


@cache
def plan(name: str) -> JSON:
    """One of the plans in examples/plans."""
    found: JSON = json.loads((settings.BASE_DIR / "examples" / "plans" / f"{name}.json").read_text())
    return found


# -- answers


def _health() -> JSON:
    checks = {"database": "ok", "worker": "ok", "portia": "ok"}
    return {"status": "healthy", "environment": "production", "version": "0.1.0", "checks": checks}


def _page(*results: JSON) -> JSON:
    return {"next": None, "previous": None, "results": list(results)}


def _stored_plan(document: JSON) -> JSON:
    base = f"/v1/plans/{document['plan_hash']}"
    return {
        **{name: document[name] for name in ("plan_hash", "name", "version", "description")},
        "created_at": "2026-11-24T08:00:00.342035Z",
        "created_by": "plan-compiler",
        "links": {
            "self": base,
            "validate": f"{base}/validate",
            "executions": f"/v1/executions?plan_hash={document['plan_hash']}",
        },
    }


def _preview(document: JSON) -> JSON:
    lists = {"plan": True, "tenant": None, "capability_token": None}
    steps = {"data_validator": ["validate_input"], "email_connector": ["send_welcome"]}
    return {
        "dry_run": True,
        "plan_hash": document["plan_hash"],
        "plan_name": document["name"],
        "allowed_tools": TOOLS,
        "capability": CAPABILITY,
        "tools": [{"name": name, "steps": steps[name], "allowed_by": lists, "in_runtime": True} for name in TOOLS],
        "step_order": ["validate_input", "stop_without_address", "send_welcome"],
        "approvals": [],
        "runtime": {
            "answers": True,
            "kind": "embedded",
            "needed": ["conditions", "retry", "step_timeout"],
            "missing": [],
        },
        "estimated_duration": {"runs": 100, "median": 0.31, "p90": 0.52},
        "warnings": [],
        "portia_plan": translate(parse(document), allowed_tools=TOOLS).to_json(),
    }


def _links(run_id: str, commands: list[str]) -> JSON:
    base = f"/v1/executions/{run_id}"
    return {"self": base, **{name: f"{base}/{name}" for name in commands}}


def _run(*, run_id: str, document: JSON, **facts: Any) -> JSON:
    """A run that was just accepted, but for these facts."""
    commands = facts.pop("commands", ["pause", "cancel"])
    run: JSON = {
        "run_id": run_id, "plan_hash": document["plan_hash"], "plan_name": document["name"],
        "status": "pending", "reason": "accepted", "requested": "", "version": 2, "progress": 0.0, "current_step": "",
        "triggered_by": "web-shop", "requested_by": "shop-agent", "correlation_id": "order-4711",
        "labels": document["metadata"]["labels"] | {"channel": "web"}, "timings": _timings(), "steps": [], "results": {},
        "error": None, "parameters": {}, "variables": {}, "rollback": {}, "capability": CAPABILITY, "allowed_tools": TOOLS,
        "portia_run_id": None, "pending_clarifications": [], "allowed_commands": commands, "links": _links(run_id, commands),
    }  # fmt: skip
    return run | facts


def _timings(**changes: Any) -> JSON:
    accepted = "2026-11-24T08:00:01.394330Z"
    unknown = {
        "created_at": accepted,
        "started_at": None,
        "finished_at": None,
        "updated_at": accepted,
        "duration": None,
    }
    return unknown | changes


def _step(step_id: str, name: str, kind: str = "action", **facts: Any) -> JSON:
    """A step that has not begun, but for these facts."""
    unknown = {
        "step_id": step_id, "name": name, "type": kind, "status": "pending", "attempts": 0, "started_at": None,
        "completed_at": None, "next_attempt_at": None, "output": None, "error": None, "reason": "",
    }  # fmt: skip
    return unknown | facts


def _accepted_run() -> JSON:
    steps = [
        _step("validate_input", "Check the address"),
        _step("stop_without_address", "Stop: the address is not valid", "exit"),
        _step("send_welcome", "Send the welcome mail"),
    ]
    return _run(run_id=RUN, document=plan("welcome"), steps=steps, parameters={"email": "maria@example.com"})


def _ended_run() -> JSON:
    moment = {"started_at": "2026-11-24T08:00:01.664532Z", "completed_at": "2026-11-24T08:00:01.676823Z"}
    checked = {"errors": [], "success": True}
    sent = {"success": True, "message_id": "<a1f0f030@portia-runtime>", "recipients": ["maria@example.com"]}
    check, stop, send = _accepted_run()["steps"]
    return _accepted_run() | {
        "status": "completed", "reason": "ok", "version": 9, "progress": 1.0, "portia_run_id": "prun-01a20add",
        "timings": _timings(
            started_at="2026-11-24T08:00:01.681122Z", finished_at="2026-11-24T08:00:01.883368Z",
            updated_at="2026-11-24T08:00:01.885106Z", duration=0.489038,
        ),
        "steps": [
            check | moment | {"status": "completed", "attempts": 1, "output": checked},
            stop | {"status": "skipped", "reason": "condition not met: validate_input.success == false"},
            send | moment | {"status": "completed", "attempts": 1, "output": sent},
        ],
        "results": {"validate_input": checked, "send_welcome": sent},
        "allowed_commands": [], "links": _links(RUN, []),
    }  # fmt: skip


def _waiting_run() -> JSON:
    return _run(
        run_id=REFUND_RUN, document=plan("refund"), status="paused", reason="awaiting_clarification", version=7, progress=0.5,
        current_step="pay_back", portia_run_id="prun-01a20ade",
        timings=_timings(started_at="2026-11-24T08:00:01.681122Z", updated_at="2026-11-24T08:00:02.461446Z"),
        steps=[_step("pay_back", "Pay the money back", status="waiting", reason="waiting for approval")],
        allowed_tools=sorted(plan("refund")["security_context"]["allowed_tools"]),
        pending_clarifications=["01a20add-6a16-7efe-bc12-68c40bf11c28"],
    )  # fmt: skip


def _asked(run: JSON, command: str, commands: list[str]) -> JSON:
    """A run of which something was just asked."""
    links = _links(run["run_id"], commands)
    return run | {"requested": command, "version": 8, "allowed_commands": commands, "links": links}


def _summary(run: JSON) -> JSON:
    shown = [
        "run_id", "plan_hash", "plan_name", "status", "reason", "requested", "version", "progress", "current_step",
        "triggered_by", "requested_by", "correlation_id", "labels", "timings",
    ]  # fmt: skip
    return {name: run[name] for name in shown}


def _receipt() -> JSON:
    said = {
        "run_id": RUN, "plan_hash": plan("welcome")["plan_hash"], "tenant": "shop", "capability": None, "approvals": [],
        "status": "completed", "reason": "ok", "finished_at": "2026-11-24T08:00:01.883368Z", "audit": None,
    }  # fmt: skip
    signature = {"keyid": _audit_keys()["keys"][0]["kid"], "sig": "pKm3nRVG0fVrzTdjxTjHVQJZ8PsPLfuHwEBIgmzt2aA="}
    payload = b64encode(canonical_json(said)).decode()
    return {"payloadType": RECEIPT, "payload": payload, "signatures": [signature]}


def _audit_keys() -> JSON:
    key = {
        "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "use": "sig", "alg": "Ed25519",
        "kid": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
    }  # fmt: skip
    return {"keys": [key]}


def _audit_entry() -> JSON:
    return {
        "id": "01a20add-6f11-7c02-9a53-0f6a1c1f7f11", "at": "2026-11-24T08:00:04.113256Z", "actor": "shop-agent",
        "source": "api", "action": "execution.cancel_requested", "subject": f"execution/{RUN}", "reason": "",
        "correlation_id": "order-4711", "address": "203.0.113.7",
        "before": {"status": "running", "reason": "executing", "requested": ""}, "after": None,
        "digest": "2d3c1f1bb5a5a70d2f9b3e8a6a1d4f8c7f3be2f4a1e0d9c8b7a69584736251f0", "sequence": 42,
        "hash": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    }  # fmt: skip


def _key() -> JSON:
    return {
        "key": KEY, "principal": "shop-agent", "state": "completed", "origin": "header", "route": "POST /v1/execute",
        "fingerprint": "41bf846af3b43aec6ce4abd98eed19a4e6637b724841cf481008f8abc1f47a08", "response_status": 202,
        "location": f"/v1/executions/{RUN}", "created_at": "2026-11-24T08:00:01.391669Z",
        "expires_at": "2026-11-25T08:00:01.415447Z", "releases": [],
    }  # fmt: skip


def _released_key() -> JSON:
    key = _key()
    release = {
        "route": key["route"],
        "location": key["location"],
        "created_at": key["created_at"],
        "released_at": "2026-11-24T08:04:13.256057Z",
        "released_by": "shop-agent",
        "release_reason": "The order was cancelled and placed anew.",
    }
    return key | {"state": "released", "expires_at": None, "releases": [release]}


def _api_key(**changes: Any) -> JSON:
    """A key that was just made, but for these facts."""
    key_id = "01a20ae3-8d0b-7c52-9f3a-6b1f0d7e4c29"
    key: JSON = {
        "id": key_id, "principal": "report-agent", "user": None, "scopes": ["read"], "prefix": "orc_4pVt7dKx",
        "created_at": "2026-11-24T08:06:44.171307Z", "created_by": "ops-agent", "expires_at": "2027-02-22T08:06:44.169822Z",
        "last_used_at": None, "replaces": None, "revoked_at": None, "revoked_by": "",
        "links": {verb: f"/v1/api-keys/{key_id}/{verb}" for verb in ("rotate", "revoke")},
    }  # fmt: skip
    return key | changes


def _made_api_key(**changes: Any) -> JSON:
    """A new key with its secret; this one opens nothing."""
    return _api_key(**changes) | {"secret": "orc_4pVt7dKx" + "0" * 35}


def _public_key() -> JSON:
    x = "mLxkR1n1dY0mQbJH8nDkzWJ2kq4m9g3mXb6v0yq2lUo"
    return {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "k-2026-11", "use": "sig", "alg": "Ed25519"}


def _captoken(**changes: Any) -> JSON:
    """A token that was just issued, but for these facts."""
    made: JSON = {
        "token": CAPTOKEN, "token_id": "tok-4711", "subject": "alice", "capabilities": ["mail:send", "payments:*"],
        "tools": None, "limits": {}, "parents": [], "expires_at": "2026-11-24T08:05:00Z",
    }  # fmt: skip
    return made | changes


def _narrow_captoken() -> JSON:
    narrower: JSON = {"capabilities": ["mail:send"], "tools": TOOLS, "expires_at": "2026-11-24T08:01:20Z"}
    return _captoken(**narrower, token_id="tok-4712", parents=["tok-4711"])  # noqa: S106  an id is no secret


def _revoked_captoken() -> JSON:
    unknown: JSON = {"token_id": None, "subject": None, "capabilities": [], "tools": None, "expires_at": None}
    sentence = "The token was revoked: ask for a fresh one."
    return CAPABILITY | unknown | {"valid": False, "error": sentence, "reason": "revoked"}


def _clarification(*, approval_id: str, run_id: str, document: JSON, verbs: list[str], **facts: Any) -> JSON:
    """A question that waits."""
    base = f"/v1/approvals/{approval_id}"
    question: JSON = {
        "id": approval_id, "run_id": run_id, "plan_name": document["name"], "plan_hash": document["plan_hash"],
        "triggered_by": "web-shop", "status": "pending", "portia_status": "pending", "round": 1, "argument_name": "",
        "options": [], "action_url": "", "proposed": None, "details": {}, "action": None, "action_digest": "",
        "required_approvers": [], "approval_rules": [], "requested_at": "2026-11-24T08:00:02.192676Z", "decided_at": None,
        "decided_by": "", "decision_reason": "", "response": None, "delivered_at": None, "delivery_error": "", "votes": [],
        "links": {"self": base, "run": f"/v1/executions/{run_id}", **{verb: f"{base}/{verb}" for verb in verbs}},
    }  # fmt: skip
    return question | facts


def _approval() -> JSON:
    value = {"order": "A-1042", "payee": "Maria Keller", "currency": "EUR", "amount_cents": 9500}
    action = {
        "tool": "write_record", "action": "write", "step_id": "pay_back", "plan_hash": plan("refund")["plan_hash"],
        "arguments": {"key": "refund:A-1042", "value": value},
    }  # fmt: skip
    return _clarification(
        approval_id="01a20add-6a16-7efe-bc12-68c40bf11c28", run_id=REFUND_RUN, document=plan("refund"),
        verbs=["approve", "reject"], category="User Verification", step_id="pay_back", title="Refund order A-1042",
        guidance=(
            "Maria Keller has sent back 2 x Filter grinder K40; the return was checked. "
            "Shall exactly this amount be paid back?"
        ),
        action=action, action_digest=digest(action), deadline="2026-11-25T08:00:02.192676Z",
    )  # fmt: skip


def _choice() -> JSON:
    return _clarification(
        approval_id="01a20add-fe1b-7f9f-bca3-34c896004945", run_id=WORKPLACE_RUN, document=plan("user_input"),
        verbs=["answer", "reject"], category="Multiple Choice", step_id="choose_computer", title="Computer for Amira Haddad",
        guidance="Which computer does Amira Haddad need?", argument_name="choose_computer",
        options=["Light laptop", "Workstation", "Tablet with keyboard"], deadline="2026-12-01T08:00:02.192676Z",
    )  # fmt: skip


def _decided(question: JSON, decision: str, status: str, value: Any, reason: str) -> JSON:
    moment = "2026-11-24T08:10:35.236457Z"
    vote = {
        "voter": "bob",
        "decision": decision,
        "value": value,
        "reason": reason,
        "source": "api",
        "created_at": moment,
    }
    links = {name: question["links"][name] for name in ("self", "run")}
    return question | {
        "status": status, "decided_at": moment, "decided_by": "bob", "decision_reason": reason, "response": value,
        "votes": [vote], "links": links,
    }  # fmt: skip
