"""Hearing Postgres' NOTIFY on the connection that Django already has."""

from __future__ import annotations

from time import monotonic

from django.db import connection
from psycopg import Connection, Notify


class Listener:
    """Listens on some channels, on whatever connection this thread has at the moment; listens anew after a reconnect.

    Notifications that arrive while other statements run are kept by psycopg, so there is no gap between asking the database
    what is due and waiting for it to change.
    """

    def __init__(self, *channels: str) -> None:
        self.channels = channels
        self._heard_on: Connection | None = None

    def listen(self) -> Connection:
        """Make sure that the channels are heard, connecting if need be; return the psycopg connection."""
        connection.ensure_connection()
        raw: Connection = connection.connection
        if raw is not self._heard_on:
            for channel in self.channels:
                raw.execute(f"LISTEN {channel}")
            self._heard_on = raw
        return raw

    def wait(self, seconds: float) -> list[Notify]:
        """The notifications that came in since the last call; waits up to `seconds` for the first one."""
        raw = self.listen()
        return list(raw.notifies(timeout=max(seconds, 0.0), stop_after=1))

    def wait_for(self, payload: str, seconds: float) -> bool:
        """Wait up to `seconds` for a notification with this payload; tell whether it came."""
        ends_at = monotonic() + seconds
        while (left := ends_at - monotonic()) > 0:
            if any(heard.payload == payload for heard in self.wait(left)):
                return True
        return False

    def stop(self) -> None:
        """Hear no more, so that nothing piles up on a connection that nobody reads."""
        if self._heard_on is not None and self._heard_on is connection.connection and not self._heard_on.closed:
            for channel in self.channels:
                self._heard_on.execute(f"UNLISTEN {channel}")
        self._heard_on = None
