"""The real runtime in the test's own process, against the test database: HTTP server and engine threads on a free port.

Use: `from tests.portia_runtime.runtime_fixture import portia_runtime` in a conftest, then ask for `portia_runtime`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from django.conf import settings

from portia_runtime.server import RuntimeServer


@dataclass(frozen=True)
class PortiaRuntime:
    """Where the runtime answers (without /api/v1) and the key it wants."""

    base_url: str
    api_key: str


@pytest.fixture
def portia_runtime(transactional_db: None) -> Iterator[PortiaRuntime]:
    """A running runtime; every thread and connection of it is gone when the test ends."""
    server = RuntimeServer(port=0)
    server.start()
    yield PortiaRuntime(base_url=f"http://127.0.0.1:{server.port}", api_key=settings.PORTIA_API_KEY)
    assert server.stop(), "the runtime did not come to rest"
