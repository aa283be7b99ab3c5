"""All routes of the web process."""

from typing import Any

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularRedocView, SpectacularSwaggerSplitView

from executions.admin.people import change_own_password
from executions.api.health import HealthView
from executions.api.jwks import KeySetView
from executions.api.schema_view import SchemaView
from orchestrator_project import login_throttle

OPEN: dict[str, Any] = {"authentication_classes": [], "permission_classes": []}

urlpatterns = [
    path("", RedirectView.as_view(url="/admin/")),
    path("admin/login/", login_throttle.login),  # before the admin's own, which its pages lead to by name
    path("admin/password_change/", admin.site.admin_view(change_own_password, cacheable=True)),
    path("admin/", admin.site.urls),
    path(".well-known/jwks.json", KeySetView.as_view(), name="jwks"),
    path("health", HealthView.as_view(), name="health"),
    path("v1/", include("executions.api.urls")),
    path("v1/", include("approvals_bridge.api.urls")),
    path("v1/schema", SchemaView.as_view(**OPEN), name="schema"),
    path("v1/docs", SpectacularSwaggerSplitView.as_view(url_name="schema", **OPEN), name="docs"),
    path("v1/redoc", SpectacularRedocView.as_view(url_name="schema", **OPEN), name="redoc"),
]

handler400 = "executions.api.problems.bad_request"
handler404 = "executions.api.problems.page_not_found"
handler500 = "executions.api.problems.server_error"
