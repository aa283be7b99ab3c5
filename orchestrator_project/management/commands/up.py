"""`manage.py up`: the whole service in the foreground, restarted where it dies, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
import threading
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import connection
from django.utils.crypto import salted_hmac

from executions.actions.tenants import DemoAccess, ensure_demo
from orchestrator_project.stack import Stack, StackError, running_stack

MIGRATION_LOCK = 0x6F726368  # any number, as long as every `up` on this database takes the same
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
DEMO_FILE = settings.DATA_DIR / "demo.env"
COLOURS = {"web": "36", "worker": "33", "portia": "35", "up": "32"}  # SGR: cyan, yellow, magenta, green


class Command(BaseCommand):
    """Migrate, make sure of the demo tenant in development, start everything, print where it is, stay."""

    help = "Starts web, worker and Portia Runtime, keeps them running and shows what they print. Ctrl-C stops them."
    requires_migrations_checks = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--port", type=int, default=8000, help="port of the web process")
        parser.add_argument("--portia-port", type=int, default=8080, help="port of the embedded Portia Runtime")
        parser.add_argument("--free-ports", action="store_true", help="take free ports instead")

    def handle(self, *args: Any, **options: Any) -> None:
        ports = {} if options["free_ports"] else {"port": options["port"], "portia_port": options["portia_port"]}
        with interrupted_by_signals():
            try:
                migrate()
                connection.close()
                with running_stack(**ports, write=Printer()) as stack, _demo_access(stack) as demo:
                    self.stdout.write(_welcome(stack, demo))
                    self.stdout.flush()
                    threading.Event().wait()
            except StackError as error:
                raise CommandError(str(error)) from None
            except KeyboardInterrupt:
                self.stdout.write("Stopped.")


def migrate() -> None:
    """Bring the database up to date; several may do this at once."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [MIGRATION_LOCK])
        try:
            call_command("migrate", interactive=False, verbosity=0)
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [MIGRATION_LOCK])


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """SIGTERM, SIGINT and SIGHUP raise KeyboardInterrupt in the block, once: what follows is the way out."""

    def interrupt(*_: object) -> None:
        for number in previous:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class Printer:
    """Prints the lines of several programs, each with its name in front, in colour on a terminal (NO_COLOR: without)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def __call__(self, name: str, line: str) -> None:
        """Print one line; loud where it begins with two exclamation marks."""
        label = f"{name:>6} |"
        if self._in_colour:
            label = f"\033[{COLOURS.get(name, '37')}m{label}\033[0m"
            line = f"\033[1;31m{line}\033[0m" if line.startswith("!!") else line
        with self._lock, suppress(OSError):  # nobody reads any more: the programs must go on all the same
            print(label, line, flush=True)  # noqa: T201


def demo_password() -> str:
    """The same password at every start, different on every installation."""
    return salted_hmac("orchestrator.demo", "password").hexdigest()[:16]


@contextmanager
def _demo_access(stack: Stack) -> Iterator[DemoAccess | None]:
    """In development, make people and keys, and leave addresses and keys for a shell to read while the service runs."""
    if settings.IS_PRODUCTION:
        yield None
        return
    demo = ensure_demo(password=demo_password())
    connection.close()
    lines = {"ORCHESTRATOR_URL": stack.web_url, "ORCHESTRATOR_KEY": demo.api_key, "APPROVER_KEY": demo.approver_key}
    text = "".join(f"export {name}='{value}'\n" for name, value in lines.items())
    DEMO_FILE.unlink(missing_ok=True)
    DEMO_FILE.touch(mode=0o600)
    DEMO_FILE.write_text(text)
    try:
        yield demo
    finally:
        if DEMO_FILE.exists() and DEMO_FILE.read_text() == text:  # not another one's that was started meanwhile
            DEMO_FILE.unlink()


def _welcome(stack: Stack, demo: DemoAccess | None) -> str:
    lines = [
        "",
        f"  API     {stack.web_url}/v1",
        f"  Docs    {stack.web_url}/v1/docs",
        f"  Admin   {stack.web_url}/admin/",
        f"  Portia  {stack.portia_url}/api/v1",
    ]
    if demo is not None:
        lines += ["", f"  API key of tenant {demo.tenant.identifier}: {demo.api_key}"]
        lines += [f"  For a shell: . {os.path.relpath(DEMO_FILE)}"]
        lines += [f"  Sign in to the admin as {name} with password {word}" for name, word in demo.users.items()]
    return "\n".join([*lines, "", "  Ctrl-C stops everything.", ""])
