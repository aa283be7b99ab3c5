"""Routes of the executions API, below /v1."""

from django.urls import path

from executions.api import views
from executions.api.run_list import RunListView

urlpatterns = [
    path("execute", views.ExecuteView.as_view(), name="execute"),
    path("executions", RunListView.as_view(), name="execution-list"),
    path("executions/<uuid:run_id>", views.RunView.as_view(), name="execution"),
    path("executions/<uuid:run_id>/pause", views.PauseView.as_view(), name="execution-pause"),
    path("executions/<uuid:run_id>/resume", views.ResumeView.as_view(), name="execution-resume"),
    path("executions/<uuid:run_id>/cancel", views.CancelView.as_view(), name="execution-cancel"),
]
