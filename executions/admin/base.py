"""What the admin pages share: a tenant's objects for its members only, no changes by hand, pages instead of forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotModified, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from unfold.admin import ModelAdmin
from unfold.paginator import InfinitePaginator

from executions.errors import OrchestratorError
from executions.models import Tenant


class ListAdmin(ModelAdmin):
    """Lists whose address may hold anything."""

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Start over where a filter asks for a NUL character, which PostgreSQL has not and refuses to compare with."""
        if "\0" in unquote(request.META["QUERY_STRING"]):
            messages.warning(request, "Nothing can be found by a NUL character: the list is shown without filters.")
            return HttpResponseRedirect(request.path)
        return super().changelist_view(request, extra_context)


class ScopedAdmin(ListAdmin):
    """Lists and pages show the objects of the person's tenants; a superuser sees all, anything else is 404."""

    members_path = "tenant__members"
    list_per_page = 50
    show_full_result_count = False
    paginator = InfinitePaginator  # never counts: there may be a million rows
    actions = None

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Everything of this model that the person may see."""
        everything = super().get_queryset(request)
        return everything if request.user.is_superuser else everything.filter(**{self.members_path: request.user})

    def get_list_display(self, request: HttpRequest) -> list[str]:
        """Leave the tenant out for a person who belongs to only one."""
        several = request.user.is_superuser or Tenant.objects.filter(members=request.user.pk).count() > 1
        return [column for column in super().get_list_display(request) if several or column != "tenant"]

    def get_object_or_404(self, request: HttpRequest, object_id: Any) -> Any:
        """The object, if the person may see it; Http404 for anything else, PermissionDenied without the permission."""
        found = self.get_object(request, str(object_id))
        if found is None:
            raise Http404(f"There is no such {self.opts.verbose_name}.")
        if not self.has_view_or_change_permission(request, found):
            raise PermissionDenied
        return found

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Answer 404 for what the person may not see, where Django would go back to the index."""
        self.get_object_or_404(request, object_id)
        return super().change_view(request, object_id, form_url, extra_context)


class RecordAdmin(ScopedAdmin):
    """Objects that only the service writes: they are looked at, never added, changed or deleted by hand."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Nobody."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Nobody."""
        return False


class PageAdmin(RecordAdmin):
    """Records that open as a page of their own: `page_template`, with the part in `live_template` kept up to date."""

    page_template: str
    live_template: str = ""

    def title_of(self, obj: Any) -> str:
        """What the browser's tab says."""
        return str(obj)

    def page_context(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        """What the page's template reads."""
        return {}

    def live_context(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        """What the live part's template reads; it is part of the page's context too."""
        return {}

    def live_version(self, obj: Any) -> str:
        """Changes whenever the live part would look different."""
        raise NotImplementedError

    def act(self, request: HttpRequest, obj: Any) -> HttpResponse:
        """Do what a POST to the page asks for."""
        raise PermissionDenied

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """GET shows the page, POST acts; a GET never changes anything."""
        obj = self.get_object_or_404(request, object_id)
        return self.act(request, obj) if request.method == "POST" else self.page(request, obj)

    def page(self, request: HttpRequest, obj: Any, **extra: Any) -> TemplateResponse:
        """Render the page of an object."""
        context = {
            **self.admin_site.each_context(request),
            **self._live_context(request, obj),
            **self.page_context(request, obj),
            **extra,
            "opts": self.opts,
            "original": obj,
            "object": obj,
            "title": self.title_of(obj),
            "is_fullwidth": "0",
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, self.page_template, context)

    def get_urls(self) -> list[URLPattern]:
        """Add the live part, where there is one."""
        if not self.live_template:
            return super().get_urls()
        live = self.admin_site.admin_view(self.live_view)
        return [path("<uuid:object_id>/live/", live, name=self._name("live")), *super().get_urls()]

    def live_view(self, request: HttpRequest, object_id: Any) -> HttpResponse:
        """Answer the live part as HTML, or 304 while it looks as the reader's ETag says."""
        obj = self.get_object_or_404(request, object_id)
        etag = f'"{self.live_version(obj)}"'
        if request.headers.get("If-None-Match") == etag:
            return HttpResponseNotModified(headers={"ETag": etag})
        context = {**self._live_context(request, obj), "object": obj}
        return TemplateResponse(
            request, self.live_template, context, headers={"ETag": etag, "Cache-Control": "no-store"}
        )

    def attempt(self, request: HttpRequest, action: Callable[[], Any], *, success: str) -> bool:
        """Run an action and tell the person how it went: `success`, or the refusal in its own words."""
        try:
            action()
        except OrchestratorError as refusal:
            messages.error(request, str(refusal))
            return False
        messages.success(request, success)
        return True

    def url_of(self, obj: Any, name: str = "change") -> str:
        """The admin URL of an object's page or of one of its parts."""
        return reverse(f"admin:{self._name(name)}", args=[obj.pk])

    def _name(self, name: str) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}_{name}"

    def _live_context(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        if not self.live_template:
            return {}
        return {
            **self.live_context(request, obj),
            "live_template": self.live_template,
            "live_version": self.live_version(obj),
            "live_url": self.url_of(obj, "live"),
            "page_url": self.url_of(obj),
        }
