"""Everything the domain refuses, as one tree.

OrchestratorError
├── InvalidRequest            400  the request cannot be understood
├── InvalidPlan               422  the plan has errors, each with a JSON Pointer
├── NotFound                  404  no such object for this tenant
├── Conflict                  409
│   ├── CommandRefused             the run's status does not allow the command
│   ├── TransitionRefused          a change the transition table does not have
│   ├── StaleSubject               the action is not the one that was shown
│   └── NoSigningKey               this service does not issue capability tokens
├── VersionChanged            412  the object is no longer the one the caller saw
├── Forbidden                 403  known, but not allowed
│   └── CapabilityRefused          the capability token or a tool list says no
├── Gone                      410  too late
├── IdempotencyKeyReused      422  the key was used for another request
├── RequestInProgress         409  the same request is being worked on
├── RateLimited               429  too many requests of this tenant
├── TooManyRuns               429  too many runs of this tenant that have not ended
├── BadPlanCompilerAnswer     502  the Plan Compiler answered what cannot be used
└── Unavailable               503  a neighbour does not answer

`code` is stable and ends the problem's `type`; `status` is the HTTP status; the message is for people and says what to do.
"""

from __future__ import annotations

from typing import Any


class OrchestratorError(Exception):
    """The request cannot be done."""

    code = "error"
    status = 500

    def __init__(self, message: str = "", *, errors: list[dict[str, str]] | None = None, **extra: Any) -> None:
        super().__init__(message or self.__doc__)
        self.errors = errors or []
        self.extra = extra


class InvalidRequest(OrchestratorError):
    """The request is not valid."""

    code = "invalid-request"
    status = 400


class InvalidPlan(OrchestratorError):
    """The plan is not valid."""

    code = "invalid-plan"
    status = 422


class NotFound(OrchestratorError):
    """There is no such object."""

    code = "not-found"
    status = 404


class Conflict(OrchestratorError):
    """The object's state does not allow this."""

    code = "conflict"
    status = 409


class CommandRefused(Conflict):
    """The run's status does not allow this command."""

    code = "invalid-state"


class TransitionRefused(Conflict):
    """The run cannot go to this status."""

    code = "invalid-transition"

    def __init__(self, *, run: Any, to: str) -> None:
        super().__init__(f"Run {run.pk} is {run.status}/{run.reason} and cannot become {to}.")


class NotEnded(Conflict):
    """The run has not ended; wait for its end (`Prefer: wait`), then ask again."""

    code = "not-ended"


class StaleSubject(Conflict):
    """What would run is not what was shown; look at it again."""

    code = "stale-subject"


class NoSigningKey(Conflict):
    """This service holds no key to sign capability tokens with: run `manage.py create_signing_key`."""

    code = "no-signing-key"


class VersionChanged(OrchestratorError):
    """The run has changed since the version in If-Match; look at it again, then send the command with its new version."""

    code = "version-changed"
    status = 412


class Forbidden(OrchestratorError):
    """You may not do this."""

    code = "forbidden"
    status = 403


class CapabilityRefused(Forbidden):
    """The capability does not cover this plan."""

    code = "capability-denied"


class Gone(OrchestratorError):
    """It is too late for this."""

    code = "expired"
    status = 410


class IdempotencyKeyReused(OrchestratorError):
    """This Idempotency-Key was used for another request; send a new key."""

    code = "idempotency-key-reused"
    status = 422


class RequestInProgress(OrchestratorError):
    """A request with this Idempotency-Key is being worked on; send it again in a moment."""

    code = "request-in-progress"
    status = 409


class RateLimited(OrchestratorError):
    """This tenant sends more requests than it may; send the next one later."""

    code = "rate-limited"
    status = 429


class TooManyRuns(OrchestratorError):
    """This tenant has as many runs that have not ended as it may; wait until one ends, or cancel one."""

    code = "too-many-runs"
    status = 429


class BadPlanCompilerAnswer(OrchestratorError):
    """The Plan Compiler's answer cannot be used; send the whole plan instead of its hash."""

    code = "bad-plan-compiler-answer"
    status = 502


class Unavailable(OrchestratorError):
    """A service this needs does not answer; try again later."""

    code = "unavailable"
    status = 503
