"""App config of executions: run a plan and know what happened."""

from django.apps import AppConfig


class ExecutionsConfig(AppConfig):
    """Plans, runs, keys and events."""

    name = "executions"
    verbose_name = "Executions"

    def ready(self) -> None:
        """Let drf-spectacular know how the API key looks."""
        from executions.api import schema  # noqa: F401
