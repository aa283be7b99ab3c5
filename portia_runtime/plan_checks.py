"""Reading a plan: everything that is wrong with it at once, each error with its place (`steps[0].tool`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import ValidationError

from portia_runtime import tools
from portia_runtime.documents import JSON
from portia_runtime.expressions import Expression, ExpressionError, compiled
from portia_runtime.plan_document import (
    ApprovalParameters,
    ConditionParameters,
    Document,
    ExitParameters,
    GroupParameters,
    LoopParameters,
    PlanDocument,
    PlanSpec,
    QuestionParameters,
    Retry,
    StepDocument,
    StepSpec,
    in_order,
)
from portia_runtime.problems import Problem
from portia_runtime.templates import has_template
from safe_json_schema import flaws

PARAMETERS: dict[str, type[Document]] = {
    "condition": ConditionParameters,
    "loop": LoopParameters,
    "parallel": GroupParameters,
    "sequence": GroupParameters,
    "approval": ApprovalParameters,
    "user_input": QuestionParameters,
    "exit": ExitParameters,
}
STEP_TYPES = ("action", *PARAMETERS)
NEEDS_LLM = ("llm", "agent")
ROOTS = frozenset({"steps", "variables", "parameters"})
MAX_DEPTH = 8
MAX_STEPS = 5_000
LOOP_CALL = "call"

AnyDocument = TypeVar("AnyDocument", bound=Document)


def read(document: Any, *, is_stored: bool = False) -> PlanSpec:
    """The plan in the document. Raises Problem invalid_plan, or unsupported_step_type where a step needs an LLM.

    A stored plan may name tools that are gone by now: its runs find that out when they come to the step.
    """
    return _Reader(check_tools=not is_stored).read(document)


@dataclass
class _Reader:
    """Collects the errors while it goes through one document."""

    check_tools: bool
    errors: list[dict[str, str]] = field(default_factory=list)
    unsupported: list[dict[str, str]] = field(default_factory=list)
    count: int = 0
    plan: PlanDocument | None = None

    def read(self, document: Any) -> PlanSpec:
        plan = self._parse(PlanDocument, document, "")
        if plan is None:
            raise self._problem()
        self.plan = plan
        names = ROOTS | _names_in(plan.steps) | frozenset([*plan.variables, *_outputs(plan.steps)])
        steps = self._steps(plan.steps, "steps", names, depth=0)
        self._check_references(steps, plan)
        if self.unsupported or self.errors:
            raise self._problem()
        return PlanSpec(document=plan, steps=tuple(steps))

    def _problem(self) -> Problem:
        if self.unsupported:
            message = "this runtime has no language model: steps of type llm or agent cannot run here"
            return Problem("unsupported_step_type", message, errors=self.unsupported + self.errors)
        return Problem("invalid_plan", "plan is not valid", errors=self.errors)

    def _fail(self, loc: str, message: str) -> None:
        self.errors.append({"loc": loc, "msg": message})

    def _parse(self, kind: type[AnyDocument], data: Any, loc: str) -> AnyDocument | None:
        try:
            return kind.model_validate(data)
        except ValidationError as error:
            self.errors += [
                {"loc": join(loc, one["loc"]) or "$", "msg": one["msg"]} for one in error.errors(include_url=False)
            ]
            return None

    # -- steps

    def _steps(self, documents: list[Any], loc: str, names: frozenset[str], *, depth: int) -> list[StepSpec]:
        if depth > MAX_DEPTH:
            self._fail(loc, f"steps are nested deeper than {MAX_DEPTH} levels")
            return []
        found = [self._step(document, f"{loc}[{n}]", names, depth) for n, document in enumerate(documents)]
        steps = [step for step in found if step]
        for step_id, times in Counter(step.id for step in steps).items():
            if times > 1:
                self._fail(loc, f"the id {step_id!r} is used {times} times")
        return steps

    def _step(self, document: Any, loc: str, names: frozenset[str], depth: int) -> StepSpec | None:
        self.count += 1
        if self.count > MAX_STEPS:
            self._fail(loc, f"a plan has at most {MAX_STEPS} steps")
            return None
        step = self._parse(StepDocument, document, loc)
        if step is None or not self._type_is_known(step, loc):
            return None
        conditions = [self._expression(text, f"{loc}.conditions[{n}]", names) for n, text in enumerate(step.conditions)]
        own = self._settings(step, loc, names, depth)
        return StepSpec(
            document=step,
            names=names,
            retry=step.retry or (self.plan.retry_policy if self.plan else Retry()),
            conditions=tuple(condition for condition in conditions if condition),
            **own,
        )

    def _type_is_known(self, step: StepDocument, loc: str) -> bool:
        if step.type in NEEDS_LLM:
            self.unsupported.append(
                {"loc": f"{loc}.type", "msg": f"a step of type {step.type!r} needs a language model"}
            )
        elif step.type not in STEP_TYPES:
            self._fail(f"{loc}.type", f"unknown step type {step.type!r}; known are {', '.join(STEP_TYPES)}")
        return step.type in STEP_TYPES

    def _settings(self, step: StepDocument, loc: str, names: frozenset[str], depth: int) -> JSON:
        if step.type == "action":
            if self.check_tools:
                self._check_tool(step.tool, f"{loc}.tool")
                self._check_arguments(step, loc)
            return {}
        settings = self._parse(PARAMETERS[step.type], step.parameters, f"{loc}.parameters")
        readers: dict[type, Callable[..., JSON]] = {
            ConditionParameters: self._condition, LoopParameters: self._loop, GroupParameters: self._group,
            QuestionParameters: self._question,
        }  # fmt: skip
        reader = readers.get(type(settings), lambda *_: {})
        return {"settings": settings, **reader(settings, f"{loc}.parameters", names, depth + 1)}

    def _condition(self, settings: ConditionParameters, loc: str, names: frozenset[str], depth: int) -> JSON:
        then = [(n, one) for n, one in enumerate(settings.then) if not isinstance(one, str)]
        otherwise = [(n, one) for n, one in enumerate(settings.otherwise) if not isinstance(one, str)]
        if depth > 1 and (len(then) < len(settings.then) or len(otherwise) < len(settings.otherwise)):
            self._fail(loc, "only a top-level condition can name other steps; put the step itself here")
        inner = names | _names_in(one for _, one in then + otherwise)
        children = [self._step(one, f"{loc}.then[{n}]", inner, depth) for n, one in then]
        others = [self._step(one, f"{loc}.else[{n}]", inner, depth) for n, one in otherwise]
        found = [step.id for step in children + others if step]
        for step_id in {one for one in found if found.count(one) > 1}:
            self._fail(loc, f"the id {step_id!r} is used more than once")
        return {
            "expression": self._expression(settings.expression, f"{loc}.expression", names),
            "children": self._checked_order([step for step in children if step], f"{loc}.then"),
            "otherwise": self._checked_order([step for step in others if step], f"{loc}.else"),
        }

    def _loop(self, settings: LoopParameters, loc: str, names: frozenset[str], depth: int) -> JSON:
        ways = [settings.over is not None, settings.times is not None, settings.condition is not None]
        if sum(ways) != 1:
            self._fail(loc, "a loop needs exactly one of over, times and while")
        if bool(settings.steps) == bool(settings.tool):
            self._fail(loc, "a loop needs either steps or a tool with its arguments")
        if settings.parallel and settings.condition is not None:
            self._fail(f"{loc}.parallel", "a while loop decides after each iteration and cannot be parallel")
        if isinstance(settings.times, str) and not has_template(settings.times):
            self._fail(f"{loc}.times", "must be a number or a template such as {{count}}")
        call = {"id": LOOP_CALL, "type": "action", "tool": settings.tool, "parameters": settings.arguments}
        documents = settings.steps or ([call] if settings.tool else [])
        inner = names | _names_in(documents) | {settings.item, "index"}
        children = self._steps(documents, f"{loc}.steps" if settings.steps else loc, inner, depth=depth)
        own: JSON = {"children": self._checked_order(children, f"{loc}.steps")}
        if settings.condition is not None:
            own["expression"] = self._expression(settings.condition, f"{loc}.while", names | {"index"})
        return own

    def _group(self, settings: GroupParameters, loc: str, names: frozenset[str], depth: int) -> JSON:
        inner = names | _names_in(settings.steps)
        children = self._steps(settings.steps, f"{loc}.steps", inner, depth=depth)
        return {"children": self._checked_order(children, f"{loc}.steps")}

    def _question(self, settings: QuestionParameters, loc: str, *_: Any) -> JSON:
        for place, schema in settings.schemas.items():
            for path, message in [] if has_template(schema) else flaws(schema):
                self._fail(join(f"{loc}.{place}", path), message)
        return {}

    def _checked_order(self, steps: list[StepSpec], loc: str) -> tuple[StepSpec, ...]:
        known = {step.id for step in steps}
        for number, step in enumerate(steps):
            for missing in [need for need in step.document.depends_on if need not in known]:
                self._fail(f"{loc}[{number}].depends_on", f"there is no step {missing!r} beside this one")
        self._check_cycle(steps, loc)
        return tuple(in_order(steps))

    # -- what steps say of tools, names and each other

    def _expression(self, text: str, loc: str, names: frozenset[str]) -> Expression | None:
        try:
            return compiled(text, names)
        except ExpressionError as error:
            self._fail(loc, f"not a usable condition: {error}")
            return None

    def _check_tool(self, tool: str, loc: str) -> None:
        allowed = self.plan.allowed_tools if self.plan else []
        if not tool:
            self._fail(loc, "an action needs a tool")
        elif tools.find(tool) is None:
            self._fail(loc, f"unknown tool {tool!r}; GET /tools lists those there are")
        elif allowed and tool not in allowed:
            self._fail(loc, f"the tool {tool!r} is not among the plan's allowed_tools")

    def _check_arguments(self, step: StepDocument, loc: str) -> None:
        tool = tools.find(step.tool)
        if tool is None:
            return
        given = step.parameters.keys() | step.inputs.keys()
        later = step.inputs.keys() | {key for key, value in step.parameters.items() if has_template(value)}
        later -= tool.raw_arguments - step.inputs.keys()
        for place, message in tool.argument_errors(step.parameters, given=given, unknown=later):
            self._fail(f"{loc}.parameters{place}", message)

    def _check_references(self, steps: list[StepSpec], plan: PlanDocument) -> None:
        by_id = {step.id: step for step in steps}
        self._check_rollback(plan, by_id)
        for number, step in enumerate(steps):
            loc = f"steps[{number}]"
            for missing in [need for need in step.document.depends_on if need not in by_id]:
                self._fail(f"{loc}.depends_on", f"there is no step {missing!r}")
            self._connect_branches(step, by_id, loc, undo=frozenset(plan.rollback_steps))
        self._check_cycle(steps, "steps")

    def _connect_branches(self, step: StepSpec, by_id: dict[str, StepSpec], loc: str, *, undo: frozenset[str]) -> None:
        """Tell the steps that a condition names. A rollback has an order of its own, in which they could wait for ever."""
        if not isinstance(step.settings, ConditionParameters):
            return
        for branch, members in ((True, step.settings.then), (False, step.settings.otherwise)):
            place = f"{loc}.parameters.{'then' if branch else 'else'}"
            for target in [member for member in members if isinstance(member, str)]:
                if target not in by_id or target == step.id:
                    self._fail(place, f"there is no other step {target!r}")
                elif step.id in undo:
                    self._fail(place, f"a rollback condition cannot name {target!r}; put the step itself here")
                elif target in undo:
                    self._fail(place, f"{target!r} is a rollback step; name a normal one")
                else:
                    by_id[target].gates.append((step.id, branch))

    def _check_rollback(self, plan: PlanDocument, by_id: dict[str, StepSpec]) -> None:
        for number, step_id in enumerate(plan.rollback_steps):
            if step_id not in by_id:
                self._fail(f"rollback_steps[{number}]", f"there is no step {step_id!r}")
        undo = set(plan.rollback_steps)
        for step in by_id.values():
            for need in step.document.depends_on:
                if need in undo and step.id not in undo:
                    loc = f"steps[{list(by_id).index(step.id)}].depends_on"
                    self._fail(loc, f"{need!r} is a rollback step; only rollback steps may wait for one")

    def _check_cycle(self, steps: list[StepSpec], loc: str) -> None:
        ordered = {step.id for step in in_order(steps)}
        rest = [step.id for step in steps if step.id not in ordered]
        if rest and len({step.id for step in steps}) == len(steps):
            self._fail(loc, f"these steps wait for each other in a circle: {', '.join(rest)}")


def _names_in(documents: Iterable[Any]) -> frozenset[str]:
    return frozenset(one["id"] for one in documents if isinstance(one, dict) and isinstance(one.get("id"), str))


def _outputs(documents: Iterable[Any]) -> Iterable[str]:
    """The variables that steps at any depth set."""
    for document in documents:
        if not isinstance(document, dict):
            continue
        outputs = document.get("outputs")
        for key, value in outputs.items() if isinstance(outputs, dict) else ():
            if isinstance(value, str):
                yield key if value.startswith("$") else value
        parameters = document.get("parameters")
        for inner in ("steps", "then", "else"):
            nested = parameters.get(inner) if isinstance(parameters, dict) else None
            yield from _outputs(nested) if isinstance(nested, list) else ()


def join(loc: str, parts: Iterable[Any]) -> str:
    """`steps[0]` and ('retry', 'max_attempts') as `steps[0].retry.max_attempts`."""
    for part in parts:
        loc += f"[{part}]" if isinstance(part, int) else f".{part}" if loc else str(part)
    return loc
