"""Make an API key's successor and show it once."""

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from executions.actions.tenants import DEFAULT_OVERLAP, rotate_api_key
from executions.errors import OrchestratorError
from executions.management.keys import NAMED, add_by, find_key

HOUR = timedelta(hours=1)


class Command(BaseCommand):
    """`manage.py rotate_api_key orc_4pVt7dKx --overlap-hours 2`."""

    help = (
        "Make a key that takes the place of another one, which expires after the overlap. The new key is printed once, alone on "
        "standard output, and stored as a digest only."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("key", help=NAMED)
        parser.add_argument(
            "--overlap-hours", type=int, default=DEFAULT_OVERLAP // HOUR, metavar="N",
            help="hours until the old key expires, 0 to 720 (default: %(default)s)",
        )  # fmt: skip
        add_by(parser)

    def handle(self, *args: Any, key: str, overlap_hours: int, by: str, **options: Any) -> None:
        old = find_key(key)
        try:
            new, secret = rotate_api_key(old, by=by, overlap=timedelta(hours=overlap_hours))
        except (OrchestratorError, OverflowError) as error:
            raise CommandError(str(error)) from None
        old.refresh_from_db(fields=["expires_at"])
        self.stderr.write(
            f"Key {new.prefix}… takes the place of {old.prefix}…, which expires at {old.expires_at}. Keep it now:"
        )
        self.stdout.write(secret)
