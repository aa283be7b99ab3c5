"""What a tool is: a manifest and a function from a call to its output.

```
ToolError            the step fails, with this sentence
├── SoftError        may go away by itself: tried again by the step's retry policy
└── HardError        will not go away: never tried again
```
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from jsonschema import Draft202012Validator

from portia_runtime.documents import JSON
from safe_json_schema import flaws


class ToolError(Exception):
    """A tool could not do its work; `retryable` tells whether another attempt may."""

    retryable = False


class SoftError(ToolError):
    """A failure that may go away by itself."""

    retryable = True


class HardError(ToolError):
    """A failure that another attempt cannot mend."""


class NotYet(Exception):
    """Call the tool again in so many seconds; no attempt is counted and no thread waits."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"in {seconds} s")
        self.seconds = seconds


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """One call. `idempotency_key` is the same for every attempt of the same step of the same run."""

    arguments: JSON
    tenant: str
    run_id: str
    step_id: str
    attempt: int
    started_at: datetime
    action: str = ""
    timeout: float | None = None

    @property
    def idempotency_key(self) -> str:
        """Names the effect of this step, for systems that do a thing once per key."""
        return f"{self.run_id}:{self.step_id}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Tool:
    """A manifest and its function.

    `idempotent`: may be called again when nobody knows whether the first call took effect. `timeout`: seconds per call
    unless the step says otherwise. `is_quick`: always done within milliseconds, so it is called without a thread of its own.
    `raw_arguments` are handed over as they are, their templates left alone. `schema_arguments` are JSON Schemas, and checked
    to be sound.
    """

    id: str
    name: str
    description: str
    args_schema: JSON
    run: Callable[[ToolCall], Any]
    idempotent: bool = False
    timeout: float | None = None
    is_quick: bool = False
    raw_arguments: frozenset[str] = field(default_factory=frozenset)
    schema_arguments: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        Draft202012Validator.check_schema(self.args_schema)

    @property
    def manifest(self) -> JSON:
        """What `GET /tools` says."""
        return {
            "id": self.id,
            "name": self.name,
            "description": self.description,
            "args_schema": self.args_schema,
            "idempotent": self.idempotent,
            "timeout": self.timeout,
        }

    @cached_property
    def _validator(self) -> Draft202012Validator:
        return Draft202012Validator(self.args_schema)

    def argument_errors(
        self, arguments: JSON, *, given: Collection[str] = (), unknown: Collection[str] = ()
    ) -> Iterator[tuple[str, str]]:
        """What is wrong with the arguments, as (`.place`, sentence).

        `unknown` names arguments whose value is known at run time only, `given` all that will be there.
        """
        for error in self._validator.iter_errors({**dict.fromkeys(given), **arguments}):
            concerned = {str(error.absolute_path[0])} if error.absolute_path else set()
            if not concerned & set(unknown):
                yield _place(error.absolute_path), error.message[:300]
        for name in self.schema_arguments & arguments.keys() - set(unknown):
            for path, message in flaws(arguments[name]):
                yield _place([name, *path]), message


def _place(path: Iterable[str | int]) -> str:
    return "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in path)
