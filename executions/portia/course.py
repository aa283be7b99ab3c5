"""The course a Portia plan takes: its steps in the order they run, nested ones too, and what has run before each. Pure.

Steps are named as the runtime names them, `group.child`; `loop[].child` stands for `loop[0].child`, `loop[1].child` and so on.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from executions.plan_levels import running_order
from executions.plan_model import BODIES
from executions.portia.needs import nested
from executions.portia.wire import JSON, PortiaPlan


@dataclass(frozen=True, kw_only=True, eq=False)
class Station:
    """A step on the course: `repeats` in a loop, `conditional` where a run may end well without it."""

    step: JSON
    path: str
    level: _Level
    repeats: bool
    conditional: bool

    @property
    def tool(self) -> str | None:
        """The tool that the step calls: its own, or the one a loop calls for each item."""
        return self.step["parameters"].get("tool") if self.step["type"] == "loop" else self.step["tool"]

    def before(self, *, most: int) -> list[str]:
        """The steps that have ended when this one begins, in order; of more than `most` the last ones."""
        beside = self.level.before(self.step["id"], most=most)
        around = self.level.outer
        return (around.before(most=most - len(beside)) if around else []) + beside


def course(plan: PortiaPlan) -> Iterator[Station]:
    """Every step in the order in which a run comes by, those of a rollback last."""
    steps = [vars(step) for step in plan.steps]
    yield from _Level(steps, parallel=plan.parallel_execution, undo=frozenset(plan.rollback_steps)).stations()


class _Level:
    """Steps beside each other: the plan's own with those of its rollback, or the ones in a step around them."""

    def __init__(
        self, steps: list[JSON], *, parallel: bool, undo: frozenset[str] = frozenset(), outer: Station | None = None
    ) -> None:
        self.outer = outer
        self._repeats = outer is not None and (outer.repeats or outer.step["type"] == "loop")
        self._conditional = outer is not None and (outer.conditional or outer.step["type"] == "condition")
        self._undo = undo
        self._steps = {step["id"]: step for step in steps}
        self._chosen = _chosen_by_conditions(steps)
        self._needs = {
            one: [need for need in (*step["depends_on"], *self._chosen.get(one, ())) if need not in undo]
            for one, step in self._steps.items()
        }
        self._order = self._arranged()
        self._position = {one: number for number, one in enumerate(self._order)}
        self._waits_for = self._needs if parallel else self._needs | self._one_by_one()

    def stations(self) -> Iterator[Station]:
        """The steps in order, each followed by those inside it."""
        conditional: dict[str, bool] = {}
        for one in self._order:
            conditional[one] = self._may_be_left_out(one) or any(conditional[need] for need in self._needs[one])
            station = Station(
                step=self._steps[one],
                path=self._path(one),
                level=self,
                repeats=self._repeats,
                conditional=conditional[one],
            )
            yield station
            yield from _inside(station)

    def before(self, step_id: str, *, most: int) -> list[str]:
        """Backwards from the step, always to the latest of those that had to end, until there are enough."""
        waiting = [-self._position[one] for one in set(self._waits_for[step_id])]
        heapq.heapify(waiting)
        seen = set(waiting)
        found: list[str] = []
        while waiting and len(found) < most:
            one = self._order[-heapq.heappop(waiting)]
            found.append(self._path(one))
            for further in {-self._position[need] for need in self._waits_for[one]} - seen:
                seen.add(further)
                heapq.heappush(waiting, further)
        return found[::-1]

    def _path(self, step_id: str) -> str:
        if self.outer is None:
            return step_id
        return f"{self.outer.path}{'[]' if self.outer.step['type'] == 'loop' else ''}.{step_id}"

    def _arranged(self) -> list[str]:
        """The normal steps as they run one by one; then those of the rollback, what ran last undone first."""
        order = running_order({one: needs for one, needs in self._needs.items() if one not in self._undo})
        rank = {one: number for number, one in enumerate(order)}
        return order + sorted(self._undo, key=lambda one: (-max([rank[n] for n in self._needs[one]], default=-1), one))

    def _one_by_one(self) -> dict[str, list[str]]:
        normal = self._order[: len(self._order) - len(self._undo)]
        return {one: [before] for before, one in pairwise(normal)}

    def _may_be_left_out(self, step_id: str) -> bool:
        under_condition = step_id in self._chosen or bool(self._steps[step_id]["conditions"])
        return self._conditional or under_condition or step_id in self._undo


def _inside(station: Station) -> Iterator[Station]:
    for _, children in nested(station.step):
        steps = [child for _, child in children]
        yield from _Level(steps, parallel=station.step["type"] == "parallel", outer=station).stations()


def _chosen_by_conditions(steps: list[JSON]) -> dict[str, list[str]]:
    """The steps that conditions beside them start by their ids, and these conditions."""
    chosen: dict[str, list[str]] = {}
    for step in steps:
        for key in BODIES["condition"] if step["type"] == "condition" else ():
            for one in step["parameters"].get(key) or ():
                if isinstance(one, str):
                    chosen.setdefault(one, []).append(step["id"])
    return chosen
