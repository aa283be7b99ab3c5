"""The tools of the runtime: a registry of manifests with the functions behind them.

A tool of your own is a `Tool` object at a dotted path named in settings.PORTIA_RUNTIME_TOOLS.
"""

from portia_runtime.tools.base import HardError, NotYet, SoftError, Tool, ToolCall, ToolError
from portia_runtime.tools.registry import every_tool, find

__all__ = ["HardError", "NotYet", "SoftError", "Tool", "ToolCall", "ToolError", "every_tool", "find"]
