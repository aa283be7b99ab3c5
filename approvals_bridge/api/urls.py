"""Routes of the approvals API, below /v1."""

from django.urls import path

from approvals_bridge.api import views

urlpatterns = [
    path("approvals", views.ClarificationListView.as_view(), name="approval-list"),
    path("approvals/<uuid:clarification_id>", views.ClarificationView.as_view(), name="approval"),
    path("approvals/<uuid:clarification_id>/approve", views.ApproveView.as_view(), name="approval-approve"),
    path("approvals/<uuid:clarification_id>/reject", views.RejectView.as_view(), name="approval-reject"),
    path("approvals/<uuid:clarification_id>/answer", views.AnswerView.as_view(), name="approval-answer"),
]
