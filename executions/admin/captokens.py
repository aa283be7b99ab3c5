"""Capability tokens that were revoked. To add one is to revoke it, as `revoke_captoken` and the API do."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.core.validators import MinLengthValidator
from django.db.models import ForeignKey
from django.forms import ModelChoiceField
from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString
from unfold.decorators import display

from executions.actions import captokens
from executions.admin.base import RecordAdmin
from executions.admin.filters import TenantFilter, tenants_of
from executions.capabilities import is_word
from executions.models import RevokedToken
from executions.templatetags.reading import ago, moment


class RevocationForm(forms.ModelForm):
    """Which token, and why."""

    class Meta:
        model = RevokedToken
        fields = ["tenant", "token_id", "reason"]
        help_texts = {
            "token_id": "Its jti. The token is refused from now on, and its runs stop at their next check. This cannot be undone."
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "reason" in self.fields:  # the page that only shows has none
            self.fields["reason"].validators.append(MinLengthValidator(3))

    def clean_token_id(self) -> str:
        """Refuse what can be no token's id."""
        token_id: str = self.cleaned_data["token_id"]
        if not is_word(token_id):
            raise forms.ValidationError("The id of a token (its jti) has 1 to 200 printable characters.")
        return token_id


@admin.register(RevokedToken)
class RevokedTokenAdmin(RecordAdmin):
    """Tokens that are refused, and whose runs stop at their next check: by whom, since when and why."""

    list_display = ["token_id", "revoked_by", "reason", "tenant", "at"]
    list_filter = [("tenant", TenantFilter), "revoked_at"]
    search_fields = ["token_id", "revoked_by", "reason"]
    list_select_related = ["tenant"]
    ordering = ["-id"]
    form = RevocationForm

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        """A revocation is given by three of them."""
        return ["token_id", "reason", "revoked_by", "shown_at", "tenant"] if obj else ["tenant", "token_id", "reason"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """By the permission to add revoked tokens."""
        return request.user.has_perm("executions.add_revokedtoken")

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Offer one way to save."""
        buttons = {"show_save_and_add_another": False, "show_save_and_continue": False}
        return super().add_view(request, form_url, buttons | (extra_context or {}))

    def formfield_for_foreignkey(
        self, db_field: ForeignKey, request: HttpRequest, **kwargs: Any
    ) -> ModelChoiceField | None:
        """Offer the person's tenants."""
        return super().formfield_for_foreignkey(db_field, request, **kwargs | {"queryset": tenants_of(request.user)})

    def save_model(self, request: HttpRequest, obj: RevokedToken, form: Any, change: bool) -> None:
        """Revoke the token."""
        revoked = captokens.revoke(**form.cleaned_data, by=request.user.get_username())
        obj.__dict__.update(revoked.__dict__)

    @display(description="When", ordering="-id")
    def at(self, obj: RevokedToken) -> SafeString | str:
        """How long ago."""
        return ago(obj.revoked_at)

    @display(description="When")
    def shown_at(self, obj: RevokedToken) -> SafeString | str:
        """The time, in UTC."""
        return moment(obj.revoked_at)
