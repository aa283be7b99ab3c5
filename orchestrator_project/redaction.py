"""No secret in a log: a filter for every handler that masks by key, by pattern and by value.

- By key: what stands under a name such as `password` or `api_key`, in arguments, in `extra` and in text (`name=value`, JSON).
- By pattern: our API keys, JWTs, credentials of an Authorization header, private keys, passwords in addresses.
- By value: the secrets of this process's own settings, wherever they turn up.

What is longer than LONGEST characters is cut off before the patterns see it: most read a text once, some try a few dozen
characters from each place, and a megabyte would take seconds. What is left takes milliseconds, at the worst a tenth of a second.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

MASK = "[redacted]"
SHORTEST_VALUE = 8  # characters; a shorter one would mask ordinary words
DEEPEST = 6
LONGEST = 20_000  # characters of a text
UNSURE = 4_000  # characters before a cut that are left out too, as half a secret is recognised by nothing

WORDS = (
    r"authorization|passw(?:or)?d|passphrase|secret|token|api[-_ ]?key|private[-_ ]?key|cookie|credentials?|sessionid"
)
PUBLIC_ENDINGS = ("_id", "_at", "_type", "_file", "_hash", "_digest", "_prefix", "_name", "_count", "_url")
SECRET_KEY = re.compile(WORDS, re.IGNORECASE)

SPACE = r"(?:[ +]|%20)"
SCHEME = rf"(?:bearer|basic|api-key){SPACE}{{1,4}}"
# A text in quotes, which in JSON within JSON have backslashes before them; it ends with its line if not before.
QUOTED = r"(?P<slashes>\\{0,63})(?P<quote>[\"'])[^\r\n]*?(?:(?<!\\)(?P=slashes)(?P=quote)|(?=[\r\n])|\Z)"
NAMED = r"\\{0,63}[\"']?[ ]?[:=][ ]?+"  # the end of a name and what stands between it and its value

PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(rf"(?i)(authorization{NAMED})(?!\[redacted)(?:{QUOTED}|[^\r\n]+)"), rf"\1{MASK}"),
    (re.compile(r"orc_[A-Za-z0-9_-]{8,200}"), MASK),
    (
        re.compile(
            r"(?<![A-Za-z0-9_-])(?=[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{4})"
            r"([A-Za-z0-9_-]*?)eyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)?"
        ),
        rf"\1{MASK}",
    ),
    (re.compile(rf"(?i)\b({SCHEME})[A-Za-z0-9._~+/=%-]{{16,}}"), rf"\1{MASK}"),
    (re.compile(r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----[^-]*(?:-----END [A-Z ]{0,20}PRIVATE KEY-----)?"), MASK),
    (re.compile(r"([a-z][a-z0-9+.-]{0,20}://[^\s/:@?#\"']{0,100}):[^\s/@\"']{1,300}@"), rf"\1:{MASK}@"),
    (
        re.compile(
            rf"(?i)([\"']?\b[a-z0-9_-]{{0,30}}(?:{WORDS}){NAMED})(?!\[redacted)"
            rf"(?:{SCHEME})?(?:{QUOTED}|[^\s\"'&;,)}}\]]+)"
        ),
        rf"\1{MASK}",
    ),
)

STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "correlation_id"}


class RedactionFilter(logging.Filter):
    """Rewrites each record before it is written. `values`: secrets to mask wherever they stand."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        super().__init__()
        self._redactor = Redactor(values)
        self._formatter = logging.Formatter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep every record, without its secrets; one that cannot be put into words says so instead."""
        record.msg, record.args = self._message(record), None
        if record.exc_info and not record.exc_text:
            record.exc_text = self._formatter.formatException(record.exc_info)
        record.exc_text = record.exc_text and self._redactor.text(record.exc_text)
        record.stack_info = record.stack_info and self._redactor.text(record.stack_info)
        for name in vars(record).keys() - STANDARD:
            setattr(record, name, self._redactor.value(getattr(record, name), name))
        return True

    def _message(self, record: logging.LogRecord) -> str:
        args: Any = record.args
        if isinstance(args, Mapping):
            record.args = self._redactor.value(args)
        elif args:
            record.args = tuple(self._redactor.value(one) for one in args)
        msg: Any = record.msg
        if not isinstance(msg, str):
            record.msg = str(self._redactor.value(msg))
        try:
            return self._redactor.text(record.getMessage())
        except Exception:  # the caller's mistake in the arguments: logging prints them raw, with a traceback
            return self._redactor.text(f"{record.msg} (its arguments do not fit)")


class Redactor:
    """Takes secrets out of texts and of JSON-like values."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        known = {value for value in values if len(value) >= SHORTEST_VALUE}
        known |= {quote(value, safe="") for value in known}
        longest_first = sorted(known, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if known else None

    def text(self, text: str) -> str:
        """The text with every secret masked, and without its end where it is too long."""
        if len(text) > LONGEST:
            return f"{self._masked(text[:LONGEST])[:-UNSURE]} (cut off: {len(text)} characters)"
        return self._masked(text)

    def _masked(self, text: str) -> str:
        text = self._known.sub(MASK, text) if self._known else text
        for pattern, mask in PATTERNS:
            text = pattern.sub(mask, text)
        return text

    def value(self, value: Any, name: str = "", depth: int = 0) -> Any:
        """The value, masked where its name or its text is secret; other objects become their text if that is masked."""
        if is_secret_name(name) and value not in (None, "", True, False):
            return MASK
        if isinstance(value, str):
            return self.text(value)
        if value is None or isinstance(value, bool | int | float):
            return value
        if depth < DEEPEST and isinstance(value, Mapping):
            return {key: self.value(one, str(key), depth + 1) for key, one in value.items()}
        if depth < DEEPEST and type(value) in (list, tuple, set, frozenset):
            return type(value)(self.value(one, "", depth + 1) for one in value)
        return self._object(value)

    def _object(self, value: Any) -> Any:
        """The object itself, for `%d` and the like, unless its text tells a secret."""
        text = str(value)
        redacted = self.text(text)
        return value if redacted == text else redacted


def is_secret_name(name: str) -> bool:
    """Whether what stands under this name is a secret."""
    return bool(SECRET_KEY.search(name)) and not name.lower().endswith(PUBLIC_ENDINGS)
