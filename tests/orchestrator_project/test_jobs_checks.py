"""Settings under which jobs would run twice, starve or not at all are refused; so are pages that run any function."""

import pytest
from django.contrib import admin
from django_q.models import Failure, OrmQ, Schedule, Success

from orchestrator_project.jobs.checks import check_jobs
from tests.orchestrator_project.scratch_jobs import JOBS


@pytest.fixture(autouse=True)
def _scratch(settings):
    settings.JOBS = JOBS


def ids() -> list[str]:
    return [error.id for error in check_jobs()]


def test_our_own_settings_are_sound():
    assert ids() == []


def test_a_kind_whose_functions_do_not_exist_is_named(settings):
    settings.JOBS = {"odd": {"drain": "nowhere.drain", "due": "nowhere.due", "slots": 1}}
    (error,) = check_jobs()
    assert "JOBS['odd']" in error.msg


def test_slots_leave_a_worker_free(settings):
    settings.Q_CLUSTER = settings.Q_CLUSTER | {"workers": 3}
    assert "jobs.E002" in ids()


def test_a_retry_that_comes_before_the_end_is_refused(settings):
    settings.Q_CLUSTER = settings.Q_CLUSTER | {"retry": 30}
    assert ids() == ["jobs.E004"]


def test_a_timeout_that_ends_working_jobs_is_refused(settings):
    settings.Q_CLUSTER = settings.Q_CLUSTER | {"timeout": 4}
    assert ids() == ["jobs.E003"]


def test_the_admin_pages_of_django_q_are_taken_out():
    assert not [model for model in (Schedule, Success, Failure, OrmQ) if admin.site.is_registered(model)]
