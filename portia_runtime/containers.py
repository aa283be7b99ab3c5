"""Steps that hold others: condition, parallel, sequence and loop. What is inside is walked like the plan's own steps."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

from portia_runtime.documents import JSON
from portia_runtime.expressions import ExpressionError, MissingReferenceError
from portia_runtime.models import Step, StepStatus
from portia_runtime.plan_checks import LOOP_CALL
from portia_runtime.state import Flow, Node, inside
from portia_runtime.templates import MissingPathError, expand, has_template

if TYPE_CHECKING:
    from portia_runtime.walk import Walk


def advance_condition(walk: Walk, node: Node, row: Step) -> None:
    """Decide once, then run the steps of the chosen branch that are written inside."""
    expression = node.step.expression
    if row.status == StepStatus.PENDING and expression:
        reason = None
        try:
            result = expression.is_true(node.scope.values(expression))
        except MissingReferenceError as error:
            result, reason = False, f"it speaks of something that does not exist: {error}"
        except ExpressionError as error:
            walk.fail(node.step, row, "invalid_arguments", str(error))
            return
        _begin(walk, row, {"result": result}, reason)
    chosen = node.step.children if row.state["result"] else node.step.otherwise
    flow = walk.flow(inside(node, chosen), one_by_one=True)
    walk.end_container(node, row, flow, {"result": row.state["result"]})


def advance_group(walk: Walk, node: Node, row: Step) -> None:
    """Run the steps inside, one after the other (sequence) or together (parallel); the output has theirs by id."""
    if row.status == StepStatus.PENDING:
        _begin(walk, row, {})
    nodes = inside(node, node.step.children)
    flow = walk.flow(nodes, one_by_one=node.step.type == "sequence")
    walk.end_container(node, row, flow, _outputs(walk, nodes))


def advance_loop(walk: Walk, node: Node, row: Step) -> None:
    """Find out once what to loop over, then run the iterations; the output has one result for each."""
    if row.status == StepStatus.PENDING and not _begin_loop(walk, node, row):
        return
    ahead = _parallel_iterations if node.step.settings.parallel else _iterations
    flow, done = ahead(walk, node, row)
    if row.is_open:
        ended = flow is Flow.DONE
        results = [_result(walk, node, row, index) for index in range(done)] if ended else []
        walk.end_container(node, row, flow, {"iterations": done, "results": results})


def _begin_loop(walk: Walk, node: Node, row: Step) -> bool:
    settings = node.step.settings
    try:
        items = _items(node)
    except (MissingPathError, ValueError) as error:
        walk.fail(node.step, row, "invalid_loop", str(error))
        return False
    if items is not None and len(items) > settings.max_iterations:
        walk.fail(
            node.step, row, "loop_limit", f"{len(items)} iterations are more than the {settings.max_iterations} allowed"
        )
        return False
    _begin(walk, row, {"items": items} if settings.over is not None else {"times": items and len(items)})
    return True


def _items(node: Node) -> Any:
    """What the loop goes over: a list, a range, or nothing for a while loop."""
    settings, lookup = node.step.settings, node.scope.lookup
    if settings.over is not None:
        over = settings.over
        items = lookup(over) if isinstance(over, str) and not has_template(over) else expand(over, lookup)
        if not isinstance(items, list):
            raise ValueError(f"over must be a list, not {type(items).__name__}")
        return items
    if settings.times is None:
        return None
    times = expand(settings.times, lookup)
    if isinstance(times, bool) or not isinstance(times, int) or times < 0:
        raise ValueError(f"times must be a whole number from 0, not {times!r}")
    return range(times)


def _iterations(walk: Walk, node: Node, row: Step) -> tuple[Flow, int]:
    """One iteration after the other; the cursor spares a look at those that have ended."""
    for index in count(walk.state.cursors.get(row.path, 0)):
        nodes = _iteration(node, row, index)
        begun = nodes[0].path in walk.state.rows
        if not begun and not _goes_on(walk, node, row, index):
            return Flow.DONE, index
        flow = walk.flow(nodes, one_by_one=True)
        if flow is not Flow.DONE or walk.state.exited or walk.state.fatal:
            return flow if flow is not Flow.DONE else Flow.OPEN, index
        walk.state.cursors[row.path] = index + 1
    raise AssertionError("a loop ends by its own condition")


def _goes_on(walk: Walk, node: Node, row: Step, index: int) -> bool:
    """Whether there is an iteration with this index; a while loop over its limit fails."""
    expression = node.step.expression
    if expression is None:
        return index < _length(row)
    try:
        values = {**node.scope.values(expression), "index": index}
        if not expression.is_true(values):
            return False
    except MissingReferenceError as error:
        row.reason = f"it speaks of something that does not exist: {error}"
        return False
    except ExpressionError as error:
        walk.fail(node.step, row, "invalid_loop", str(error))
        return False
    if index >= node.step.settings.max_iterations:
        walk.fail(node.step, row, "loop_limit", f"still going on after {index} iterations")
        return False
    return True


def _parallel_iterations(walk: Walk, node: Node, row: Step) -> tuple[Flow, int]:
    """As many iterations at once as the plan's max_concurrency allows."""
    if any(one.has_failed for one in walk.state.below(row.path)):
        return Flow.FAILED, 0
    total, first_open = _length(row), None
    for index in range(walk.state.cursors.get(row.path, 0), total):
        flow = walk.flow(_iteration(node, row, index), one_by_one=True)
        if flow is Flow.FAILED:
            return flow, index
        if flow is Flow.OPEN and first_open is None:
            first_open = index
        if walk.is_full or walk.state.exited or walk.state.fatal:
            return Flow.OPEN, index
        if first_open is None:
            walk.state.cursors[row.path] = index + 1
    return (Flow.DONE, total) if first_open is None else (Flow.OPEN, total)


def _iteration(node: Node, row: Step, index: int) -> list[Node]:
    items = row.state.get("items")
    local = {"index": index, node.step.settings.item: items[index] if items and index < len(items) else index}
    return inside(node, node.step.children, prefix=f"{row.path}[{index}]", local=local)


def _length(row: Step) -> int:
    items = row.state.get("items")
    return len(items) if items is not None else int(row.state.get("times") or 0)


def _result(walk: Walk, node: Node, row: Step, index: int) -> Any:
    outputs = _outputs(walk, _iteration(node, row, index))
    return outputs.get(LOOP_CALL) if node.step.settings.tool else outputs


def _outputs(walk: Walk, nodes: list[Node]) -> JSON:
    rows = {node.step.id: walk.state.rows.get(node.path) for node in nodes}
    return {step_id: row.output for step_id, row in rows.items() if row and row.status == StepStatus.COMPLETED}


def _begin(walk: Walk, row: Step, state: JSON, reason: str | None = None) -> None:
    row.status, row.state, row.reason = StepStatus.RUNNING, state, reason
    row.attempts = 1
    walk.state.touch(row)
