"""`template_render`: a text with `{{ names }}`, filters, `{% if %}` and `{% for %}`, without a way to a file or to Python."""

from __future__ import annotations

from functools import cache

from django.template import Context, Engine, Library, TemplateSyntaxError

from portia_runtime.documents import JSON
from portia_runtime.tools.base import HardError, Tool, ToolCall

PADDING = ("center", "ljust", "rjust")  # a width of a thousand million is a thousand million bytes
FORBIDDEN = ("include", "extends", "load", "debug", "block", "csrf_token", "url", "querystring", "lorem")


@cache
def _engine(*, autoescape: bool) -> Engine:
    engine = Engine(loaders=[("django.template.loaders.locmem.Loader", {})], autoescape=autoescape)
    engine.template_builtins = [_without_forbidden(library) for library in engine.template_builtins]
    return engine


def _without_forbidden(library: Library) -> Library:
    """A copy: the libraries themselves are shared with the rest of the process."""
    harmless = Library()
    harmless.filters = {name: filter_ for name, filter_ in library.filters.items() if name not in PADDING}
    harmless.tags = {name: tag for name, tag in library.tags.items() if name not in FORBIDDEN}
    return harmless


def _render(call: ToolCall) -> JSON:
    engine = _engine(autoescape=call.arguments.get("autoescape", False))
    try:
        text = engine.from_string(call.arguments["template"]).render(
            Context(call.arguments.get("values") or {}, autoescape=engine.autoescape)
        )
    except TemplateSyntaxError as error:
        raise HardError(f"template cannot be read: {error}") from None
    return {"text": text}


template_render = Tool(
    id="template_render",
    name="Render a template",
    description="Fills `values` into a text in Django's template language; `autoescape` for HTML.",
    args_schema={
        "type": "object",
        "properties": {
            "template": {"type": "string", "maxLength": 100_000},
            "values": {"type": "object"},
            "autoescape": {"type": "boolean"},
        },
        "required": ["template"],
        "additionalProperties": False,
    },
    run=_render,
    idempotent=True,
    timeout=10,
    raw_arguments=frozenset({"template"}),
)
