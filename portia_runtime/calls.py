"""Calling tools: what came of it, whatever the tool does."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from django.db import InterfaceError, OperationalError, connection

from portia_runtime.documents import DocumentError, check_storable
from portia_runtime.state import Start
from portia_runtime.tools import NotYet, ToolError

MAX_OUTPUT_BYTES = 2_000_000
AFTER_DATABASE_ERROR = 0.5  # seconds

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The end of a call: an output, or an error (code, sentence, retryable), or `again` after so many seconds."""

    start: Start
    output: Any = None
    error: tuple[str, str, bool] | None = None
    again: float | None = None


def call_tool(start: Start) -> Finished:
    """Call the tool in this thread. Never raises."""
    try:
        output = start.tool.run(start.call)
        _check_output(output)
    except NotYet as later:
        return Finished(start=start, again=later.seconds)
    except ToolError as error:
        code = "tool_soft_error" if error.retryable else "tool_hard_error"
        return Finished(start=start, error=(code, _sentence(error), error.retryable))
    except (OperationalError, InterfaceError) as error:
        return _database_is_away(start, error)
    except Exception as error:
        log.exception("tool %s failed in step %s of run %s", start.tool.id, start.call.step_id, start.call.run_id)
        message = f"{start.tool.id} failed unexpectedly: {type(error).__name__}: {_sentence(error)}"
        return Finished(start=start, error=("tool_error", message, False))
    return Finished(start=start, output=output)


def call_in_pool(pool: ThreadPoolExecutor, start: Start, deliver: Callable[[Finished], None]) -> None:
    """Call the tool in a thread of the pool; the end of the call is handed to `deliver` there."""

    def work() -> None:
        finished = call_tool(start)
        connection.close()
        deliver(finished)

    pool.submit(work)


def timed_out(start: Start) -> Finished:
    """The call took longer than its limit; the tool may go on, but what it gives is no longer asked for."""
    limit = start.call.timeout or 0
    return Finished(start=start, error=("step_timeout", f"no result within {limit:g} s", True))


def _database_is_away(start: Start, error: Exception) -> Finished:
    connection.close()
    if start.tool.idempotent:
        return Finished(start=start, again=AFTER_DATABASE_ERROR)
    return Finished(start=start, error=("tool_soft_error", f"the database could not be used: {_sentence(error)}", True))


def _check_output(output: Any) -> None:
    """Raise ToolError unless the output is JSON that can be stored."""
    try:
        check_storable(output)
        size = len(json.dumps(output, ensure_ascii=False).encode())
    except (DocumentError, RecursionError, ValueError) as error:
        raise ToolError(f"its result cannot be stored: {error}") from None
    if size > MAX_OUTPUT_BYTES:
        raise ToolError(f"its result has {size} bytes; at most {MAX_OUTPUT_BYTES} are kept")


def _sentence(error: Exception) -> str:
    return str(error).replace("\x00", "\ufffd").encode(errors="replace").decode()[:2_000]
