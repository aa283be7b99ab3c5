"""A run in the terminal: a progress bar that follows it, and its end as a table."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

EXIT_CODES = {"completed": 0, "failed": 1, "cancelled": 3}
REFUSED = 2
STILL_GOING = 4
MARKS = {"completed": "[green]✓[/]", "failed": "[red]✗[/]", "timed_out": "[red]✗[/]", "skipped": "[dim]–[/]"}


class RunProgress:
    """Shows a run as the API describes it; use as a context manager and feed it with `show`."""

    def __init__(self, console: Console) -> None:
        self.console = console
        columns = [
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
        ]
        self.bar = Progress(*columns, console=console, transient=True)
        self.task = self.bar.add_task("accepted", total=1.0)
        self.seen: dict[str, str] = {}

    def __enter__(self) -> RunProgress:
        self.bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.bar.stop()

    def show(self, run: dict[str, Any]) -> None:
        """Move the bar and print the steps that have ended since the last call."""
        where = f" at {run['current_step']}" if run["current_step"] else ""
        self.bar.update(self.task, completed=run["progress"], description=f"{run['status']} ({run['reason']}){where}")
        for step in run["steps"]:
            if step["status"] in MARKS and self.seen.get(step["step_id"]) != step["status"]:
                self.seen[step["step_id"]] = step["status"]
                self.bar.console.print(f"  {MARKS[step['status']]} {step['name']} [dim]({step['step_id']})[/]")


def print_outcome(console: Console, run: dict[str, Any]) -> None:
    """Print how the run ended: results per step, or what went wrong."""
    color = {"completed": "green", "failed": "red"}.get(run["status"], "yellow")
    seconds = run["timings"]["duration"]
    took = f" after {seconds:.2f} s" if seconds is not None else ""
    console.print(f"[bold {color}]{run['status']}[/] ({run['reason']}){took}, run {run['run_id']}")
    if run["error"]:
        console.print(f"[red]{run['error'].get('message') or run['error']}[/]")
    table = Table("step", "result", show_edge=False)
    for step in run["steps"]:
        if step["step_id"] in run["results"]:
            table.add_row(step["step_id"], json.dumps(run["results"][step["step_id"]], ensure_ascii=False, default=str))
    if table.row_count:
        console.print(table)
