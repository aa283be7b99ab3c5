"""API keys: made, rotated and revoked here. No page has a key's digest, and the key itself only the one after the button."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied
from django.db.models import Exists, ForeignKey, OuterRef, QuerySet
from django.forms import ModelChoiceField
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils import timezone
from django.utils.safestring import SafeString
from unfold.decorators import display
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget

from executions.actions.tenants import check_principal, create_api_key, revoke_api_key, rotate_api_key
from executions.admin.base import PageAdmin
from executions.admin.filters import TenantFilter
from executions.errors import InvalidRequest, OrchestratorError
from executions.models import ApiKey, Scope, Tenant
from executions.templatetags.reading import ago

OVERLAPS = {
    "0": "ends now",
    "60": "stays good for an hour",
    "1440": "stays good for a day",
    "10080": "stays good for a week",
    "43200": "stays good for 30 days",
}  # minutes
USUAL_OVERLAP = "1440"
STATES = {
    "usable": "Usable",
    "revoked": "Revoked",
    "expired": "Expired",
    "idle": "Refused: its tenant is inactive, or its person has left",
}


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

    def clean(self) -> dict[str, Any]:
        """Refuse the name of somebody else."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        principal, tenant = cleaned.get("principal"), cleaned.get("tenant")
        if principal and tenant:
            try:
                check_principal(principal, tenant=tenant, user=cleaned.get("user"))
            except InvalidRequest as refusal:
                self.add_error("principal", str(refusal).removeprefix("principal: ").capitalize())
        return cleaned


class KeyStatusFilter(admin.SimpleListFilter):
    """Usable keys, or those that are not any more."""

    title = "status"
    parameter_name = "usable"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """The two halves."""
        return [("yes", "Usable"), ("no", "Refused")]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        """Filter by the choice."""
        if self.value() == "yes":
            return queryset.usable(timezone.now())
        if self.value() == "no":
            return queryset.exclude(pk__in=queryset.usable(timezone.now()).values("pk"))
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

    def get_queryset(self, request: HttpRequest) -> QuerySet[ApiKey]:
        """The keys with whether each is let in now."""
        usable = ApiKey.objects.usable(timezone.now()).filter(pk=OuterRef("pk"))
        return super().get_queryset(request).annotate(is_usable=Exists(usable))

    def has_add_permission(self, request: HttpRequest) -> bool:
        """By the permission to add API keys."""
        return request.user.has_perm("executions.add_apikey")

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        """Offer the scopes the person may give."""
        form = super().get_form(request, obj, change=change, **kwargs)
        form.base_fields["scopes"] = forms.MultipleChoiceField(
            choices=_scopes_of(request.user), widget=UnfoldAdminCheckboxSelectMultipleWidget
        )
        return form

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
        key, secret = create_api_key(**wanted, by=request.user.get_username())
        obj.__dict__.update(key.__dict__)
        request.new_secret = secret  # type: ignore[attr-defined]

    def response_add(self, request: HttpRequest, obj: ApiKey, post_url_continue: str | None = None) -> HttpResponse:
        """Show the key, this once: it is neither stored nor redirected, so that no copy of it stays anywhere."""
        return self._shown_once(request, obj, request.new_secret)  # type: ignore[attr-defined]

    def page_context(self, request: HttpRequest, obj: ApiKey) -> dict[str, Any]:
        """What the key may do, what came before and after it, and what the person may do with it."""
        scopes, successor = dict(Scope.choices), obj.replaced_by.first()
        return {
            "scope_words": [scopes.get(scope, scope) for scope in obj.scopes],
            "state": STATES[_state(obj)],
            "predecessor_url": self.url_of(obj.replaces) if obj.replaces else "",
            "successor": successor,
            "successor_url": self.url_of(successor) if successor else "",
            "may_rotate": successor is None and _state(obj) == "usable" and _may_rotate(request.user, obj),
            "may_revoke": obj.revoked_at is None and request.user.has_perm("executions.change_apikey"),
            "overlaps": OVERLAPS.items(),
            "usual_overlap": USUAL_OVERLAP,
            "page_url": self.url_of(obj),
        }

    def act(self, request: HttpRequest, obj: ApiKey) -> HttpResponse:
        """Rotate or revoke the key."""
        deeds = {"rotate": self._rotate, "revoke": self._revoke}
        deed = deeds.get(request.POST.get("command", ""))
        return deed(request, obj) if deed else HttpResponseRedirect(self.url_of(obj))

    def _revoke(self, request: HttpRequest, obj: ApiKey) -> HttpResponse:
        if not request.user.has_perm("executions.change_apikey"):
            raise PermissionDenied
        revoke_api_key(obj, by=request.user.get_username())
        self.log_change(request, obj, "Revoked.")
        messages.success(request, "The key is revoked: it is refused from now on.")
        return HttpResponseRedirect(self.url_of(obj))

    def _rotate(self, request: HttpRequest, obj: ApiKey) -> HttpResponse:
        minutes = request.POST.get("overlap", USUAL_OVERLAP)
        if not _may_rotate(request.user, obj) or minutes not in OVERLAPS:
            raise PermissionDenied
        try:
            key, secret = rotate_api_key(obj, by=request.user.get_username(), overlap=timedelta(minutes=int(minutes)))
        except OrchestratorError as refusal:
            messages.error(request, str(refusal))
            return HttpResponseRedirect(self.url_of(obj))
        self.log_change(request, obj, "Rotated.")
        return self._shown_once(request, key, secret)

    def _shown_once(self, request: HttpRequest, key: ApiKey, secret: str) -> HttpResponse:
        return self.page(request, self.get_queryset(request).get(pk=key.pk), secret=secret)

    @display(description="Status", label={"usable": "success", "revoked": "danger", "expired": "warning", "idle": ""})
    def shown_status(self, obj: ApiKey) -> tuple[str, str]:
        """Usable, or why it is refused."""
        return _state(obj), STATES[_state(obj)].partition(":")[0]

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
    return "usable" if key.is_usable else "idle"  # type: ignore[attr-defined]  # annotated by get_queryset


def _may_rotate(user: Any, key: ApiKey) -> bool:
    """Whether the person may get the secret of a key like this one: as if they made it anew, for themselves or a service."""
    may_give = set(key.scopes) <= {scope for scope, _ in _scopes_of(user)}
    return user.has_perm("executions.add_apikey") and may_give and (user.is_superuser or key.user_id in (None, user.pk))


def _scopes_of(user: Any) -> list[tuple[str, str]]:
    """The scopes a person may put on a key: `admin`, which makes keys and tokens, only a superuser."""
    return [(scope, words) for scope, words in Scope.choices if scope != Scope.ADMIN or user.is_superuser]
