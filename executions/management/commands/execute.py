"""Submit a plan from a file, and follow its run."""

from __future__ import annotations

import json
import secrets
import sys
import time
from pathlib import Path
from typing import IO, Any, cast

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction
from rich.console import Console

from executions.actions import captokens, denials, previews, runs
from executions.actions.runs import Submission
from executions.api.serializers import RunSerializer
from executions.errors import OrchestratorError
from executions.management.dry_run import print_preview
from executions.management.progress import EXIT_CODES, REFUSED, STILL_GOING, RunProgress, print_outcome
from executions.models import Run, Tenant
from executions.portia.client import portia


class Command(BaseCommand):
    """`manage.py execute examples/plans/welcome.json --param email=ann@example.com --wait`."""

    help = (
        "Run an ExecutablePlan from a JSON file. Exit codes: 0 accepted, completed, or a dry run that found nothing wrong; "
        "1 the run failed, 2 refused (a dry run too) or bad input, 3 cancelled, 4 still going when --wait ran out."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("plan", type=Path, metavar="PLAN.json")
        parser.add_argument(
            "--param", action="append", default=[], metavar="K=V", help="a parameter; V as JSON or as text"
        )
        parser.add_argument(
            "--variable", action="append", default=[], metavar="K=V", help="wins over the plan's variable"
        )
        parser.add_argument("--tenant", help="identifier of the tenant (default: the only one)")
        parser.add_argument("--triggered-by", default="operator", help="who asks for the run")
        parser.add_argument("--capability-token", help="needed in production")
        parser.add_argument("--dry-run", action="store_true", help="check everything, run nothing")
        parser.add_argument("--json", action="store_true", help="show a dry run as JSON on a terminal too")
        parser.add_argument(
            "--wait", type=float, nargs="?", const=3600.0, metavar="SECONDS", help="follow the run to its end"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["json"] and not options["dry_run"]:
            raise CommandError("--json: only a dry run is shown as JSON; add --dry-run.", returncode=REFUSED)
        tenant = self._tenant(options["tenant"])
        who = options["triggered_by"]
        try:
            with denials.recorded(tenant=tenant, by=who):
                submission = self._submission(tenant, options)
                if options["dry_run"]:
                    self._show(tenant, submission, as_json=options["json"])
                    return
                with transaction.atomic(durable=True):
                    run = runs.start(tenant=tenant, principal=who, submission=submission)
        except OrchestratorError as error:
            raise CommandError(_sentence(error), returncode=REFUSED) from None
        self._follow(run, options["wait"])

    def _submission(self, tenant: Tenant, options: dict[str, Any]) -> Submission:
        document = self._read(options["plan"])
        return Submission(
            executable_plan=document,
            parameters=_pairs("--param", options["param"]),
            variables=_pairs("--variable", options["variable"]),
            capability_token=captokens.present(options["capability_token"], tenant=tenant, document=document),
            triggered_by=options["triggered_by"],
            correlation_id=secrets.token_hex(16),
            runtime=portia().known_runtime(tenant=tenant.identifier),
        )

    def _show(self, tenant: Tenant, submission: Submission, *, as_json: bool) -> None:
        seen = previews.preview(tenant=tenant, principal=submission.triggered_by, user=None, submission=submission)
        if as_json or not self.stdout.isatty():
            self.stdout.write(json.dumps(seen.to_json(), indent=2))
        else:
            print_preview(Console(file=cast("IO[str]", self.stdout)), seen)

    def _follow(self, run: Run, seconds: float | None) -> None:
        if seconds is None:
            self.stdout.write(str(run.pk))
            return
        console = Console(file=sys.stderr if not sys.stdout.isatty() else sys.stdout)
        run = watch(run, seconds=seconds, console=console)
        view = json.loads(json.dumps(RunSerializer(run).data, default=str))
        print_outcome(console, view)
        sys.exit(EXIT_CODES.get(run.status, STILL_GOING))

    def _tenant(self, identifier: str | None) -> Tenant:
        tenants = list(Tenant.objects.filter(**({"identifier": identifier} if identifier else {}))[:2])
        if len(tenants) != 1:
            known = (
                ", ".join(Tenant.objects.values_list("identifier", flat=True)[:20])
                or "none; add one with create_tenant"
            )
            raise CommandError(f"--tenant: name one of the tenants there are ({known}).", returncode=REFUSED)
        return tenants[0]

    def _read(self, path: Path) -> Any:
        try:
            return json.loads(path.read_bytes())
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror}.", returncode=REFUSED) from None
        except ValueError as error:
            raise CommandError(f"{path} is not valid JSON: {error}.", returncode=REFUSED) from None


def watch(run: Run, *, seconds: float, console: Console) -> Run:
    """Show the run's progress until it has ended or the time is over."""
    deadline = time.monotonic() + seconds
    with RunProgress(console) as progress:
        while True:
            progress.show(RunSerializer(run).data)
            left = deadline - time.monotonic()
            if run.is_terminal or left <= 0:
                return run
            runs.wait(run.pk, seconds=left, since=run.version)
            run.refresh_from_db()


def _pairs(option: str, words: list[str]) -> dict[str, Any]:
    pairs = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not name or not equals:
            raise CommandError(f"{option}: {word!r} is no NAME=VALUE.", returncode=REFUSED)
        try:
            pairs[name] = json.loads(text)
        except ValueError:
            pairs[name] = text
    return pairs


def _sentence(error: OrchestratorError) -> str:
    lines = [f"  {one['pointer']}: {one['detail']}" for one in error.errors]
    return "\n".join([str(error), *lines])
