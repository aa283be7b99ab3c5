"""A client for the runtime's tests, and the runtime itself."""

from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

import pytest
import requests

from tests.portia_runtime.runtime_fixture import PortiaRuntime, portia_runtime

__all__ = ["portia_runtime"]

JSON = dict[str, Any]
AT_REST = ("completed", "failed", "cancelled", "paused")


class Client:
    """Speaks the contract to one runtime, as one tenant."""

    def __init__(self, runtime: PortiaRuntime, tenant: str | None = None) -> None:
        self.base = f"{runtime.base_url}/api/v1"
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers["Authorization"] = f"Api-Key {runtime.api_key}"
        if tenant:
            self.session.headers["X-Tenant-ID"] = tenant

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        return self.session.request(method, self.base + path, timeout=60, **options)

    def get(self, path: str, **options: Any) -> JSON:
        return self.call("GET", path, **options).json()

    def plan(self, *steps: JSON, **fields: Any) -> str:
        """Store a plan of these steps (`type` defaults to action) and give its id."""
        plan_id = fields.pop("plan_id", f"plan-{uuid4().hex}")
        document = {
            "plan_id": plan_id,
            "name": "a plan",
            "steps": [{"type": "action", **one} for one in steps],
            **fields,
        }
        answer = self.call("POST", "/plans", json=document)
        assert answer.status_code == 201, answer.text
        return plan_id

    def start(self, plan_id: str, **body: Any) -> JSON:
        answer = self.call("POST", "/runs", json={"plan_id": plan_id, **body})
        assert answer.status_code == 201, answer.text
        return answer.json()

    def run(self, *steps: JSON, body: JSON | None = None, **fields: Any) -> JSON:
        """Run a plan of these steps until it rests."""
        return self.until(self.start(self.plan(*steps, **fields), **(body or {}))["run_id"])

    def until(self, run_id: str, *statuses: str, seconds: float = 20.0) -> JSON:
        """Wait until the run has one of these statuses (at rest, unless given)."""
        deadline, run = time.monotonic() + seconds, self.get(f"/runs/{run_id}")
        while run["status"] not in (statuses or AT_REST):
            assert time.monotonic() < deadline, f"still {run['status']}: {run['steps']}"
            run = self.get(f"/runs/{run_id}", params={"wait": 5, "since": run["version"]})
        return run

    def question(self, run: JSON) -> JSON:
        """The one open question of a run."""
        (asked,) = self.get(f"/runs/{run['run_id']}/clarifications", params={"status": "pending"})["clarifications"]
        return asked

    def answer(self, asked: JSON, **body: Any) -> requests.Response:
        body = {"approved": True, "approver_id": "bob", **body}
        return self.call("POST", f"/clarifications/{asked['id']}/respond", json=body)


@pytest.fixture
def client(portia_runtime: PortiaRuntime) -> Client:
    return Client(portia_runtime)


@pytest.fixture
def mallory(portia_runtime: PortiaRuntime) -> Client:
    """Somebody of another tenant."""
    return Client(portia_runtime, tenant="other")


def step(run: JSON, step_id: str) -> JSON:
    """One step of a run."""
    return next(one for one in run["steps"] if one["id"] == step_id)
