"""Keeps some programs running in the foreground: starts, restarts and stops them, and shows what they print.

- Each program leads a process group of its own. When it ends, however it ends, the rest of its group is killed before it is
  started anew, so that no leftover holds a port or a job.
- One that dies is started again after 0.5 s, then 1, 2 .. 10 s as long as it keeps dying young.
- One that lives but whose pulse has stopped is killed and started again.
- When the supervisor is killed itself, the janitor, a tiny process beside it, kills every group.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

FIRST_DELAY, LONGEST_DELAY = 0.5, 10.0  # seconds before a restart
YOUNG = 10.0  # seconds; who lived longer is restarted without a longer delay
STOP_SECONDS = 9.0  # from SIGTERM to SIGKILL
PULSE_EVERY = 3.0  # seconds
NO_PULSE_SECONDS = 15.0
START_SECONDS = 15.0  # more, for the first pulse
LOOK_EVERY = 0.1  # seconds

Write = Callable[[str, str], None]


@dataclass(frozen=True, kw_only=True)
class Program:
    """One program: `pulse(pid)` returns something that changes as long as it works; an error there says nothing."""

    name: str
    command: Sequence[str | Path]
    environment: Mapping[str, str] = field(default_factory=dict)
    pulse: Callable[[int], object] | None = None


class Supervisor:
    """Runs programs from entering its `with` block to leaving it. `write(name, line)` shows a line that one has printed."""

    def __init__(self, programs: Sequence[Program], *, folder: Path, write: Write) -> None:
        self._write = write
        self._stopping = threading.Event()
        self._janitor = _Janitor()
        self._children = {p.name: _Child(p, folder=folder, write=write, janitor=self._janitor) for p in programs}
        self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def __enter__(self) -> Self:
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def pid(self, name: str) -> int | None:
        """The main process of that program, None while it is down."""
        running = self._children[name].running
        return running.pid if running else None

    def deaths(self, name: str) -> int:
        """How often that program has ended by itself."""
        return self._children[name].deaths

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Ask all programs to end, and end those that have not after `seconds`. Once stopped, it does nothing."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._watcher.join()
        for child in self._children.values():
            if child.running:
                child.running.ask_to_end()
        ends_at = time.monotonic() + seconds
        for child in self._children.values():
            child.end(max(0.0, ends_at - time.monotonic()))
        self._janitor.close()

    def _watch(self) -> None:
        while not self._stopping.wait(LOOK_EVERY):
            for child in self._children.values():
                child.look_after()


class _Child:
    """One program over all its lives."""

    def __init__(self, program: Program, *, folder: Path, write: Write, janitor: _Janitor) -> None:
        self.program, self.folder, self.write, self.janitor = program, folder, write, janitor
        self.running: _Process | None = None
        self.deaths = 0
        self._start_at = 0.0
        self._delay = FIRST_DELAY

    def look_after(self) -> None:
        """Start it if it is down, mourn it if it has ended, kill it if it is stuck."""
        if self.running is None:
            if time.monotonic() >= self._start_at:
                self._start()
        elif self.running.has_ended():
            self._died(self.running)
        elif self.running.is_stuck():
            self.write(self.program.name, f"!! gave no sign of life for {NO_PULSE_SECONDS:.0f} s: killed")
            self.running.signal_group(signal.SIGKILL)

    def end(self, seconds: float) -> None:
        """Wait up to `seconds` for its end, then kill it."""
        if self.running is not None:
            self.running.wait(seconds)
            self._bury(self.running)

    def _start(self) -> None:
        try:
            self.running = _Process(self.program, folder=self.folder, write=self.write)
        except OSError as error:
            self._start_at = time.monotonic() + LONGEST_DELAY
            self.write(self.program.name, f"!! cannot be started: {error}; trying again in {LONGEST_DELAY:g} s")
        else:
            self.janitor.look_after(self.running.pid)

    def _bury(self, process: _Process) -> int:
        status = process.bury()
        self.janitor.forget(process.pid)
        self.running = None
        return status

    def _died(self, process: _Process) -> None:
        self._delay = FIRST_DELAY if process.age > YOUNG or not self.deaths else min(self._delay * 2, LONGEST_DELAY)
        self._start_at = time.monotonic() + self._delay
        self.deaths += 1
        status = self._bury(process)
        self.write(self.program.name, f"!! {_how_it_ended(status)}; starting it again in {self._delay:g} s")


class _Process:
    """One life of a program."""

    def __init__(self, program: Program, *, folder: Path, write: Write) -> None:
        output, child_output = os.pipe()
        try:
            self._popen = subprocess.Popen(
                list(map(str, program.command)), cwd=folder, env={**os.environ, "PYTHONUNBUFFERED": "1", **program.environment},
                stdin=subprocess.DEVNULL, stdout=child_output, stderr=child_output, start_new_session=True,
            )  # fmt: skip
        except OSError:
            os.close(output)
            raise
        finally:
            os.close(child_output)
        self.pid = self._popen.pid
        self._program, self._write = program, write
        self._started_at = time.monotonic()
        self._pulse: object = None
        self._pulse_at, self._next_pulse = self._started_at + START_SECONDS, self._started_at
        self._reader = threading.Thread(
            target=self._show, args=(output,), name=f"output of {program.name}", daemon=True
        )
        self._reader.start()

    @property
    def age(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self._started_at

    def has_ended(self) -> bool:
        """Whether it has ended. It stays a zombie, so that the number of its group cannot become anybody else's."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def is_stuck(self) -> bool:
        """Whether its pulse has not changed for too long."""
        now = time.monotonic()
        if self._program.pulse is None or now < self._next_pulse:
            return False
        self._next_pulse = now + PULSE_EVERY
        try:
            pulse = self._program.pulse(self.pid)
        except Exception:  # who cannot feel the pulse cannot say that there is none
            pulse = now
        if pulse != self._pulse:
            self._pulse, self._pulse_at = pulse, max(now, self._pulse_at)
        return now - self._pulse_at > NO_PULSE_SECONDS

    def ask_to_end(self) -> None:
        """Send SIGTERM to the program itself, which tells its own children."""
        os.kill(self.pid, signal.SIGTERM)

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the program and all that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def wait(self, seconds: float) -> None:
        """Wait up to `seconds` for its end."""
        ends_at = time.monotonic() + seconds
        while not self.has_ended() and time.monotonic() < ends_at:
            time.sleep(0.02)

    def bury(self) -> int:
        """Kill what is left of the group, show its last lines; return the exit status of its leader."""
        self.signal_group(signal.SIGKILL)
        status = self._popen.wait()
        self._reader.join(1)
        return status

    def _show(self, output: int) -> None:
        with open(output, errors="replace") as lines:
            for line in lines:
                self._write(self._program.name, line.rstrip("\n"))


class _Janitor:
    """The supervisor's end of the janitor's standard input."""

    def __init__(self) -> None:
        standard_input, self._pipe = os.pipe()
        command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("janitor.py"))]
        self._popen = subprocess.Popen(command, stdin=standard_input, start_new_session=True)
        os.close(standard_input)

    def look_after(self, group: int) -> None:
        self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        self._tell(f"-{group}\n")

    def close(self) -> None:
        os.close(self._pipe)
        self._popen.wait()

    def _tell(self, line: str) -> None:
        with suppress(BrokenPipeError):
            os.write(self._pipe, line.encode())


def _how_it_ended(status: int) -> str:
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
