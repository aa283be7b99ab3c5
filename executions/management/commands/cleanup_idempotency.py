"""Delete idempotency records whose time is over."""

from typing import Any

from django.core.management.base import BaseCommand

from executions import idempotency


class Command(BaseCommand):
    """`manage.py cleanup_idempotency`; safe at any time, some records at a time."""

    help = "Delete the stored answers of Idempotency-Keys that have expired."

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(f"{idempotency.delete_expired()} expired idempotency records deleted.")
