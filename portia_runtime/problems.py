"""Errors of the runtime as problem documents (contract section 2)."""

from __future__ import annotations

from typing import Any

from django.http import JsonResponse

STATUS = {
    "invalid_json": 400,
    "invalid_idempotency_key": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "plan_not_found": 404,
    "run_not_found": 404,
    "clarification_not_found": 404,
    "not_found": 404,
    "method_not_allowed": 405,
    "plan_conflict": 409,
    "invalid_state": 409,
    "clarifications_outstanding": 409,
    "clarification_already_resolved": 409,
    "stale_subject": 409,
    "payload_too_large": 413,
    "invalid_plan": 422,
    "invalid_request": 422,
    "invalid_response": 422,
    "idempotency_key_reused": 422,
    "too_many_ids": 422,
    "unsupported_step_type": 422,
    "internal_error": 500,
    "unavailable": 503,
}


class Problem(Exception):
    """An answer that is an error: `code` of the contract, one sentence, and what the contract adds to that code."""

    def __init__(self, code: str, message: str, *, headers: dict[str, str] | None = None, **extra: Any) -> None:
        super().__init__(message)
        self.code, self.message, self.headers, self.extra = code, message, headers or {}, extra

    @property
    def status(self) -> int:
        """The HTTP status that belongs to the code."""
        return STATUS[self.code]


def response(problem: Problem, *, request_id: str) -> JsonResponse:
    """The problem as an HTTP response."""
    body = {
        "type": f"urn:portia-runtime:error:{problem.code}",
        "title": problem.code.replace("_", " "),
        "status": problem.status,
        "status_code": problem.status,
        "code": problem.code,
        "message": problem.message,
        "detail": problem.message,
        "request_id": request_id,
        **problem.extra,
    }
    return JsonResponse(body, status=problem.status, headers=problem.headers, content_type="application/problem+json")
