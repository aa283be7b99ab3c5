"""`manage.py qcluster`: run background jobs until stopped. Takes the place of django-q2's command of that name."""

from __future__ import annotations

import sys
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.db import DatabaseError, ProgrammingError
from django_q.management.commands.qcluster import Command as StockCommand

from orchestrator_project.jobs.cluster import is_supported, run_cluster
from orchestrator_project.jobs.kinds import job_kind
from orchestrator_project.models import JobSlot, WorkerNode


class Command(StockCommand):
    """Start the workers; Ctrl-C or SIGTERM lets the running jobs end and exits 0, the loss of the cluster exits 71."""

    help = "Runs background jobs until stopped (SIGTERM or Ctrl-C). Start as many as you like, on any host."

    def handle(self, *args: Any, **options: Any) -> None:
        if options["cluster_name"]:
            raise CommandError("Name the queue in the environment instead: Q_CLUSTER_NAME=… manage.py qcluster")
        _prepare_tables()
        if options["run_once"] or not is_supported:
            return super().handle(*args, **options)
        self.stdout.write(f"{settings.Q_CLUSTER['workers']} workers wait for jobs: {', '.join(settings.JOBS)}")
        self.stdout.flush()
        sys.exit(run_cluster())


def _prepare_tables() -> None:
    try:
        JobSlot.objects.ensure({name: job_kind(name).slots for name in settings.JOBS})
        WorkerNode.objects.forget_old()
    except ProgrammingError as error:
        raise CommandError("The database is not up to date. Run first: manage.py migrate") from error
    except DatabaseError as error:
        raise CommandError(f"The database does not answer: {error}") from error
