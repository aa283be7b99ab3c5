"""A django-q2 cluster of which any process may be killed at any moment.

    main --- sentinel --- pusher      asks the broker for tasks
                      |-- workers     run them
                      `-- monitor     acknowledges them

The tree and its work are django-q2's. Ours is what it does when somebody dies (measurements: docs/explanation/jobs.md):
- the processes share nothing that a dead one could keep locked (`kernel`);
- no process outlives its parent;
- SIGTERM to every process at once, as systemd and container runtimes send it, means the same as SIGTERM to main: running
  jobs end at their next batch, then all leave;
- main exits 71 (EX_OSERR) when the sentinel has died, so that whoever supervises it starts it anew.
"""

from __future__ import annotations

import os
import signal
import sys
import uuid
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.context import ForkProcess
from typing import Any

from django.conf import settings
from django.db import DatabaseError, connections
from django_q.cluster import Sentinel
from django_q.worker import worker

from orchestrator_project.jobs import slots
from orchestrator_project.jobs.kernel import Flag, MessageQueue, WorkerTimer, die_with, name_process
from orchestrator_project.jobs.kinds import job_kind

EX_OSERR = 71

is_supported = sys.platform == "linux"


def run_cluster() -> int:
    """Run a cluster until SIGTERM or SIGINT; return the exit status for this process."""
    stop = Flag()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    for kind in settings.JOBS:
        job_kind(kind)  # imported once, here, for all workers
    connections.close_all()  # a connection must not be shared by fork
    name_process("q-main")
    sentinel = ForkProcess(target=RobustSentinel, args=(stop, os.getpid()), name="sentinel")
    sentinel.start()
    sentinel.join()
    return 0 if stop.is_set() and sentinel.exitcode == 0 else EX_OSERR


class ClusterProcess(ForkProcess):
    """A pusher, worker or monitor: killed with its sentinel, and deaf to SIGTERM, which the sentinel hears for it."""

    def __init__(self, target: Callable[..., None], *args: Any) -> None:
        super().__init__(target=target, args=args, name=f"{target.__name__}-{uuid.uuid4().hex[:8]}", daemon=True)
        self.role = f"q-{target.__name__}"
        self.sentinel_pid = os.getpid()
        self.timer: WorkerTimer | None = None

    def run(self) -> None:
        """Run the target, connected already: a job need not wait for that."""
        die_with(self.sentinel_pid)
        name_process(self.role)
        with suppress(DatabaseError):
            slots.run(0, 0)  # there is no such slot
        super().run()


class RobustSentinel(Sentinel):
    """Starts the pusher, the workers and the monitor, and replaces each one that dies."""

    def __init__(self, stop: Flag, main_pid: int) -> None:
        die_with(main_pid)
        name_process("q-sentinel")
        super().__init__(stop, Flag(), uuid.uuid4(), start=False)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.task_queue, self.result_queue = MessageQueue(buffer=8 * 1024), MessageQueue(buffer=128 * 1024)
        self.event_out = Flag()
        self.broker.cluster_pid = main_pid
        slots.is_stopping = stop.is_set
        self.start()

    def spawn_process(self, target: Callable[..., None], *args: Any) -> ClusterProcess:
        """Start a child that leaves when told to by its queue, or when this process dies."""
        process = ClusterProcess(target, *args)
        if target is worker:
            process.timer = args[2]
            self.pool.append(process)
        process.start()
        return process

    def spawn_worker(self) -> None:
        """Start one worker."""
        self.spawn_process(worker, self.task_queue, self.result_queue, WorkerTimer(), self.timeout)

    def reincarnate(self, process: ClusterProcess) -> None:
        """Replace a child that died or overran its time; SIGTERM, which the stock sends, would not end it."""
        if process.timer is not None and process.timer.value == 0:
            process.kill()
        super().reincarnate(process)

    def stop(self) -> None:
        """Let everybody finish, then end whoever has not."""
        super().stop()
        for process in (self.pusher, self.monitor, *self.pool):
            process.kill()
