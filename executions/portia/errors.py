"""What can go wrong when talking to the Portia Runtime.

    PortiaError
    ├── PortiaUnreachable         no connection, or it broke            retryable
    ├── PortiaTimeout             connected, no answer in time          retryable
    ├── PortiaUnavailable         408, 429, 5xx                         retryable
    ├── BadPortiaAnswer           an answer that is not the contract's  retryable
    ├── IdempotencyInProgress     409, same key still in flight         retryable
    └── PortiaRejected            any other 4xx
        ├── Unauthorized          401, 403
        ├── NotSupported          405, 501
        ├── NotFound              404
        │   ├── PlanNotFound
        │   ├── RunNotFound
        │   └── ClarificationNotFound
        ├── PlanConflict          409, same plan id with other content
        ├── InvalidPlan           422, see `errors`
        ├── InvalidState          409, see `current_status`
        ├── ClarificationsOutstanding  409, see `clarification_ids`
        ├── AlreadyResolved       409, another decision came first
        ├── StaleSubject          409, the action is not the one decided about
        └── InvalidResponse       422, see `options`

`retryable` says whether the same call may succeed later. A class's docstring is its default sentence. Which class an
HTTP answer becomes: section 2 of the contract (docs/reference/portia-runtime.md), by `code` first, by status second.
"""

from __future__ import annotations

import inspect
from typing import Any


class PortiaError(Exception):
    """The Portia Runtime could not do what was asked. `sent`: whether the request may have arrived."""

    retryable = False
    sent = True

    def __init__(
        self,
        message: str = "",
        *,
        status: int | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message or inspect.getdoc(type(self)) or "")
        self.status = status
        self.code = code
        self.retry_after = retry_after
        self.details = details or {}

    @property
    def message(self) -> str:
        """The sentence for a person."""
        return str(self.args[0])


class PortiaUnreachable(PortiaError):
    """The Portia Runtime cannot be reached."""

    retryable = True

    @classmethod
    def before_sending(cls, message: str) -> PortiaUnreachable:
        """The error of a connection that was never made: the request has surely not arrived."""
        error = cls(message)
        error.sent = False
        return error


class PortiaTimeout(PortiaError):
    """The Portia Runtime did not answer in time."""

    retryable = True


class PortiaUnavailable(PortiaError):
    """The Portia Runtime is overloaded or has an internal problem."""

    retryable = True


class BadPortiaAnswer(PortiaError):
    """The answer is not one of the Portia Runtime API."""

    retryable = True  # it tells nothing about the run, so nothing may be concluded from it


class IdempotencyInProgress(PortiaError):
    """The first request with this idempotency key is still being worked on."""

    retryable = True


class PortiaRejected(PortiaError):
    """The Portia Runtime refused the request."""


class Unauthorized(PortiaRejected):
    """The Portia Runtime does not accept our key for this tenant: check PORTIA_API_KEY."""


class NotSupported(PortiaRejected):
    """The Portia Runtime does not offer this call."""


class NotFound(PortiaRejected):
    """The Portia Runtime does not know this object."""

    retryable = True  # which object it means is not said, so nothing may be concluded from it


class PlanNotFound(NotFound):
    """The Portia Runtime does not know this plan."""

    retryable = False


class RunNotFound(NotFound):
    """The Portia Runtime does not know this run."""

    retryable = False


class ClarificationNotFound(NotFound):
    """The Portia Runtime does not know this clarification."""

    retryable = False


class PlanConflict(PortiaRejected):
    """The Portia Runtime already has a plan of this id with other content."""


class InvalidPlan(PortiaRejected):
    """The Portia Runtime does not accept this plan."""

    @property
    def errors(self) -> list[dict[str, Any]]:
        """What is wrong where: `loc` and `msg` each."""
        return list(self.details.get("errors") or [])


class InvalidState(PortiaRejected):
    """The run is in a state that does not allow this."""

    @property
    def current_status(self) -> str | None:
        """The status the run has, where the runtime says so."""
        return self.details.get("current_status")


class ClarificationsOutstanding(PortiaRejected):
    """The run waits for answers first."""

    @property
    def clarification_ids(self) -> list[str]:
        """The clarifications still open."""
        return list(self.details.get("clarification_ids") or [])


class AlreadyResolved(PortiaRejected):
    """The clarification was resolved with another decision before."""


class StaleSubject(PortiaRejected):
    """The action has changed since it was decided about."""


class InvalidResponse(PortiaRejected):
    """The answer does not fit the clarification."""

    @property
    def options(self) -> list[Any]:
        """The answers that are possible, where there is a choice."""
        return list(self.details.get("options") or [])


BY_CODE: dict[str, type[PortiaError]] = {
    "unauthorized": Unauthorized,
    "forbidden": Unauthorized,
    "method_not_allowed": NotSupported,
    "not_found": NotFound,
    "plan_not_found": PlanNotFound,
    "run_not_found": RunNotFound,
    "clarification_not_found": ClarificationNotFound,
    "plan_conflict": PlanConflict,
    "invalid_plan": InvalidPlan,
    "unsupported_step_type": InvalidPlan,
    "invalid_state": InvalidState,
    "clarifications_outstanding": ClarificationsOutstanding,
    "clarification_already_resolved": AlreadyResolved,
    "stale_subject": StaleSubject,
    "invalid_response": InvalidResponse,
    "idempotency_in_progress": IdempotencyInProgress,
    "rate_limited": PortiaUnavailable,
    "unavailable": PortiaUnavailable,
}
BY_STATUS: dict[int, type[PortiaError]] = {
    401: Unauthorized,
    403: Unauthorized,
    404: BadPortiaAnswer,  # without one of the contract's codes it is a gateway's: no run may be given up for it
    405: NotSupported,
    408: PortiaUnavailable,
    429: PortiaUnavailable,
    501: NotSupported,
}


def error_class(*, status: int, code: str | None) -> type[PortiaError]:
    """The class for an HTTP status of 400 and more and the problem's code."""
    by_status = BY_STATUS.get(status, PortiaUnavailable if status >= 500 else PortiaRejected)
    return BY_CODE.get(code or "", by_status)
