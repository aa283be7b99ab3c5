"""Template filters that turn stored values into something a person reads: JSON as lists of names and values, times, states.

Every text passes through `visible`, which escapes it and makes invisible and direction-changing characters visible, and
nothing is left out but by `excerpt`: what a person approves is what the machine will get.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

from django import template
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

register = template.Library()

DEEPEST = 8  # levels of nesting; what lies below is shown as JSON text
LONGEST_LIST = 100  # elements; the rest is folded, in an excerpt only counted
LONGEST_LINE = 40  # characters that fit beside a name on a telephone
LONGEST_TEXT = 600  # characters; what is longer is folded

INVISIBLE = re.compile(
    r"[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]"
)
IDENTIFIER = re.compile(r"(^|[_-])(id|number|no|code|year|zip|port|phone|account|version)$", re.IGNORECASE)
WITH_CENTS = frozenset(["AUD", "CAD", "CHF", "EUR", "GBP", "USD"])  # a hundred to one
MONEY = re.compile(r"(amount|price|total|sum|fee|cost|value|budget|limit)$", re.IGNORECASE)

TONES = {
    "running": "info", "paused": "warning", "waiting": "warning", "completed": "success", "approved": "success",
    "failed": "danger", "failed_ignored": "warning", "rejected": "danger", "timed_out": "danger", "timeout": "danger",
}  # fmt: skip
ICONS = {
    "pending": "schedule", "running": "progress_activity", "paused": "pause_circle", "waiting": "front_hand",
    "completed": "check_circle", "approved": "check_circle", "failed": "error", "failed_ignored": "warning",
    "rejected": "block", "timed_out": "timer_off", "timeout": "timer_off", "skipped": "skip_next", "cancelled": "cancel",
}  # fmt: skip


class Place(NamedTuple):
    """Where in a JSON value a part stands, and whether all of it is to be shown."""

    name: str = ""
    currency: str = ""
    depth: int = 0
    whole: bool = True


@register.filter
def readable(value: Any) -> SafeString:
    """Show a JSON value: names and values for an object, a list for an array, words for the rest. Long parts are folded."""
    return _value(value, Place())


@register.filter
def excerpt(value: Any) -> SafeString:
    """Show a JSON value like `readable`, but of a long list only the beginning: for what nobody has to decide about."""
    return _value(value, Place(whole=False))


@register.filter
def visible(text: Any) -> SafeString:
    """Show a text with its invisible and direction-changing characters by their numbers."""
    return format_html_join("", "{}", ((part,) for part in _visible(str(text))))


@register.filter
def words(identifier: Any) -> str:
    """Write an identifier as words: `pay_back` becomes `Pay back`."""
    spaced = re.sub(r"[_\-.]+", " ", str(identifier)).strip()
    return spaced[:1].upper() + spaced[1:]


@register.filter
def moment(value: datetime | None) -> SafeString | str:
    """Show a time in UTC, to the second."""
    if value is None:
        return "—"
    return format_html('<time datetime="{}">{} UTC</time>', value.isoformat(), f"{value:%-d %b %Y, %H:%M:%S}")


@register.filter
def ago(value: datetime | None) -> SafeString | str:
    """Show how long ago a time was or how far ahead it is; the page's script keeps it right."""
    if value is None:
        return "—"
    return format_html('<time datetime="{}" data-tick="relative">{}</time>', value.isoformat(), relative(value))


@register.filter
def elapsed_since(start: datetime | None, end: datetime | None = None) -> SafeString | str:
    """Show the time between two moments; without an end it is still running and the page's script counts on."""
    if start is None:
        return "—"
    if end is not None:
        return duration((end - start).total_seconds())
    text = duration((timezone.now() - start).total_seconds())
    return format_html('<time datetime="{}" data-tick="elapsed">{}</time>', start.isoformat(), text)


@register.filter
def badge(status: str, text: str = "") -> SafeString:
    """Show a status word as a label with an icon, so that colour is not all that tells them apart."""
    return format_html(
        '<span class="o-badge o-{}">{}{}</span>', TONES.get(status, "plain"), icon(status), text or words(status)
    )


@register.filter
def icon(status: str) -> SafeString:
    """Show the icon of a status, hidden from screen readers: the word beside it says the same."""
    name = ICONS.get(status, "help")
    markup = '<span class="material-symbols-outlined o-icon o-icon-{}" aria-hidden="true">{}</span>'
    return format_html(markup, name, name)


@register.filter
def percent(share: float) -> int:
    """Write a share from 0 to 1 as whole percents."""
    return round(share * 100)


@register.filter
def event_words(kind: str) -> str:
    """Write an event type as words: `io.anumate.execution.step_completed` becomes `Execution step completed`."""
    return words(kind.removeprefix("io.anumate."))


@register.filter
def as_json(value: Any) -> str:
    """Write a value as indented JSON, for downloads and folded originals."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def relative(value: datetime) -> str:
    """Say when, seen from now: `3 min ago`, `in 2 h 5 min`."""
    seconds = (timezone.now() - value).total_seconds()
    length = duration(abs(seconds) // 60 * 60 if 60 <= abs(seconds) < 3600 else abs(seconds) // 1)
    if abs(seconds) < 1:
        return "just now"
    return f"{length} ago" if seconds > 0 else f"in {length}"


def duration(seconds: float) -> str:
    """Write a length of time with one or two units."""
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))} ms"
    if seconds < 60:
        return f"{seconds:.1f}".rstrip("0").rstrip(".") + " s"
    whole = int(seconds)
    for size, unit, smaller, small_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {small_unit}" if rest else "")
    return f"{whole} s"


def _value(value: Any, place: Place) -> SafeString:
    if isinstance(value, dict | list) and not value:
        return mark_safe('<span class="o-none">(none)</span>')
    if isinstance(value, dict | list) and place.depth >= DEEPEST:
        return format_html("<code>{}</code>", visible(json.dumps(value, ensure_ascii=False)))
    if isinstance(value, dict):
        return _object(value, place)
    if isinstance(value, list):
        return _array(value, place._replace(depth=place.depth + 1))
    return _scalar(value, place)


def _object(value: dict[str, Any], place: Place) -> SafeString:
    currency = value.get("currency")
    currency = currency if isinstance(currency, str) and re.fullmatch(r"[A-Z]{3}", currency) else ""
    inside = place._replace(currency=currency, depth=place.depth + 1)
    parts = sorted(value.items(), key=lambda pair: _is_nested(pair[1]))
    rows = (
        (_row_class(part), name, visible(words(name)), _value(part, inside._replace(name=name))) for name, part in parts
    )
    return format_html(
        '<dl class="o-object">{}</dl>',
        format_html_join("", '<div class="{}"><dt title="{}">{}</dt><dd>{}</dd></div>', rows),
    )


def _row_class(value: Any) -> str:
    if _is_nested(value):
        return "o-nested"
    return "o-long" if isinstance(value, str) and len(value) > LONGEST_LINE else ""


def _is_nested(value: Any) -> bool:
    """Whether a value needs the whole width: an object, or a list that holds one."""
    return bool(value) and (isinstance(value, dict) or (isinstance(value, list) and any(map(_is_nested, value))))


def _array(value: list[Any], place: Place) -> SafeString:
    kind = "ol" if _is_nested(value) else "ul"
    first, rest = value[:LONGEST_LIST], value[LONGEST_LIST:]
    shown = _items(first, place, kind=kind)
    if not rest:
        return shown
    more = f"and {len(rest):,} more"
    if not place.whole:
        return format_html('{}<p class="o-none">{}</p>', shown, more)
    folded = _items(rest, place, kind=kind, start=len(first) + 1)
    return format_html('{}<details class="o-fold"><summary><b>{}</b></summary>{}</details>', shown, more, folded)


def _items(parts: list[Any], place: Place, *, kind: str, start: int = 1) -> SafeString:
    lines = format_html_join("", "<li>{}</li>", ((_value(part, place),) for part in parts))
    numbered = format_html(' start="{}"', start) if kind == "ol" and start > 1 else ""
    return format_html('<{}{} class="o-array">{}</{}>', kind, numbered, lines, kind)


def _scalar(value: Any, place: Place) -> SafeString:
    if value is None:
        return mark_safe('<span class="o-none">(nothing)</span>')
    if isinstance(value, bool):
        return mark_safe("Yes") if value else mark_safe("No")
    if isinstance(value, int | float):
        return format_html('<span class="o-number">{}</span>', _number(value, place))
    return _folded(str(value)) if value != "" else mark_safe('<span class="o-none">(empty)</span>')


def _number(value: float, place: Place) -> str:
    if IDENTIFIER.search(place.name):
        return str(value)
    if place.currency and MONEY.search(place.name) and isinstance(value, float) and round(value, 2) == value:
        return f"{value:,.2f} {place.currency}"  # a whole number may count cents: it stays as it is
    if place.currency in WITH_CENTS and place.name.lower().endswith("_cents") and isinstance(value, int):
        return f"{value:,} ({value / 100:,.2f} {place.currency})"
    return f"{value:,}"


def _folded(text: str) -> SafeString:
    if len(text) <= LONGEST_TEXT:
        return format_html('<span class="o-text">{}</span>', visible(text))
    return format_html(
        '<details class="o-fold"><summary>{}… <b>show all {} characters</b></summary><div class="o-text">{}</div></details>',
        visible(text[:160]),
        f"{len(text):,}",
        visible(text),
    )


def _visible(text: str) -> Iterator[str | SafeString]:
    end = 0
    for found in INVISIBLE.finditer(text):
        yield text[end : found.start()]
        yield format_html(
            '<mark class="o-invisible" title="an invisible character">U+{}</mark>', f"{ord(found[0]):04X}"
        )
        end = found.end()
    yield text[end:]
