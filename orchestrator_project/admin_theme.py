"""UNFOLD: the look of the admin and its navigation (django-unfold). Everything is served from here, nothing from elsewhere."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.urls import reverse_lazy


def _static(path: str) -> Any:
    def address(request: HttpRequest) -> str:
        from django.templatetags.static import static

        return static(path)

    return address


def environment(request: HttpRequest) -> list[str] | None:
    """Mark every page of a development service, so that nobody takes it for the real one."""
    from django.conf import settings

    return None if settings.IS_PRODUCTION else ["Development", "warning"]


def _item(title: str, icon: str, name: str, permission: str, **more: Any) -> dict[str, Any]:
    return {
        "title": title,
        "icon": icon,
        "link": reverse_lazy(f"admin:{name}_changelist"),
        "permission": lambda request: request.user.has_perm(permission),
        **more,
    }


LOGIN_REDIRECT_URL = "admin:index"

UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "Orchestrator",
    "SITE_HEADER": "Orchestrator",
    "SITE_SUBHEADER": "Runs and approvals",
    "SITE_SYMBOL": "account_tree",
    "SITE_URL": None,
    "SHOW_HISTORY": False,
    "SHOW_VIEW_ON_SITE": False,
    "ENVIRONMENT": "orchestrator_project.admin_theme.environment",
    "DASHBOARD_CALLBACK": "approvals_bridge.dashboard.dashboard",
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": _static("executions/favicon.svg")}],
    "STYLES": [_static("executions/theme.css"), _static("executions/admin.css")],
    "SCRIPTS": [_static("executions/live.js")],
    "COLORS": lambda request: {},  # they stand in theme.css: unfold would write them into each page as an inline style
    "SIDEBAR": {
        "navigation": [
            {
                "items": [
                    {"title": "Overview", "icon": "dashboard", "link": reverse_lazy("admin:index")},
                    _item(
                        "Approvals", "how_to_vote", "approvals_bridge_clarification",
                        "approvals_bridge.view_clarification", badge="approvals_bridge.dashboard.waiting_badge",
                    ),
                    _item("Runs", "play_circle", "executions_run", "executions.view_run"),
                    _item("Plans", "account_tree", "executions_plan", "executions.view_plan"),
                ],
            },
            {
                "title": "Records",
                "collapsible": True,
                "items": [
                    _item("Events", "history", "executions_event", "executions.view_event"),
                    _item("Audit log", "verified_user", "executions_auditentry", "executions.view_auditentry"),
                    _item(
                        "Idempotency records", "repeat", "executions_idempotencyrecord",
                        "executions.view_idempotencyrecord",
                    ),
                    _item("Work due", "pending_actions", "executions_work", "executions.view_work"),
                ],
            },
            {
                "title": "Access",
                "collapsible": True,
                "items": [
                    _item("Tenants", "apartment", "executions_tenant", "executions.view_tenant"),
                    _item("API keys", "key", "executions_apikey", "executions.view_apikey"),
                    _item("Revoked tokens", "block", "executions_revokedtoken", "executions.view_revokedtoken"),
                    _item("Users", "person", "auth_user", "auth.view_user"),
                    _item("Groups", "group", "auth_group", "auth.view_group"),
                    _item(
                        "Login attempts", "lock_clock", "orchestrator_project_loginattempts",
                        "orchestrator_project.view_loginattempts",
                    ),
                ],
            },
        ],
    },
}  # fmt: skip
