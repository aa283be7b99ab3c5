"""`manage.py demo`: the main job from end to end, on free ports, in a minute or less."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener
from uuid import UUID

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError
from django.db import connection
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from approvals_bridge.actions import decide
from executions.actions.tenants import ensure_demo
from executions.errors import OrchestratorError
from executions.management.progress import EXIT_CODES, STILL_GOING, RunProgress, print_outcome
from orchestrator_project.management.commands.up import demo_password, interrupted_by_signals, migrate
from orchestrator_project.stack import StackError, running_stack

PLAN = settings.BASE_DIR / "examples" / "plans" / "refund.json"
SECONDS = 60.0  # for the run; then the demonstration has failed

Json = dict[str, Any]


class Command(BaseCommand):
    """Start everything, run the refund plan as an API consumer, approve it as a person, show the result, stop."""

    help = (
        "Runs a refund through validation, a person's approval and payment, over the real API. Exit code 0 on success."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        if settings.IS_PRODUCTION:
            raise CommandError("The demonstration makes users and keys; it runs with ANUMATE_ENV=development only.")
        console = Console()
        with interrupted_by_signals():
            try:
                raise SystemExit(_demonstrate(console))
            except (StackError, OrchestratorError) as error:
                raise CommandError(str(error)) from None
            except KeyboardInterrupt:
                raise CommandError("Interrupted.") from None


def _demonstrate(console: Console) -> int:
    began = time.monotonic()
    migrate()
    access = ensure_demo(password=demo_password())
    connection.close()
    lines: list[str] = []
    with running_stack(write=lambda name, line: lines.append(f"{name} | {line}")) as stack:
        took = time.monotonic() - began
        console.print(
            f"Everything runs after {took:.1f} s: {stack.web_url}/v1, Portia at {stack.portia_url}", soft_wrap=True
        )
        api = Api(stack.web_url, access.api_key)
        run = _follow(console, api, _submit(console, api))
        print_outcome(console, run)
        _print_story(console, run, stack.web_url)
    if run["status"] != "completed":
        console.print("\n".join(lines[-40:]), highlight=False)
    return EXIT_CODES.get(run["status"], STILL_GOING)


class Api:
    """The service as one API consumer sees it."""

    def __init__(self, base: str, key: str) -> None:
        self.base = base
        self.headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self.opener = build_opener(ProxyHandler({}))

    def call(self, path: str, body: Json | None = None, **headers: str) -> Json:
        """GET, or POST a body. Raises CommandError with the problem's words for a refusal."""
        data = json.dumps(body).encode() if body is not None else None
        request = Request(self.base + path, data, {**self.headers, **headers})  # noqa: S310 - our own address
        try:
            with self.opener.open(request, timeout=30) as response:
                answer: Json = json.load(response)
                return answer
        except HTTPError as refusal:
            raise CommandError(f"{path}: {refusal.read().decode()}") from None


def _submit(console: Console, api: Api) -> Json:
    body = {"executable_plan": json.loads(PLAN.read_text()), "triggered_by": "alice"}
    run = api.call("/v1/execute", body, **{"Idempotency-Key": f'"demo-{time.time_ns()}"'})
    console.print(
        f"alice submits [bold]{run['plan_name']}[/]: run {run['run_id']}, plan {run['plan_hash'][:12]}…", soft_wrap=True
    )
    return run


def _follow(console: Console, api: Api, run: Json) -> Json:
    """Show the run's progress; when it asks for a person, be that person."""
    deadline = time.monotonic() + SECONDS
    decided: set[str] = set()
    with RunProgress(console) as progress:
        while run["status"] not in EXIT_CODES and time.monotonic() < deadline:
            run = api.call(f"/v1/executions/{run['run_id']}")
            progress.show(run)
            for waiting in set(run["pending_clarifications"]) - decided:
                _approve(console, api.call(f"/v1/approvals/{waiting}"))
                decided.add(waiting)
            time.sleep(0.1)
    return run


def _approve(console: Console, asked: Json) -> None:
    """Look at what would run, then approve it as bob, through the function the admin's button calls."""
    facts = Table.grid(padding=(0, 2))
    action = asked["action"] or {}
    for name, value in {"asks": asked["guidance"], "tool": action.get("tool"), **action.get("arguments", {})}.items():
        facts.add_row(f"[dim]{name}[/]", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    facts.add_row("[dim]seal[/]", f"{asked['action_digest'][:12]}…")
    console.print(Panel(facts, title=f"{asked['title']}: waiting for a person", expand=False))
    decide(
        clarification_id=UUID(asked["id"]),
        user=get_user_model().objects.get(username="bob"),
        decision="approve",
        reason="The return has arrived and is complete.",
        action_digest=asked["action_digest"],
        source="command",
    )
    console.print("[green]bob approves it[/]: The return has arrived and is complete.")


def _print_story(console: Console, run: Json, web_url: str) -> None:
    console.print(f"Mails it sent lie in {settings.DATA_DIR / 'mail'}", highlight=False)
    console.print("Keep it running with [bold]make up[/]; then these show more:", highlight=False)
    for what, path in (
        ("the run", f"/admin/executions/run/{run['run_id']}/change/"),
        ("approvals", "/admin/approvals_bridge/clarification/"),
        ("API pages", "/v1/docs"),
    ):
        console.print(f"  {what:10} {web_url.rsplit(':', 1)[0]}:8000{path}", highlight=False, soft_wrap=True)
