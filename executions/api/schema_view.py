"""GET /v1/schema: the OpenAPI document. It names no host and no caller, so that each process makes it once, for everybody."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from typing import Any, cast

from django.http import HttpResponse, HttpResponseBase
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import OpenApiJsonRenderer, OpenApiYamlRenderer
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularAPIView
from rest_framework.request import Request

from executions.api.conditional import conditional

FORMS = {"yaml": OpenApiYamlRenderer, "json": OpenApiJsonRenderer}


class SchemaView(SpectacularAPIView):
    """The document as YAML or JSON, for anybody. Other versions or languages cannot be asked for: there are none."""

    @extend_schema(exclude=True)
    def get(self, request: Request, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Send the document in the form that is asked for, unless the caller has it already."""
        renderer = request.accepted_renderer
        body, etag = written(renderer.format)
        charset = f"; charset={renderer.charset}" if renderer.charset else ""
        response = HttpResponse(body, content_type=renderer.media_type + charset)
        response["Content-Disposition"] = f'inline; filename="{self._get_filename(request, None)}"'
        return conditional(request, response, etag)


@cache
def document() -> dict[str, Any]:
    """The document as everybody may see it."""
    return cast("dict[str, Any]", SchemaGenerator().get_schema(public=True))


@cache
def written(form: str) -> tuple[bytes, str]:
    """The bytes of the document in one of its forms, and their entity tag."""
    body = cast("bytes", FORMS[form]().render(document(), renderer_context={}))
    return body, f'"{sha256(body).hexdigest()}"'
