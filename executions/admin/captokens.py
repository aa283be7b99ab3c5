"""Capability tokens that were revoked, to look at; `revoke_captoken` and the API revoke them."""

from __future__ import annotations

from django.contrib import admin
from django.utils.safestring import SafeString
from unfold.decorators import display

from executions.admin.base import RecordAdmin
from executions.admin.filters import TenantFilter
from executions.models import RevokedToken
from executions.templatetags.reading import ago, moment


@admin.register(RevokedToken)
class RevokedTokenAdmin(RecordAdmin):
    """Tokens that are refused, and whose runs stop at their next check: by whom, since when and why."""

    list_display = ["token_id", "revoked_by", "reason", "tenant", "at"]
    list_filter = [("tenant", TenantFilter), "revoked_at"]
    search_fields = ["token_id", "revoked_by", "reason"]
    list_select_related = ["tenant"]
    ordering = ["-id"]
    fields = ["token_id", "reason", "revoked_by", "shown_at", "tenant"]

    @display(description="When", ordering="-id")
    def at(self, obj: RevokedToken) -> SafeString | str:
        """How long ago."""
        return ago(obj.revoked_at)

    @display(description="When")
    def shown_at(self, obj: RevokedToken) -> SafeString | str:
        """The time, in UTC."""
        return moment(obj.revoked_at)
