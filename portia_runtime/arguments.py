"""What goes into a tool and what comes out: parameters, inputs and the output mapping (contract section 4, values)."""

from __future__ import annotations

from typing import Any

from portia_runtime import tools
from portia_runtime.documents import JSON
from portia_runtime.plan_document import StepSpec
from portia_runtime.state import Node
from portia_runtime.templates import MissingPathError, descend, expand, has_template, is_path, segments


def resolved(node: Node) -> JSON:
    """The parameters with their templates expanded, then the inputs. Raises MissingPathError."""
    document = node.step.document
    tool = tools.find(document.tool)
    raw = tool.raw_arguments if tool else frozenset()
    lookup = node.scope.lookup
    given = {key: value if key in raw else expand(value, lookup) for key, value in document.parameters.items()}
    return {**given, **{key: _input(node, source) for key, source in document.inputs.items()}}


def _input(node: Node, source: Any) -> Any:
    """A variable or step path; a text that names nothing is meant literally."""
    if not isinstance(source, str) or has_template(source):
        return expand(source, node.scope.lookup)
    if not is_path(source):
        return source
    try:
        return node.scope.lookup(source)
    except MissingPathError:
        if node.scope.knows(str(segments(source)[0])):
            raise
        return source


def mapped_outputs(step: StepSpec, output: Any) -> JSON:
    """The variables a step sets: `{field: variable}` or `{variable: "$.path"}`; what the output lacks is not set."""
    found = {}
    for key, value in step.document.outputs.items():
        variable, path = (key, value.removeprefix("$").lstrip(".")) if value.startswith("$") else (value, key)
        try:
            found[variable] = _field(output, path)
        except MissingPathError:
            continue
    return found


def _field(output: Any, path: str) -> Any:
    if isinstance(output, dict) and path in output:
        return output[path]
    return output if path in ("", "output") else descend(output, path, segments(path))
