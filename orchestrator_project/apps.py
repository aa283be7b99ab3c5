"""App config: wiring, background jobs and the commands that start everything."""

from django.apps import AppConfig


class OrchestratorProjectConfig(AppConfig):
    """Holds the job slots and the process commands."""

    name = "orchestrator_project"
    verbose_name = "Background jobs"

    def ready(self) -> None:
        """Register the system checks of the jobs engine and the limits of sessions."""
        from orchestrator_project import sessions  # noqa: F401
        from orchestrator_project.jobs import checks  # noqa: F401
