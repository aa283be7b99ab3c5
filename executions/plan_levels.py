"""Which steps stand beside each other in a plan, in which order they run, and what has run before each of them.

A level is one list of steps: those of a flow, or those nested in one step. A sequential level runs in document order, held
back only where `depends_on` says so; a parallel one runs each step as soon as what it depends on has ended.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from executions.expressions import LOOP_NAMES
from executions.plan_model import ExecutablePlan, Flow, Step

Needs = Mapping[str, Iterable[str]]
Calls = Mapping[str, Sequence[str]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Level:
    """One list of steps with what surrounds it; `steps` are (JSON Pointer, step), `names` the loop names that hold here."""

    flow: Flow
    steps: list[tuple[str, Step]]
    parallel: bool
    names: frozenset[str]
    outer: Level | None = None
    outer_id: str = ""
    rollback: frozenset[str] = frozenset()
    depth: int = 1

    @cached_property
    def by_id(self) -> dict[str, Step]:
        """The steps by id; of two with the same id the first."""
        return {step.step_id: step for _, step in reversed(self.steps)}

    @cached_property
    def needs(self) -> dict[str, list[str]]:
        """What each normal step waits for on this level; a condition comes before the steps it starts by their ids."""
        needs = {
            step.step_id: [one for one in step.depends_on if one in self.by_id and one not in self.rollback]
            for _, step in self.steps
            if step.step_id not in self.rollback
        }
        for _, step in self.steps:
            starts_others = step.step_type == "condition" and step.step_id not in self.rollback
            for _, target in step.branch_ids() if starts_others else ():
                if target in needs:
                    needs[target].append(step.step_id)
        return needs

    @cached_property
    def order(self) -> list[str]:
        """The normal steps as a sequential level runs them; steps in or behind a dependency cycle are missing."""
        return running_order(self.needs)

    @cached_property
    def _position(self) -> dict[str, int]:
        return {step_id: position for position, step_id in enumerate(self.order)}

    @cached_property
    def _ancestors(self) -> dict[str, int]:
        # A set of steps as the bits of one number: 5,000 steps in a chain would make 12 million set members.
        ancestors: dict[str, int] = {}
        for step_id in self.order:
            mask = 0
            for need in self.needs[step_id]:
                mask |= ancestors[need] | 1 << self._position[need]
            ancestors[step_id] = mask
        return ancestors

    def ran_before(self, step_id: str, other: str) -> bool:
        """Whether step `other`, here or around this level, can have ended when `step_id` of this level starts."""
        if other not in self.by_id:
            return self.outer is not None and self.outer.ran_before(self.outer_id, other)
        if step_id in self.rollback:
            return other not in self.rollback
        if other == step_id or other in self.rollback:
            return False
        if step_id not in self._position or other not in self._position:
            return True  # the cycle is the error to mend first
        if self.parallel:
            return bool(self._ancestors[step_id] >> self._position[other] & 1)
        return self._position[other] < self._position[step_id]

    def inside(self, step: Step, key: str, children: list[tuple[str, Step]]) -> Level:
        """The level nested in parameter `key` of `step`."""
        return Level(
            flow=self.flow,
            steps=children,
            parallel=step.step_type == "parallel",
            names=self.names | loop_names(step),
            outer=self,
            outer_id=step.step_id,
            depth=self.depth + 1,
        )


def loop_names(step: Step) -> frozenset[str]:
    """The names a step gives to what is nested in it: a loop's `index` and its item."""
    if step.step_type != "loop":
        return frozenset()
    return LOOP_NAMES | {step.parameters.get("item", "item")}


def levels(plan: ExecutablePlan, calls: Calls) -> list[Level]:
    """Every level of every flow, callers before the flows they call, outer before inner; `calls` as of `calls_of`."""
    by_id = {flow.flow_id: (f"/flows/{index}/steps", flow) for index, flow in enumerate(plan.flows)}
    names_at_calls: dict[str, list[frozenset[str]]] = {flow_id: [] for flow_id in by_id}
    found: list[Level] = []
    for flow_id in in_call_order(calls):
        pointer, flow = by_id[flow_id]
        names = names_at_calls[flow_id]
        for level in _nested(_top(flow, pointer, frozenset.intersection(*names) if names else frozenset())):
            found.append(level)
            for target, here in _calls(level):
                names_at_calls.setdefault(target, []).append(here)
    return found


def main_level(plan: ExecutablePlan) -> Level:
    """The steps of the main flow, as far as they stand beside each other."""
    index = [flow.flow_id for flow in plan.flows].index(plan.main_flow)
    return _top(plan.flows[index], f"/flows/{index}/steps", frozenset())


def calls_of(plan: ExecutablePlan) -> Calls:
    """Which flows the steps of each flow run, once per call, unknown ones too."""
    calls: dict[str, list[str]] = {}
    for flow in plan.flows:
        called = (flow_id for _, step in flow.every_step() for _, _, flow_id in step.called_flows())
        calls[flow.flow_id] = list(called)
    return calls


def in_call_order(calls: Calls) -> list[str]:
    """The flow ids, each after all flows that call it; flows in a cycle come last."""
    callers: dict[str, list[str]] = {flow_id: [] for flow_id in calls}
    for caller, called in calls.items():
        for flow_id in called:
            if flow_id in callers:
                callers[flow_id].append(caller)
    order = running_order(callers)
    return order + [flow_id for flow_id in callers if flow_id not in set(order)]


def running_order(needs: Needs) -> list[str]:
    """The keys so that each comes after its needs, otherwise as they stand; without those in or behind a cycle."""
    rank = {name: number for number, name in enumerate(needs)}
    open_needs = {name: len(set(before)) for name, before in needs.items()}
    followers: dict[str, list[str]] = {name: [] for name in needs}
    for name, before in needs.items():
        for one in set(before):
            followers[one].append(name)
    ready = [(rank[name], name) for name, count in open_needs.items() if not count]
    order: list[str] = []
    while ready:
        _, name = heapq.heappop(ready)
        order.append(name)
        for follower in followers[name]:
            open_needs[follower] -= 1
            if not open_needs[follower]:
                heapq.heappush(ready, (rank[follower], follower))
    return order


def cycles(needs: Needs) -> Iterator[list[str]]:
    """The cycles, as the names along each; of those over the same names only the first. Depth first, without recursion."""
    finished: set[str] = set()
    named: set[str] = set()
    for start in needs:
        trail: dict[str, Iterator[str]] = {}
        following: str | None = start if start not in finished else None
        while following or trail:
            if following:
                trail[following] = iter(needs[following])
            last = next(reversed(trail))
            following = None
            for one in trail[last]:
                if one in trail and not (one in named and last in named):
                    cycle = list(trail)[list(trail).index(one) :]
                    named.update(cycle)
                    yield cycle
                elif one not in finished and one not in trail:
                    following = one
                    break
            else:
                finished.add(last)
                del trail[last]


def _top(flow: Flow, pointer: str, names: frozenset[str]) -> Level:
    steps = [(f"{pointer}/{index}", step) for index, step in enumerate(flow.steps)]
    rollback = frozenset(flow.rollback_steps)
    return Level(flow=flow, steps=steps, parallel=flow.parallel_execution, names=names, rollback=rollback)


def _nested(level: Level) -> Iterator[Level]:
    yield level
    for pointer, step in level.steps:
        for key, children in step.branches():
            if children:
                yield from _nested(level.inside(step, key, [(pointer + below, child) for below, child in children]))


def _calls(level: Level) -> Iterator[tuple[str, frozenset[str]]]:
    for _, step in level.steps:
        for _, _, flow_id in step.called_flows():
            yield flow_id, level.names | loop_names(step)
