"""System checks: settings with which background jobs would run twice, starve or not at all."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from orchestrator_project.jobs.kinds import job_kind


@register
def check_jobs(**_: Any) -> list[CheckMessage]:
    """Errors in Q_CLUSTER and JOBS, each with what to change."""
    return [*_unusable_kinds(), *_too_few_workers(), *_times_that_do_not_fit()]


def _unusable_kinds() -> list[CheckMessage]:
    errors: list[CheckMessage] = []
    for name in settings.JOBS:
        try:
            job_kind(name)
        except (ImportError, KeyError) as error:
            errors.append(Error(f"JOBS[{name!r}] cannot be used: {error}", id="jobs.E001"))
    return errors


def _too_few_workers() -> list[CheckMessage]:
    kinds: dict[str, dict[str, Any]] = settings.JOBS
    cluster: dict[str, Any] = settings.Q_CLUSTER
    slots, workers = sum(entry.get("slots", 1) for entry in kinds.values()), cluster["workers"]
    if slots < workers:
        return []
    hint = f"Set Q_CLUSTER['workers'] to {slots + 1} at least, so that slow work never keeps quick work waiting."
    return [Error(f"{workers} workers for {slots} job slots", hint=hint, id="jobs.E002")]


def _times_that_do_not_fit() -> list[CheckMessage]:
    cluster: dict[str, Any] = settings.Q_CLUSTER
    longest_wait = cluster["timeout"] * (cluster["queue_limit"] / cluster["workers"] + 1)
    errors: list[CheckMessage] = []
    if not isinstance(cluster["timeout"], int) or cluster["timeout"] <= settings.JOBS_KICK_BUDGET:
        hint = f"Whole seconds, above JOBS_KICK_BUDGET ({settings.JOBS_KICK_BUDGET}) plus the longest batch."
        errors.append(Error("Q_CLUSTER['timeout'] would end jobs that work", hint=hint, id="jobs.E003"))
    if cluster["retry"] <= longest_wait:
        hint = f"Set Q_CLUSTER['retry'] above timeout * (queue_limit / workers + 1), here {longest_wait:.0f} s."
        errors.append(Error("Q_CLUSTER['retry'] would run jobs twice", hint=hint, id="jobs.E004"))
    return errors
