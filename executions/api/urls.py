"""Routes of the executions API, below /v1."""

from django.urls import path

from executions.api import views
from executions.api.idempotency_keys import IdempotencyKeyView, ReleaseView
from executions.api.plans import PlanListView, PlanView
from executions.api.run_list import RunListView

urlpatterns = [
    path("execute", views.ExecuteView.as_view(), name="execute"),
    path("executions", RunListView.as_view(), name="execution-list"),
    path("executions/<uuid:run_id>", views.RunView.as_view(), name="execution"),
    path("executions/<uuid:run_id>/pause", views.PauseView.as_view(), name="execution-pause"),
    path("executions/<uuid:run_id>/resume", views.ResumeView.as_view(), name="execution-resume"),
    path("executions/<uuid:run_id>/cancel", views.CancelView.as_view(), name="execution-cancel"),
    path("plans", PlanListView.as_view(), name="plan-list"),
    path("plans/<str:plan_hash>", PlanView.as_view(), name="plan"),
    path("plans/<str:plan_hash>/validate", views.ValidateView.as_view(), name="plan-validate"),
    path("idempotency-keys/<path:key>/release", ReleaseView.as_view(), name="idempotency-key-release"),
    path("idempotency-keys/<path:key>", IdempotencyKeyView.as_view(), name="idempotency-key"),
]
