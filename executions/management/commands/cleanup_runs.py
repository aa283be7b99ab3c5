"""Delete old runs."""

import re
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from executions.actions.runs import delete_finished
from executions.models import Run

UNITS = {"h": "hours", "d": "days", "w": "weeks"}


class Command(BaseCommand):
    """`manage.py cleanup_runs --older-than 90d`."""

    help = "Delete runs that ended longer ago than this, with their steps, events and clarifications. Live runs stay."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--older-than", required=True, metavar="AGE", help="a number and h, d or w: 12h, 90d, 8w")
        parser.add_argument("--dry-run", action="store_true", help="only count")

    def handle(self, *args: Any, older_than: str, dry_run: bool, **options: Any) -> None:
        moment = timezone.now() - self._age(older_than)
        if dry_run:
            self.stdout.write(f"{Run.objects.finished_before(moment).count()} runs would be deleted.")
            return
        self.stdout.write(f"{delete_finished(before=moment)} runs deleted.")

    def _age(self, text: str) -> timedelta:
        match = re.fullmatch(r"(\d{1,5})([hdw])", text)
        if match is None:
            raise CommandError(f"--older-than: {text!r} is no age; write a number and h, d or w, e.g. 90d.")
        return timedelta(**{UNITS[match[2]]: int(match[1])})
