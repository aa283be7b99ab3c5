"""The client of the Portia Runtime API v1 (contract: docs/reference/portia-runtime.md): a method per call.

What goes in and comes out are the dataclasses of wire.py; what goes wrong is a PortiaError of errors.py. How a call is
made, repeated and bounded in time: connection.py. Optional features are used only where `GET /health` lists them.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import quote

from django.conf import settings

from executions.argument_schemas import prepared
from executions.portia.connection import Call, CallRetry, Connection
from executions.portia.errors import (
    BadPortiaAnswer,
    NotFound,
    NotSupported,
    PortiaRejected,
    PortiaUnavailable,
    RunNotFound,
)
from executions.portia.needs import UNKNOWN, Runtime
from executions.portia.recent import Recent
from executions.portia.wire import JSON, Health, PortiaClarification, PortiaPlan, PortiaPlanRun, StoredPlan, Tool

BATCH_IDS = 100  # the contract's limit
BATCH_CHARACTERS = 6000  # so that a proxy with an 8 kB request line lets the query through
LOOK_TIMEOUT = 1.0  # seconds
LONGEST_KIND = 100  # characters
LONGEST_WAIT = 55
LONG_POLL_MARGIN = 10.0
CAPABILITIES_AGE = 30.0
HEALTH_TIMEOUT = 3.0

log = logging.getLogger(__name__)
T = TypeVar("T")


class PortiaClient:
    """One Portia Runtime; safe to share between threads, not across a fork (see `portia`).

    Every method raises PortiaError; `retryable` on it tells whether to come back later.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        connect_timeout: float = 3.0,
        read_timeout: float = 10.0,
        retry: CallRetry | None = None,
    ) -> None:
        self._connection = Connection(
            base_url=base_url,
            api_key=api_key,
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            retry=retry or CallRetry(),
        )
        self._looks = Connection(
            base_url=base_url,
            api_key=api_key,
            connect_timeout=min(connect_timeout, LOOK_TIMEOUT),
            read_timeout=min(read_timeout, LOOK_TIMEOUT),
            retry=CallRetry(tries=1),
        )
        self._health = Recent(self._look_at_health, otherwise=UNKNOWN)
        self._tools: dict[str, Recent[Runtime]] = {}
        self._capabilities: tuple[float, frozenset[str]] = (float("-inf"), frozenset())

    def __repr__(self) -> str:
        return f"<PortiaClient {self._connection.base_url}>"

    # -- the runtime

    def health_check(self) -> Health:
        """What the runtime is and can do; asked once, without a repeat."""
        try:
            data = self._connection.call_once(Call(method="GET", path="/health", read_timeout=HEALTH_TIMEOUT))
        except PortiaUnavailable as error:
            if error.status == 503:
                return Health.from_json({}, ok=False)
            raise
        return _read_as(lambda found: Health.from_json(found, ok=True), data)

    def capabilities(self) -> frozenset[str]:
        """The optional features of the runtime, asked for again after 30 seconds; kept while unhealthy."""
        asked, known = self._capabilities
        if time.monotonic() - asked < CAPABILITIES_AGE:
            return known
        try:
            health = self.health_check()
        except PortiaRejected:  # no such call there: none of the optional features either
            health = Health.from_json({}, ok=True)
        if not health.ok:
            return known
        self._capabilities = (time.monotonic(), health.capabilities)
        return health.capabilities

    def tools(self, *, tenant: str) -> list[Tool] | None:
        """The tools the runtime can call, or None where it does not tell."""
        try:
            return _each(Tool.from_json, self._get("/tools", tenant=tenant), "tools")
        except (NotFound, NotSupported):
            return None
        except BadPortiaAnswer as error:
            if error.status == 404:
                return None
            raise

    def known_runtime(self, *, tenant: str) -> Runtime:
        """What the runtime said of itself and its tools some seconds ago, for callers who cannot wait for it.

        Never raises. One caller in 15 seconds asks, for two seconds a question at most; the others get the last answer.
        """
        runtime = self._health.get()
        if not runtime.answers:
            return runtime
        if tenant not in self._tools:
            self._tools.setdefault(tenant, Recent(lambda: self._look_at_tools(tenant), otherwise=UNKNOWN))
        has = self._tools[tenant].get()
        return replace(runtime, tools=has.tools, schemas=has.schemas)

    def _look_at_health(self) -> Runtime:
        try:
            data = self._looks.call_once(Call(method="GET", path="/health"))
        except PortiaRejected:  # it is there, and has no such call
            return Runtime(answers=True)
        return _read_as(_runtime, data)

    def _look_at_tools(self, tenant: str) -> Runtime:
        data = self._looks.call_once(Call(method="GET", path="/tools", tenant=tenant))
        tools = _each(Tool.from_json, data, "tools")
        schemas = {tool.id: tool.args_schema for tool in tools if tool.args_schema != {}}
        return Runtime(tools=frozenset(tool.id for tool in tools), schemas=prepared(schemas))

    # -- plans

    def create_plan(self, plan: PortiaPlan, *, tenant: str) -> StoredPlan:
        """Store the plan; the same content again is the same plan, other content under its id is PlanConflict."""
        return _read_as(StoredPlan.from_json, self._post("/plans", tenant=tenant, body=plan.to_json()))

    def get_plan(self, plan_id: str, *, tenant: str) -> StoredPlan:
        """What the runtime keeps under this id; PlanNotFound otherwise."""
        return _read_as(StoredPlan.from_json, self._get(f"/plans/{_segment(plan_id)}", tenant=tenant))

    # -- runs

    def create_run(
        self,
        plan_id: str,
        *,
        tenant: str,
        idempotency_key: str,
        parameters: JSON | None = None,
        variables: JSON | None = None,
        triggered_by: str = "",
        end_user_id: str | None = None,
        correlation_id: str | None = None,
        metadata: JSON | None = None,
    ) -> PortiaPlanRun:
        """Start a run, or find the one started with this key (1 to 255 characters) and the same arguments before."""
        if not 1 <= len(idempotency_key) <= 255:
            raise ValueError("idempotency_key: give 1 to 255 characters, the same for each repeat of this run")
        body = {
            "plan_id": plan_id,
            "parameters": parameters or {},
            "variables": variables or {},
            "triggered_by": triggered_by,
            "end_user_id": end_user_id,
            "correlation_id": correlation_id,
            "metadata": metadata or {},
        }
        data = self._post("/runs", tenant=tenant, body=body, idempotency_key=idempotency_key)
        return _read_as(PortiaPlanRun.from_json, data)

    def get_run(self, run_id: str, *, tenant: str, wait: int | None = None, since: int | None = None) -> PortiaPlanRun:
        """The run now or, where the runtime can, once its version is above `since`, within `wait` seconds (0..55)."""
        path = f"/runs/{_segment(run_id)}"
        if not wait or "long_poll" not in self.capabilities():
            return _read_as(PortiaPlanRun.from_json, self._get(path, tenant=tenant))
        wait = min(wait, LONGEST_WAIT)
        params = {"wait": str(wait), "since": str(since or 0)}
        data = self._get(path, tenant=tenant, params=params, read_timeout=wait + LONG_POLL_MARGIN)
        return _read_as(PortiaPlanRun.from_json, data)

    def get_runs(self, run_ids: Iterable[str], *, tenant: str) -> tuple[list[PortiaPlanRun], list[str]]:
        """The runs of these ids and the ids that the runtime does not know; in batches where it can.

        A run whose answer cannot be read is in neither, so that it does not hold up the others.
        """
        ids = list(dict.fromkeys(run_ids))
        ask = self._batch if "batch_runs" in self.capabilities() else self._one_by_one
        runs: list[PortiaPlanRun] = []
        missing: list[str] = []
        for batch in _batches(ids):
            found, lost = ask(batch, tenant=tenant)
            runs += found
            missing += lost
        return runs, missing

    def list_runs(
        self,
        *,
        tenant: str,
        status: str | None = None,
        updated_since: datetime | None = None,
        cursor: str | None = None,
    ) -> tuple[list[PortiaPlanRun], str | None]:
        """A page of the tenant's runs, oldest change first, and the cursor of the next page."""
        since = updated_since.isoformat() if updated_since else None
        data = self._get("/runs", tenant=tenant, params=_given(status=status, updated_since=since, cursor=cursor))
        return _each(PortiaPlanRun.from_json, data, "runs"), data.get("next_cursor")

    def pause_run(self, run_id: str, *, tenant: str) -> PortiaPlanRun:
        """Ask for a pause at the next step boundary; the answer's status tells whether it is there already."""
        return self._command(run_id, "pause", tenant=tenant)

    def resume_run(self, run_id: str, *, tenant: str) -> PortiaPlanRun:
        """Let a paused run go on; ClarificationsOutstanding while it waits for answers."""
        return self._command(run_id, "resume", tenant=tenant)

    def cancel_run(self, run_id: str, *, tenant: str) -> PortiaPlanRun:
        """Ask for cancellation; no new step starts, a step under way may still end."""
        return self._command(run_id, "cancel", tenant=tenant)

    # -- clarifications

    def get_clarifications(self, run_id: str, *, tenant: str, status: str | None = None) -> list[PortiaClarification]:
        """The questions of one run, all or those of a status."""
        data = self._get(f"/runs/{_segment(run_id)}/clarifications", tenant=tenant, params=_given(status=status))
        return _each(PortiaClarification.from_json, data, "clarifications")

    def list_clarifications(self, *, tenant: str, status: str | None = None) -> list[PortiaClarification]:
        """The questions of all the tenant's runs, all or those of a status."""
        data = self._get("/clarifications", tenant=tenant, params=_given(status=status))
        return _each(PortiaClarification.from_json, data, "clarifications")

    def get_clarification(self, clarification_id: str, *, tenant: str) -> PortiaClarification:
        """One question as it stands now."""
        data = self._get(f"/clarifications/{_segment(clarification_id)}", tenant=tenant)
        return _read_as(PortiaClarification.from_json, data)

    def respond_to_clarification(
        self,
        clarification_id: str,
        *,
        tenant: str,
        approved: bool,
        approver_id: str,
        reason: str | None = None,
        response: Any = None,
        metadata: JSON | None = None,
        action_digest: str | None = None,
    ) -> PortiaClarification:
        """Deliver the decision; a repeat is harmless, another decision AlreadyResolved, another action StaleSubject."""
        body = _given(reason=reason, response=response, metadata=metadata, action_digest=action_digest)
        body |= {"approved": approved, "approver_id": approver_id}
        data = self._post(f"/clarifications/{_segment(clarification_id)}/respond", tenant=tenant, body=body)
        return _read_as(PortiaClarification.from_json, data)

    # -- how a call is made

    def _command(self, run_id: str, verb: str, *, tenant: str) -> PortiaPlanRun:
        return _read_as(PortiaPlanRun.from_json, self._post(f"/runs/{_segment(run_id)}/{verb}", tenant=tenant))

    def _batch(self, ids: Sequence[str], *, tenant: str) -> tuple[list[PortiaPlanRun], list[str]]:
        data = self._get("/runs", tenant=tenant, params={"ids": ",".join(ids)})
        readable = (_readable_run(one) for one in _each(lambda one: one, data, "runs"))
        missing = set(_each(str, data, "missing"))
        return [run for run in readable if run], [run_id for run_id in ids if run_id in missing]

    def _one_by_one(self, ids: Sequence[str], *, tenant: str) -> tuple[list[PortiaPlanRun], list[str]]:
        runs, missing = [], []
        for run_id in ids:
            try:
                runs.append(self.get_run(run_id, tenant=tenant))
            except RunNotFound:
                missing.append(run_id)
            except BadPortiaAnswer as error:
                log.warning("Run %s is left out: %s", run_id, error)
        return runs, missing

    def _get(
        self, path: str, *, tenant: str, params: dict[str, str] | None = None, read_timeout: float | None = None
    ) -> JSON:
        call = Call(method="GET", path=path, tenant=tenant, params=params or {}, read_timeout=read_timeout)
        return self._connection.call(call)

    def _post(self, path: str, *, tenant: str, body: JSON | None = None, idempotency_key: str = "") -> JSON:
        return self._connection.call(
            Call(method="POST", path=path, tenant=tenant, body=body or {}, idempotency_key=idempotency_key)
        )


def portia() -> PortiaClient:
    """The client by the settings, one per process: a fork and a changed setting get a new one."""
    return _client_of(
        os.getpid(),
        settings.PORTIA_BASE_URL,
        settings.PORTIA_API_KEY,
        settings.PORTIA_CONNECT_TIMEOUT,
        settings.PORTIA_READ_TIMEOUT,
    )


@lru_cache(maxsize=1)
def _client_of(pid: int, base_url: str, api_key: str, connect: float, read: float) -> PortiaClient:
    return PortiaClient(base_url=base_url, api_key=api_key, connect_timeout=connect, read_timeout=read)


def _runtime(health: JSON) -> Runtime:
    """Read a health answer for what plans need; a runtime that lists no capabilities says nothing about them."""
    listed = health.get("capabilities")
    capabilities = frozenset(str(one) for one in listed) if isinstance(listed, list) else None
    if capabilities is not None and health.get("llm"):
        capabilities |= {"llm"}
    kind = str(health.get("runtime") or "")[:LONGEST_KIND]
    return Runtime(answers=True, kind=kind or None, capabilities=capabilities)


def _segment(identifier: str) -> str:
    if identifier in ("", ".", ".."):
        raise ValueError("an id is needed, not an empty text")
    return quote(identifier, safe="")


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _batches(ids: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for run_id in ids:
        if len(batch) == BATCH_IDS or len(quote(",".join([*batch, run_id]))) > BATCH_CHARACTERS:
            yield batch
            batch = []
        batch.append(run_id)
    if batch:
        yield batch


def _read_as(build: Callable[[JSON], T], data: Any) -> T:
    try:
        return build(data)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        missing = f"{error} is missing" if isinstance(error, KeyError) else "a field has another type than agreed"
        raise BadPortiaAnswer(f"The answer cannot be read: {missing}.") from error


def _readable_run(data: Any) -> PortiaPlanRun | None:
    try:
        return _read_as(PortiaPlanRun.from_json, data)
    except BadPortiaAnswer as error:
        log.warning("Run %s is left out: %s", data.get("run_id") if isinstance(data, dict) else "?", error)
        return None


def _each(build: Callable[[Any], T], data: JSON, name: str) -> list[T]:
    return _read_as(lambda found: [build(one) for one in found[name]], data)
