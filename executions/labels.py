"""Labels of a run: short names with texts, by which people and programs find it again.

They come from the plan's `metadata.labels` and from the submission, whose own win. A submission with a wrong label is
refused; a plan's are free-form metadata, so that of those only the usable ones are taken.
"""

from __future__ import annotations

import re
from typing import Any

from django.db.models import Q

MOST_LABELS = 50
LONGEST_VALUE = 255  # characters
NAME_PATTERN = "[A-Za-z0-9._/-]{1,63}"
NAME = re.compile(NAME_PATTERN)


def is_name(name: Any) -> bool:
    """Whether this can be the name of a label."""
    return isinstance(name, str) and NAME.fullmatch(name) is not None


def is_value(value: Any) -> bool:
    """Whether this can be the text of a label; it may be empty."""
    return isinstance(value, str) and len(value) <= LONGEST_VALUE and "\x00" not in value


def labelled(text: str, *, column: str = "labels") -> Q | None:
    """The condition for rows with the label `name:value`, or `name` alone for whatever value; None for what can be no label."""
    name, colon, value = text.partition(":")
    if not (is_name(name) and is_value(value)):
        return None
    return Q(**({f"{column}__contains": {name: value}} if colon else {f"{column}__has_key": name}))


def merged(metadata: dict[str, Any], asked: dict[str, str]) -> dict[str, str]:
    """The labels of a run: those asked for, and of a plan's metadata as many as there is room for."""
    own = {name: value for name, value in of_metadata(metadata).items() if name not in asked}
    return dict([*asked.items(), *own.items()][:MOST_LABELS])


def of_metadata(metadata: dict[str, Any]) -> dict[str, str]:
    """The usable labels of a plan's metadata: an object of texts, or a list of words, which become labels without text."""
    given = metadata.get("labels")
    if isinstance(given, list):
        given = dict.fromkeys((word for word in given if isinstance(word, str)), "")
    if not isinstance(given, dict):
        return {}
    return {name: value for name, value in given.items() if is_name(name) and is_value(value)}
