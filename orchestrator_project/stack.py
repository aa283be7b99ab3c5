"""The whole service as processes of this machine: web, worker and, unless PORTIA_BASE_URL names another, the Portia Runtime.

with running_stack() as stack:          # free ports
    requests.get(f"{stack.web_url}/health")
    os.kill(stack.pid("worker"), signal.SIGKILL)      # comes back by itself
"""

from __future__ import annotations

import errno
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

from django.conf import settings
from django.db import connection

from orchestrator_project.models import WorkerNode
from orchestrator_project.supervisor import Program, Supervisor, Write

HOST = "127.0.0.1"
READY_SECONDS = 60.0
MANAGE = settings.BASE_DIR / "manage.py"

_opener = build_opener(ProxyHandler({}))


class StackError(RuntimeError):
    """The stack cannot be started; the text says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """The running service. `portia_url` ends before `/api/v1`."""

    web_url: str
    portia_url: str
    supervisor: Supervisor

    def pid(self, name: str) -> int | None:
        """The main process of `web`, `worker` or `portia`; None while it is down."""
        return self.supervisor.pid(name)


@contextmanager
def running_stack(
    *,
    port: int | None = None,
    portia_port: int | None = None,
    environment: Mapping[str, str] | None = None,
    write: Write = lambda name, line: None,
) -> Iterator[Stack]:
    """Start everything, wait until it answers, stop it all at the end of the block.

    A port that is None is a free one. `environment` is added to that of the processes; `write(name, line)` gets each line
    they print. Raises StackError when a port is taken, or when a process does not answer within 60 seconds.
    """
    port = _usable_port(port, "--port")
    own_portia = not settings.ENV.portia_base_url
    portia_port = _usable_port(portia_port, "--portia-port") if own_portia else None
    portia_url = f"http://{HOST}:{portia_port}" if own_portia else settings.PORTIA_BASE_URL
    web_url = f"http://{HOST}:{port}"
    addresses = {"PORTIA_BASE_URL": portia_url}
    if "public_url" not in settings.ENV.model_fields_set:
        addresses["PUBLIC_URL"] = web_url
    settings.STATIC_ROOT.mkdir(parents=True, exist_ok=True)  # whitenoise warns of a folder that is not there
    programs = _programs(port, portia_port, {**addresses, **(environment or {})})
    with Supervisor(programs, folder=settings.BASE_DIR, write=write) as supervisor:
        _wait_until_ready(supervisor, "web", lambda: _answers(f"{web_url}/health"))
        _wait_until_ready(supervisor, "worker", lambda: _beats(supervisor.pid("worker")))
        if own_portia:
            _wait_until_ready(supervisor, "portia", lambda: _answers(f"{portia_url}/api/v1/health"))
        yield Stack(web_url=web_url, portia_url=portia_url, supervisor=supervisor)


def heartbeat(pid: int) -> datetime | None:
    """When the worker cluster of that main process, on this host, was last at work."""
    beats = WorkerNode.objects.filter(host=socket.gethostname(), pid=pid).values_list("beat_at", flat=True)
    return beats.first()


def _pulse(pid: int) -> datetime | None:
    """The heartbeat as the supervisor asks for it: rarely, and in a thread of its own."""
    with closing(connection):
        return heartbeat(pid)


def _programs(port: int, portia_port: int | None, environment: Mapping[str, str]) -> list[Program]:
    granian: list[str | Path] = [
        *(sys.executable, "-m", "granian", "--interface", "wsgi", "orchestrator_project.wsgi:application"),
        *("--host", HOST, "--port", str(port), "--workers", "1", "--blocking-threads", "8", "--no-ws"),
        *("--respawn-failed-workers", "--workers-kill-timeout", "5", "--log-level", "error"),
    ]
    worker: list[str | Path] = [sys.executable, MANAGE, "qcluster"]
    programs = [
        Program(name="web", command=granian, environment=environment),
        Program(name="worker", command=worker, environment=environment, pulse=_pulse),
    ]
    if portia_port is not None:
        portia: list[str | Path] = [sys.executable, MANAGE, "portia_runtime", "--port", str(portia_port)]
        programs.append(Program(name="portia", command=portia, environment=environment))
    return programs


def _usable_port(port: int | None, flag: str) -> int:
    """That port if nobody listens on it, or a free one for None."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port or 0))
        except OSError as error:
            reason = (
                "is in use by another program"
                if error.errno == errno.EADDRINUSE
                else f"cannot be used ({error.strerror})"
            )
            raise StackError(f"Port {port} {reason}: choose another with {flag}, or let --free-ports choose.") from None
        return int(probe.getsockname()[1])


def _wait_until_ready(supervisor: Supervisor, name: str, is_ready: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + READY_SECONDS
    while not is_ready():
        if supervisor.deaths(name) > 2:
            raise StackError(f"{name} ended {supervisor.deaths(name)} times before it was ready; see its output above.")
        if time.monotonic() > ends_at:
            raise StackError(f"{name} is not ready after {READY_SECONDS:.0f} s; see its output above.")
        time.sleep(0.05)


def _answers(url: str) -> bool:
    try:
        with _opener.open(url, timeout=5):
            return True
    except HTTPError as error:
        return error.code < 500
    except (URLError, OSError):
        return False


def _beats(pid: int | None) -> bool:
    return pid is not None and heartbeat(pid) is not None
