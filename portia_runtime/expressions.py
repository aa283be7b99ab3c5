"""Conditions in CEL, by Google's evaluator: no side effects, a bounded cost, and never Python's eval.

The evaluator hands back errors as values, so a result counts only when its type is the one asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cel_expr_python import cel

MAX_CHARACTERS = 2_000
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TEXT = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_RESERVED = frozenset({
    "true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let",
    "loop", "package", "namespace", "return", "var", "void", "while",
    "bool", "bytes", "double", "dyn", "int", "list", "map", "null_type", "string", "type", "uint",  # names of CEL's types
})  # fmt: skip


class ExpressionError(ValueError):
    """The expression cannot be compiled, or has no usable result; the text says why."""


class MissingReferenceError(ExpressionError):
    """The expression speaks of something that does not exist, such as the output of a skipped step."""


@dataclass(frozen=True, eq=False)
class Expression:
    """A compiled expression; `names` are the ones it may look at."""

    text: str
    names: frozenset[str]
    program: Any

    def is_true(self, values: Mapping[str, Any]) -> bool:
        """Evaluate a condition. Raises MissingReferenceError, or ExpressionError when the result is no boolean."""
        result = self._evaluate(values)
        if result.type() != cel.Type.BOOL:
            raise ExpressionError(f"{self.text!r} gives {result.type().name()}, not true or false")
        return bool(result.value())

    def value(self, values: Mapping[str, Any]) -> Any:
        """Evaluate to any JSON value. Raises ExpressionError."""
        return self._evaluate(values).plain_value()

    def _evaluate(self, values: Mapping[str, Any]) -> Any:
        try:
            result = self.program.eval(data=values)
        except Exception as error:
            raise ExpressionError(f"{self.text!r} cannot be evaluated: {_first_line(error)}") from None
        if result.type() == cel.Type.ERROR:
            self._raise(str(result.value()))
        return result

    def _raise(self, message: str) -> None:
        if message.startswith("NOT_FOUND") or "No value with name" in message or "index out of bounds" in message:
            raise MissingReferenceError(f"{self.text!r}: {message}")
        raise ExpressionError(f"{self.text!r} cannot be evaluated: {message}")


@lru_cache(maxsize=4_096)
def compiled(text: str, names: frozenset[str]) -> Expression:
    """Compile an expression over the given names. Raises ExpressionError, also for a name that is not among them."""
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(f"is {len(text)} characters long; at most {MAX_CHARACTERS} are allowed")
    try:
        program = _environment(names).compile(text)
    except Exception as error:
        raise ExpressionError(_first_line(error)) from None
    used = frozenset(_NAME.findall(_TEXT.sub(" ", text)))
    return Expression(text=text, names=used & names, program=program)


@lru_cache(maxsize=512)
def _environment(names: frozenset[str]) -> Any:
    usable = {name: cel.Type.DYN for name in names if _NAME.fullmatch(name) and name not in _RESERVED}
    return cel.NewEnv(variables=usable)


def _first_line(error: Exception) -> str:
    """The evaluator's message without its drawing of the place."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return re.sub(r"^\w+: ERROR: <input>:\d+:(\d+): ", r"at character \1: ", text)
