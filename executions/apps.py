"""App config of executions: run a plan and know what happened."""

from django.apps import AppConfig


class ExecutionsConfig(AppConfig):
    """Plans, runs, keys and events."""

    name = "executions"
    verbose_name = "Executions"

    def ready(self) -> None:
        """Let drf-spectacular know how the API key looks, and the audit log of who logs in; register the system checks."""
        from executions import checks, staff_sessions  # noqa: F401
        from executions.api import schema  # noqa: F401
