"""API keys: made here, shown once, revoked here. No page has a key's digest, and the key itself only the one after the form."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied
from django.db.models import ForeignKey, Q
from django.forms import ModelChoiceField
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils import timezone
from django.utils.safestring import SafeString
from unfold.decorators import display
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget

from executions.actions.tenants import create_api_key, revoke_api_key
from executions.admin.base import PageAdmin
from executions.admin.filters import TenantFilter
from executions.models import ApiKey, Scope, Tenant
from executions.templatetags.reading import ago


class ApiKeyForm(forms.ModelForm):
    """What a new key is for."""

    scopes = forms.MultipleChoiceField(choices=Scope.choices, widget=UnfoldAdminCheckboxSelectMultipleWidget)

    class Meta:
        model = ApiKey
        fields = ["tenant", "principal", "scopes", "user", "expires_at"]

    def clean_expires_at(self) -> Any:
        """Refuse a time that has passed: such a key would never work."""
        expires_at = self.cleaned_data["expires_at"]
        if expires_at is not None and expires_at <= timezone.now():
            raise forms.ValidationError("Choose a time in the future, or none.")
        return expires_at


class KeyStatusFilter(admin.SimpleListFilter):
    """Usable keys, or those that are not any more."""

    title = "status"
    parameter_name = "usable"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """The two halves."""
        return [("yes", "Usable"), ("no", "Revoked or expired")]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        """Filter by the choice."""
        if self.value() == "yes":
            return queryset.usable(timezone.now())
        if self.value() == "no":
            return queryset.filter(Q(revoked_at__isnull=False) | Q(expires_at__lte=timezone.now()))
        return queryset


@admin.register(ApiKey)
class ApiKeyAdmin(PageAdmin):
    """Keys of machines and of people."""

    form = ApiKeyForm
    page_template = "admin/executions/apikey/page.html"
    list_display = ["principal", "shown_status", "tenant", "shown_scopes", "prefix", "last_used", "expires"]
    list_filter = [KeyStatusFilter, ("tenant", TenantFilter)]
    search_fields = ["principal", "prefix", "user__username"]
    list_select_related = ["tenant", "user"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """By the permission to add API keys."""
        return request.user.has_perm("executions.add_apikey")

    def formfield_for_foreignkey(
        self, db_field: ForeignKey, request: HttpRequest, **kwargs: Any
    ) -> ModelChoiceField | None:
        """Offer the person's own tenants, and as the key's owner nobody but the person: a key acts in its owner's name."""
        if not request.user.is_superuser:
            own = {
                "tenant": Tenant.objects.filter(members=request.user.pk),
                "user": get_user_model().objects.filter(username=request.user.get_username()),
            }
            kwargs["queryset"] = own[db_field.name]
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """Choose the tenant where there is only one to choose."""
        tenants = Tenant.objects.filter(members=request.user.pk)[:2]
        return {"tenant": tenants[0].pk} if len(tenants) == 1 else {}

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Offer one way to save: the next page shows the key."""
        buttons = {"show_save_and_add_another": False, "show_save_and_continue": False}
        return super().add_view(request, form_url, buttons | (extra_context or {}))

    def save_model(self, request: HttpRequest, obj: ApiKey, form: ApiKeyForm, change: bool) -> None:
        """Make the key; its text lives in this request only."""
        wanted = {name: form.cleaned_data[name] for name in ApiKeyForm.Meta.fields}
        key, secret = create_api_key(**wanted)
        obj.__dict__.update(key.__dict__)
        request.new_secret = secret  # type: ignore[attr-defined]

    def response_add(self, request: HttpRequest, obj: ApiKey, post_url_continue: str | None = None) -> HttpResponse:
        """Show the key, this once: it is neither stored nor redirected, so that no copy of it stays anywhere."""
        return self.page(request, obj, secret=request.new_secret)  # type: ignore[attr-defined]

    def page_context(self, request: HttpRequest, obj: ApiKey) -> dict[str, Any]:
        """What the key may do, and whether the person may revoke it."""
        scopes = dict(Scope.choices)
        return {
            "scope_words": [scopes.get(scope, scope) for scope in obj.scopes],
            "state": _state(obj),
            "may_revoke": obj.revoked_at is None and request.user.has_perm("executions.change_apikey"),
            "page_url": self.url_of(obj),
        }

    def act(self, request: HttpRequest, obj: ApiKey) -> HttpResponse:
        """Revoke the key."""
        if not request.user.has_perm("executions.change_apikey"):
            raise PermissionDenied
        if request.POST.get("command") == "revoke":
            revoke_api_key(obj)
            self.log_change(request, obj, "Revoked.")
            messages.success(request, "The key is revoked: it is refused from now on.")
        return HttpResponseRedirect(self.url_of(obj))

    @display(description="Status", label={"usable": "success", "revoked": "danger", "expired": "warning"})
    def shown_status(self, obj: ApiKey) -> tuple[str, str]:
        """Usable, revoked or expired."""
        return _state(obj), _state(obj).capitalize()

    @display(description="May")
    def shown_scopes(self, obj: ApiKey) -> str:
        """The scopes, in a line."""
        return ", ".join(obj.scopes)

    @display(description="Last used", ordering="last_used_at")
    def last_used(self, obj: ApiKey) -> SafeString | str:
        """How long ago it was last used."""
        return ago(obj.last_used_at) if obj.last_used_at else "never"

    @display(description="Expires", ordering="expires_at")
    def expires(self, obj: ApiKey) -> SafeString | str:
        """When it stops working."""
        return ago(obj.expires_at) if obj.expires_at else "never"


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is not None and key.expires_at <= timezone.now():
        return "expired"
    return "usable"
