"""Django database engine: PostgreSQL, with the embedded server started at the first connection.

Named by settings.DATABASES only where there is no DATABASE_URL. Commands that never touch the database start no server.
"""

from typing import Any

import psycopg
from django.conf import settings
from django.db.backends.postgresql import base

from orchestrator_project.embedded_postgres import EmbeddedPostgres

server = EmbeddedPostgres(settings.DATA_DIR / "postgres")


class DatabaseWrapper(base.DatabaseWrapper):
    """The stock PostgreSQL wrapper; makes sure of the server before it connects."""

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Connect; at the first connection, and when nobody listens any more, start the server first."""
        if not server.in_use:
            server.ensure_running()
        try:
            return super().get_new_connection(conn_params)
        except psycopg.OperationalError:
            if server.is_running():
                raise
            server.ensure_running()
            return super().get_new_connection(conn_params)
