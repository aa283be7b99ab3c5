"""Write the documents that are made from the code, or check that they are current."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from executions.models.run import REASONS, TERMINAL, TRANSITIONS, RunReason, RunStatus

RUN_STATES = """# Run states

Made by `manage.py write_docs` from the tables in `executions/models/run.py`; a trigger in the database is made from the same.

`status` says where a run is and drives behaviour; `reason` says why. `Run.transition` is the only writer of both.

```mermaid
stateDiagram-v2
    [*] --> pending
{arrows}
```

| status | reasons | may become |
|---|---|---|
{rows}

| reason | in words |
|---|---|
{words}
"""


def run_states() -> str:
    """Return docs/reference/run-states.md as the tables have it now."""
    arrows = [f"    {old} --> {new}" for old, following in TRANSITIONS.items() for new in _ordered(following)]
    arrows += [f"    {status} --> [*]" for status in RunStatus.values if status in TERMINAL]
    rows = [
        f"| `{status}` | {', '.join(f'`{r}`' for r in _reasons(status))} | "
        f"{', '.join(f'`{s}`' for s in _ordered(TRANSITIONS[status])) or 'nothing: it has ended'} |"
        for status in RunStatus.values
    ]
    words = [f"| `{reason.value}` | {reason.label} |" for reason in RunReason]
    return RUN_STATES.format(arrows="\n".join(arrows), rows="\n".join(rows), words="\n".join(words))


def _ordered(statuses: frozenset[str]) -> list[str]:
    return [status for status in RunStatus.values if status in statuses]


def _reasons(status: str) -> list[str]:
    return [reason for reason in RunReason.values if reason in REASONS[status]]


DOCUMENTS = {"docs/reference/run-states.md": run_states}


class Command(BaseCommand):
    """`manage.py write_docs [--check]`."""

    help = "Write the generated documents; with --check only say whether they are current."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--check", action="store_true")

    def handle(self, *args: Any, check: bool, **options: Any) -> None:
        stale = [name for name, make in DOCUMENTS.items() if _text(settings.BASE_DIR / name) != make()]
        if check and stale:
            raise CommandError(f"Not current: {', '.join(stale)}. Run `make fix`.")
        for name in stale:
            (settings.BASE_DIR / name).write_text(DOCUMENTS[name]())
            self.stdout.write(f"{name} written.")


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
