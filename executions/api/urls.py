"""Routes of the executions API, below /v1."""

from django.urls import path

from executions.api import captokens, views
from executions.api.api_keys import ApiKeyListView, RevokeView, RotateView
from executions.api.audit_log import AuditLogView
from executions.api.idempotency_keys import IdempotencyKeyView, ReleaseView
from executions.api.plans import PlanListView, PlanView
from executions.api.receipts import AuditKeysView, ReceiptView
from executions.api.run_list import RunListView

urlpatterns = [
    path("execute", views.ExecuteView.as_view(), name="execute"),
    path("executions", RunListView.as_view(), name="execution-list"),
    path("executions/<uuid:run_id>", views.RunView.as_view(), name="execution"),
    path("executions/<uuid:run_id>/pause", views.PauseView.as_view(), name="execution-pause"),
    path("executions/<uuid:run_id>/resume", views.ResumeView.as_view(), name="execution-resume"),
    path("executions/<uuid:run_id>/cancel", views.CancelView.as_view(), name="execution-cancel"),
    path("executions/<uuid:run_id>/receipt", ReceiptView.as_view(), name="execution-receipt"),
    path("audit", AuditLogView.as_view(), name="audit-log"),
    path("audit/keys", AuditKeysView.as_view(), name="audit-keys"),
    path("plans", PlanListView.as_view(), name="plan-list"),
    path("plans/<str:plan_hash>", PlanView.as_view(), name="plan"),
    path("plans/<str:plan_hash>/validate", views.ValidateView.as_view(), name="plan-validate"),
    path("api-keys", ApiKeyListView.as_view(), name="api-key-list"),
    path("api-keys/<uuid:key_id>/rotate", RotateView.as_view(), name="api-key-rotate"),
    path("api-keys/<uuid:key_id>/revoke", RevokeView.as_view(), name="api-key-revoke"),
    path("captokens", captokens.IssueView.as_view(), name="captoken-issue"),
    path("captokens/verify", captokens.VerifyView.as_view(), name="captoken-verify"),
    path("captokens/attenuate", captokens.AttenuateView.as_view(), name="captoken-attenuate"),
    path("captokens/<path:token_id>/revoke", captokens.RevokeView.as_view(), name="captoken-revoke"),
    path("idempotency-keys/<path:key>/release", ReleaseView.as_view(), name="idempotency-key-release"),
    path("idempotency-keys/<path:key>", IdempotencyKeyView.as_view(), name="idempotency-key"),
]
