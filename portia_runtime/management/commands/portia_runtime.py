"""Run the embedded Portia Runtime until it is told to stop."""

from __future__ import annotations

import os
import signal
import threading
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from portia_runtime import tools
from portia_runtime.server import RuntimeServer


class Command(BaseCommand):
    """`manage.py portia_runtime [--host 127.0.0.1] [--port 8080]`."""

    help = "Serve the Portia Runtime API and run plans: one process, as many of them as you like."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
        parser.add_argument("--port", type=int, default=8080, help="port to listen on; 0 takes a free one")

    def handle(self, *args: Any, **options: Any) -> None:
        tools.every_tool()
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        try:
            server = RuntimeServer(host=options["host"], port=options["port"])
        except OSError as error:
            raise CommandError(f"cannot listen on {options['host']}:{options['port']}: {error.strerror}") from None
        server.start()
        self.stdout.write(f"Portia Runtime ready at http://{options['host']}:{server.port}/api/v1")
        self.stdout.flush()
        stop.wait()
        if not server.stop():
            self.stderr.write("some calls were still under way; another runtime finds out about their steps")
            os._exit(0)  # threads that never end must not keep the process
