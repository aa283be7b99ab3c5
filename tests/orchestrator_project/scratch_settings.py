"""Settings of a real cluster that drains the scratch jobs of the test database."""

import os

from orchestrator_project.settings import *  # noqa: F403
from tests.orchestrator_project.scratch_jobs import JOBS  # noqa: F401

DATABASES = {"default": DATABASES["default"] | {"NAME": os.environ["SCRATCH_DATABASE"]}}  # noqa: F405
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "orchestrator_project", "django_q"]
ROOT_URLCONF, urlpatterns, MIDDLEWARE = __name__, [], []
Q_CLUSTER = Q_CLUSTER | {"workers": 5, "timeout": 2}  # noqa: F405
JOBS_KICK_BUDGET = 1
