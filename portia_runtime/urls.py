"""The routes of the runtime, under /api/v1. Nothing of the orchestrator's own site is served here."""

from django.urls import path

from portia_runtime import views
from portia_runtime.incoming import routes

urlpatterns = [
    path("api/v1/health", routes(get=views.health)),
    path("api/v1/tools", routes(get=views.list_tools)),
    path("api/v1/plans", routes(post=views.create_plan)),
    path("api/v1/plans/<path:plan_id>", routes(get=views.get_plan)),
    path("api/v1/runs", routes(get=views.list_runs, post=views.create_run)),
    path("api/v1/runs/<str:run_id>", routes(get=views.get_run)),
    path("api/v1/runs/<str:run_id>/pause", routes(post=views.pause_run)),
    path("api/v1/runs/<str:run_id>/resume", routes(post=views.resume_run)),
    path("api/v1/runs/<str:run_id>/cancel", routes(post=views.cancel_run)),
    path("api/v1/runs/<str:run_id>/clarifications", routes(get=views.list_clarifications)),
    path("api/v1/clarifications", routes(get=views.list_clarifications)),
    path("api/v1/clarifications/<str:clarification_id>", routes(get=views.get_clarification)),
    path("api/v1/clarifications/<str:clarification_id>/respond", routes(post=views.respond)),
]
