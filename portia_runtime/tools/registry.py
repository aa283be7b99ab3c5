"""Which tools there are: the ones that come along and those named in settings.PORTIA_RUNTIME_TOOLS."""

from __future__ import annotations

from functools import cache

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from portia_runtime.tools.base import Tool

OWN_TOOLS = [
    "portia_runtime.tools.calculate.calculate",
    "portia_runtime.tools.data_validator.data_validator",
    "portia_runtime.tools.email_connector.email_connector",
    "portia_runtime.tools.http_request.http_request",
    "portia_runtime.tools.records.read_record",
    "portia_runtime.tools.records.write_record",
    "portia_runtime.tools.template_render.template_render",
    "portia_runtime.tools.trial.echo",
    "portia_runtime.tools.trial.fail",
    "portia_runtime.tools.trial.wait",
]


@cache
def _registry() -> dict[str, Tool]:
    found: dict[str, Tool] = {}
    for path in [*OWN_TOOLS, *settings.PORTIA_RUNTIME_TOOLS]:
        tool = import_string(path)
        if not isinstance(tool, Tool):
            raise ImproperlyConfigured(f"PORTIA_RUNTIME_TOOLS: {path} is not a portia_runtime.tools.Tool")
        if tool.id in found:
            raise ImproperlyConfigured(f"PORTIA_RUNTIME_TOOLS: {path} takes the id {tool.id!r} of another tool")
        found[tool.id] = tool
    return found


def _forget(*, setting: str, **_: object) -> None:
    if setting == "PORTIA_RUNTIME_TOOLS":
        _registry.cache_clear()


setting_changed.connect(_forget)


def find(tool_id: str) -> Tool | None:
    """The tool with this id, or nothing."""
    return _registry().get(tool_id)


def every_tool() -> list[Tool]:
    """All tools by id. Raises ImproperlyConfigured when settings name something that is none."""
    return [tool for _, tool in sorted(_registry().items())]
