"""The two small languages inside a plan: CEL for conditions, and paths for `{{templates}}` and inputs.

Nothing is evaluated here; the runtime does that. This only says, before a plan is accepted, whether a text can be understood
and which names it uses. CEL is compiled by Google's library, which has no side effects and bounds its own work.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache

from cel_expr_python import cel

Problem = tuple[str, str]

MAX_EXPRESSION = 2000
MAX_STAND_INS = 64
MAX_REMEMBERED = 500  # characters of a text whose parts are kept in memory
ROOTS = frozenset({"steps", "variables", "parameters"})
LOOP_NAMES = frozenset({"item", "index"})

STEP_ID = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# CEL's type names cannot be declared again; its reserved words can, but not be written: such a step is steps["loop"].
CEL_TYPES = frozenset(["bool", "bytes", "double", "dyn", "int", "list", "map", "null_type", "string", "type", "uint"])
CEL_WORDS = frozenset(
    [
        "as",
        "break",
        "const",
        "continue",
        "else",
        "false",
        "for",
        "function",
        "if",
        "import",
        "in",
        "let",
        "loop",
        "namespace",
        "null",
        "package",
        "return",
        "true",
        "var",
        "void",
        "while",
    ]
)
_CEL_NAMES = CEL_WORDS | CEL_TYPES
RESERVED_IDS = ROOTS | LOOP_NAMES | CEL_TYPES

_TEMPLATE = re.compile(r"\{\{(?P<braces>[^{}]*)\}\}|\$\{(?P<dollar>[^{}]*)\}")
_PATH = re.compile(
    r"""[^\W\d][\w-]*
        (?: \.[\w-]+ | \[\d+\] | \["[^"\]]*"\] | \['[^'\]]*'\] )*""",
    re.VERBOSE,
)
_DOTTED_PATH = re.compile(r"[^\W\d][\w-]*(?:\.[\w-]+)*")  # most are
_SEGMENT = re.compile(r"""\[(\d+)\]|\["([^"]*)"\]|\['([^']*)'\]|\.?([\w-]+)""")
_CEL_TOKEN = re.compile(
    r"""//[^\n]*
      | [rRbB]{0,2}(?: \"\"\".*?\"\"\" | '''.*?''' | "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' )
      | \.\s*(?:all|exists|exists_one|map|filter)\s*\(\s*(?P<bound>[A-Za-z_]\w*)\s*,
      | \.\s*[A-Za-z_]\w*
      | \d[\w.]*
      | \bsteps\s*(?: \.\s*(?P<field>[A-Za-z_]\w*) | \[\s*(?:"(?P<double>[^"]*)"|'(?P<single>[^']*)')\s*\] )
      | (?P<name>[A-Za-z_]\w*)(?!\s*\(|\w)""",
    re.VERBOSE | re.DOTALL,
)
_STAND_IN = "known_name_"
_STANDS_IN = re.compile(_STAND_IN + r"\d+")
_WORD = re.compile(r"(?<![\w.])([A-Za-z_]\w*)")
_UNDECLARED = re.compile(r"undeclared reference to '([^'.]+)")
_POSITION = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*)")


@dataclass(frozen=True)
class Path:
    """A path such as `steps["look-up"].orders[0]`, taken apart into its names and numbers."""

    text: str
    segments: tuple[str, ...]

    @property
    def root(self) -> str:
        """The first name: a step, a variable, or one of ROOTS."""
        return self.segments[0]

    @property
    def step_id(self) -> str | None:
        """The step that is meant without doubt, as in `steps.x`."""
        return self.segments[1] if self.root == "steps" and len(self.segments) > 1 else None


def parse_path(text: str) -> Path | None:
    """Take a path apart; None when the text is no path."""
    return _short_path(text) if len(text) <= MAX_REMEMBERED else _path(text)


def _path(text: str) -> Path | None:
    stripped = text.strip()
    if _DOTTED_PATH.fullmatch(stripped):
        return Path(text=stripped, segments=tuple(stripped.split(".")))
    if not _PATH.fullmatch(stripped):
        return None
    return Path(text=stripped, segments=tuple(next(filter(None, found), "") for found in _SEGMENT.findall(stripped)))


@lru_cache(maxsize=8192)
def _short_path(text: str) -> Path | None:
    return _path(text)


def templates(text: str) -> Sequence[tuple[str, Path | None]]:
    """Every `{{path}}` and `${path}` of a text, as written and taken apart.

    `{{…}}` around anything but a path gives None, an error of the author's; `${…}` around anything else is plain text.
    """
    if "{" not in text:
        return ()
    return _short_templates(text) if len(text) <= MAX_REMEMBERED else tuple(_templates(text))


def _templates(text: str) -> Iterator[tuple[str, Path | None]]:
    for found in _TEMPLATE.finditer(text):
        path = parse_path(found["braces"] if found["braces"] is not None else found["dollar"])
        if path or found["braces"] is not None:
            yield found[0], path


@lru_cache(maxsize=8192)
def _short_templates(text: str) -> tuple[tuple[str, Path | None], ...]:
    return tuple(_templates(text))


@lru_cache(maxsize=4096)
def condition_names(expression: str) -> tuple[frozenset[str], frozenset[str]]:
    """What a CEL expression speaks of: the names it starts from, and the ids in `steps.x` and `steps["x"]`.

    To CEL itself the latter are fields of anything; names that `all(x, …)` and its like bind are left out.
    """
    names: set[str] = set()
    steps: set[str] = set()
    bound: set[str] = set()
    for token in _CEL_TOKEN.finditer(expression):
        kind = token.lastgroup
        if kind:
            {"name": names, "bound": bound}.get(kind, steps).add(token[kind])
    return frozenset(names - bound), frozenset(steps)


class Conditions:
    """Says of conditions whether they compile with one set of names, and which of these they speak of.

    Conditions that differ only in these names compile alike, as every name may hold anything. So they are compiled with
    stand-ins for the names, once per process; what does not compile so is compiled as it is, for the sake of the message.
    """

    def __init__(self, names: Iterable[str]) -> None:
        known = ROOTS.union(names)
        self._declared = {name for name in known if IDENTIFIER.fullmatch(name) and name not in _CEL_NAMES}
        self._replaced = self._declared - {"steps"}

    @cached_property
    def _environment(self) -> cel.Env:
        return cel.NewEnv(variables=dict.fromkeys(self._declared, cel.Type.DYN))

    def examine(self, expression: str) -> tuple[Problem | None, Collection[str], Collection[str]]:
        """What is wrong with a condition, and what it speaks of as of `condition_names`.

        Wrong is (code, a sentence that says what to do), or None when the condition gives true or false.
        """
        if len(expression) > MAX_EXPRESSION:
            text = f"Shorten the condition to {MAX_EXPRESSION} characters; it has {len(expression)}."
            return ("expression_too_long", text), (), ()
        if _STAND_IN not in expression:
            shape, meant = self._shape(expression)
            if _is_condition(shape):
                names, steps = condition_names(shape)
                return None, [meant.get(name, name) for name in names], [_meant(step, meant) for step in steps]
        return self._problem(expression), *condition_names(expression)

    def _shape(self, expression: str) -> tuple[str, dict[str, str]]:
        """The condition with stand-ins, and what each of these means; `steps` stays, it says what comes after it."""
        stand_ins: dict[str, str] = {}
        parts = _WORD.split(expression)
        for index in range(1, len(parts), 2):
            word = parts[index]
            if word in self._replaced:
                parts[index] = stand_ins.setdefault(word, f"{_STAND_IN}{len(stand_ins)}")
        return "".join(parts), {stand_in: name for name, stand_in in stand_ins.items()}

    def _problem(self, expression: str) -> Problem | None:
        try:
            kind = self._environment.compile(expression).return_type()
        except (RuntimeError, ValueError) as error:
            return _sentence(str(error))
        if kind in (cel.Type.BOOL, cel.Type.DYN):
            return None
        text = f"A condition is true or false, this one gives {kind.name().lower()}; compare it with something."
        return "not_boolean", text


def _meant(text: str, meant: dict[str, str]) -> str:
    """An id that may have stand-ins in it: `known_name_0-step`."""
    return _STANDS_IN.sub(lambda found: meant[found[0]], text) if _STAND_IN in text else text


@lru_cache(maxsize=4096)
def _is_condition(shape: str) -> bool:
    try:
        return _stand_in_environment().compile(shape).return_type() in (cel.Type.BOOL, cel.Type.DYN)
    except (RuntimeError, ValueError):
        return False


@cache
def _stand_in_environment() -> cel.Env:
    names = ["steps", *(f"{_STAND_IN}{number}" for number in range(MAX_STAND_INS))]
    return cel.NewEnv(variables=dict.fromkeys(names, cel.Type.DYN))


def _sentence(message: str) -> tuple[str, str]:
    if unknown := _UNDECLARED.search(message):
        name = unknown[1]
        return (
            "unknown_reference",
            f"Nothing is called '{name}' here: use the id of a step, variables.{name} or parameters.{name}.",
        )
    if found := _POSITION.search(message):
        reason = found[3].removesuffix(" [INVALID_ARGUMENT]").partition(" expecting {")[0]
        text = f"This is not a CEL expression, see line {found[1]}, column {found[2]}: {reason[:200]}."
    else:
        text = f"This is not a CEL expression: {message[:200]}."
    return "invalid_expression", text
