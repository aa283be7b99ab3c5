"""App config of the approvals bridge: a human answers a clarification."""

from django.apps import AppConfig


class ApprovalsBridgeConfig(AppConfig):
    """Clarifications and votes."""

    name = "approvals_bridge"
    verbose_name = "Approvals"
