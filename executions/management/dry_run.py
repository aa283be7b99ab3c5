"""A dry run in the terminal: what would run, whom it would ask, and what speaks for caution."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from executions.actions.previews import Approval, Duration, Preview, RuntimeFit, ToolUse

MOST_NAMES = 5


def print_preview(console: Console, seen: Preview) -> None:
    """Print the essentials; the JSON has everything."""
    console.print(f"[bold green]would be accepted[/]: {escape(seen.plan_name)}, plan {seen.plan_hash[:12]}")
    console.print(f"steps     {escape(', '.join(seen.step_order))}")
    console.print(f"runtime   {escape(_runtime(seen.runtime))}")
    console.print(f"duration  {_duration(seen.estimated_duration)}")
    if seen.tools:
        console.print(_tool_table(seen.tools))
    if seen.approvals:
        console.print(_approval_table(seen.approvals))
    for warning in seen.warnings:
        console.print(f"[yellow]![/] {escape(warning)}")


def _runtime(fit: RuntimeFit) -> str:
    if not fit.answers:
        return "does not answer"
    needed = ", ".join(fit.needed) or "nothing special"
    return f"{fit.kind or 'of unknown kind'}; needed: {needed}{'' if fit.missing is not None else ' (not checked)'}"


def _duration(known: Duration | None) -> str:
    if known is None:
        return "unknown, this plan has not been completed yet"
    return (
        f"median {_span(known.median)}, 90 % within {_span(known.p90)} ({known.runs} runs, waits for people included)"
    )


def _span(seconds: float) -> str:
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _tool_table(tools: list[ToolUse]) -> Table:
    table = Table("tool", "called by", show_edge=False)
    for tool in tools:
        table.add_row(escape(tool.name), escape(_some(tool.steps, len(tool.steps))))
    return table


def _approval_table(approvals: list[Approval]) -> Table:
    table = Table("asks at", "what", "after", "who could answer now", "within", show_edge=False)
    for one in approvals:
        marks = [
            word for word, holds in (("if it comes to that", one.conditional), ("each round", one.repeats)) if holds
        ]
        what = escape(one.title) + (f" [dim]({', '.join(marks)})[/]" if marks else "")
        who = escape(_some(one.eligible, one.eligible_count)) if one.eligible else "[red]nobody[/]"
        within = _span(one.deadline_seconds) if one.deadline_seconds is not None else "any time"
        table.add_row(escape(one.step_id), what, escape(one.after[-1]) if one.after else "the start", who, within)
    return table


def _some(names: list[str], count: int) -> str:
    more = f" and {count - MOST_NAMES} more" if count > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
