"""The runtime as one process: waitress in front, the engine's threads behind, so that nothing outlives a kill."""

from __future__ import annotations

import logging
import threading
from typing import Any

from django.conf import settings
from django.db import connection
from waitress import wasyncore
from waitress.server import create_server
from waitress.task import ThreadedTaskDispatcher
from waitress.trigger import trigger

from portia_runtime import plans, views
from portia_runtime.engine import Engine
from portia_runtime.wsgi import RuntimeHandler

HTTP_THREADS = 16  # twice as many as may wait in a long poll; each keeps a database connection
MAX_BUFFERED_BYTES = 64_000_000
TICK_SECONDS = 0.25

log = logging.getLogger(__name__)


class RequestThreads(ThreadedTaskDispatcher):
    """Waitress's threads, each of which closes its database connection when it ends."""

    def handler_thread(self, thread_no: int) -> None:
        """Serve requests until told to end."""
        try:
            super().handler_thread(thread_no)
        finally:
            connection.close()


class RuntimeServer:
    """HTTP and engine together. `start` returns at once; `stop` ends both."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 8080) -> None:
        """Bind the address (port 0: any free one). Raises OSError when it is taken."""
        plans.spec.cache_clear()
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        self._sockets: dict[int, Any] = {}
        self._waker = trigger(self._sockets)
        self._threads = RequestThreads()
        server = create_server(
            RuntimeHandler(),
            map=self._sockets,
            _dispatcher=self._threads,
            host=host,
            port=port,
            ident=None,
            clear_untrusted_proxy_headers=True,
            max_request_body_size=MAX_BUFFERED_BYTES,
        )
        addresses = getattr(server, "effective_listen", None) or [(None, server.effective_port)]
        self.port = int(addresses[0][1])
        self._stopping = threading.Event()
        self._engine = Engine(workers=settings.PORTIA_RUNTIME_WORKERS, watchers=views.watchers)
        self._loop = threading.Thread(target=self._serve, name="http", daemon=True)

    def start(self) -> None:
        """Start to serve and to work."""
        views.watchers.is_open = True
        self._threads.set_thread_count(HTTP_THREADS)
        self._engine.start()
        self._loop.start()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            wasyncore.loop(timeout=TICK_SECONDS, use_poll=True, map=self._sockets, count=1)
        self._threads.shutdown(timeout=2)
        wasyncore.close_all(self._sockets)

    def stop(self) -> bool:
        """Serve and claim no more; whether all threads came to rest within four seconds."""
        views.watchers.close()
        if self._loop.is_alive() and not self._stopping.is_set():
            self._waker.pull_trigger(self._stopping.set)  # in the loop's thread, which closes the trigger when it ends
        is_quiet = self._engine.stop()
        self._loop.join(3)
        return is_quiet and not self._loop.is_alive()
