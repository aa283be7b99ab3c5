"""Fields for values of a JSON Schema. A plan wrote the schema: whatever it says, there is a field, and no markup.

Each field returns a JSON value of the type that was asked for; what does not fit any field is written as JSON.
"""

from __future__ import annotations

import json
from typing import Any

from django import forms
from django.utils.html import format_html
from django.utils.safestring import SafeString
from pydantic_core import from_json

from executions.templatetags.reading import visible

LONG_TEXT = 120  # characters; a longer one gets several lines
MOST_FIELDS = 50  # of one form; an object with more of them is written as JSON
JSON_HELP = 'Written as JSON: a number, true or false, a text in "quotes", or {"name": "value"}.'


class OptionField(forms.TypedChoiceField):
    """One of several JSON values, each known to the browser by its number and returned with its type."""

    def __init__(self, options: list[Any]) -> None:
        self.options = options
        super().__init__(
            choices=[(str(number), _option_text(option, options)) for number, option in enumerate(options)],
            coerce=lambda number: options[int(number)],
            empty_value=None,
            widget=forms.RadioSelect,
        )

    def number_of(self, value: Any) -> str | None:
        """The number of the option that is this value, of this type."""
        alike = (n for n, option in enumerate(self.options) if type(option) is type(value) and option == value)
        return next(map(str, alike), None)


class PlainText(forms.CharField):
    """A text as it was typed, with the line ends it had before a browser made CRLF of them."""

    def to_python(self, value: Any) -> str:
        """Return the text."""
        return str(super().to_python(value)).replace("\r\n", "\n")


class JSONText(forms.CharField):
    """JSON by RFC 8259: no NaN, no bottomless nesting, no NUL, which PostgreSQL cannot store."""

    def clean(self, value: Any) -> Any:
        """Return what the text says."""
        text = super().clean(value)
        try:
            parsed = from_json(text, allow_inf_nan=False) if text else None
        except ValueError as error:
            raise forms.ValidationError(f"This is not JSON: {error}.") from None
        if "\\u0000" in text:
            raise forms.ValidationError("Leave out the NUL character (\\u0000).")
        return parsed


def is_flat(schema: dict[str, Any]) -> bool:
    """Whether every part is a scalar with a name that a form can carry."""
    parts = schema.get("properties", {})
    return (
        schema.get("type") == "object"
        and len(parts) <= MOST_FIELDS
        and all(name.isprintable() for name in parts)
        and all(isinstance(p, dict) and ("enum" in p or p.get("type") in FIELDS) for p in parts.values())
    )


def field_for(schema: dict[str, Any], *, label: str, required: bool) -> forms.Field:
    """The field for a sound schema: radio buttons, a text, a number, or JSON."""
    field = OptionField(schema["enum"]) if schema.get("enum") else FIELDS.get(str(schema.get("type")), _json)(schema)
    field.label, field.required = visible(label if required else f"{label} (optional)"), required
    if "description" in schema:  # Django takes a help text for markup: `visible` escapes it
        field.help_text = format_html("{} {}", visible(schema["description"]), field.help_text)
    fill(field, schema.get("default"))
    return field


def title_of(schema: dict[str, Any], name: str) -> str:
    """What to call a value: its title, else its name in words."""
    return str(schema.get("title") or name.replace("_", " ").capitalize())


def fill(field: forms.Field, value: Any) -> None:
    """Show a value in its field before anything is entered."""
    if isinstance(field, OptionField):
        field.initial = field.number_of(value)
    elif isinstance(field, JSONText):
        field.initial = None if value is None else json.dumps(value, indent=2, ensure_ascii=False)
    else:
        field.initial = value
    if isinstance(field, PlainText) and isinstance(value, str) and (len(value) > LONG_TEXT or "\n" in value):
        field.widget = forms.Textarea(attrs={"rows": 5})  # a one-line field would drop the line ends


def _option_text(option: Any, options: list[Any]) -> SafeString:
    """The option in words; where two would read alike (`1` and `"1"`) the text is put in quotes."""
    text = _plain(option)
    alike = [other for other in options if _plain(other) == text]
    return visible(json.dumps(option, ensure_ascii=False) if len(alike) > 1 else text)


def _plain(option: Any) -> str:
    if isinstance(option, bool):
        return "Yes" if option else "No"
    return option if isinstance(option, str) else json.dumps(option, ensure_ascii=False)


def _text(schema: dict[str, Any]) -> forms.Field:
    longest = schema.get("maxLength")
    types = {"date": "date", "email": "email", "uri": "url"}
    widget: forms.Widget = forms.TextInput(attrs={"type": types.get(str(schema.get("format")), "text")})
    if isinstance(longest, int) and longest > LONG_TEXT:
        widget = forms.Textarea(attrs={"rows": 3})
    return PlainText(min_length=schema.get("minLength"), max_length=longest, widget=widget, strip=False)


def _integer(schema: dict[str, Any]) -> forms.Field:
    return forms.IntegerField(min_value=schema.get("minimum"), max_value=schema.get("maximum"))


def _number(schema: dict[str, Any]) -> forms.Field:
    return forms.FloatField(min_value=schema.get("minimum"), max_value=schema.get("maximum"))


def _boolean(schema: dict[str, Any]) -> forms.Field:
    return OptionField([True, False])


def _json(schema: dict[str, Any]) -> forms.Field:
    return JSONText(help_text=JSON_HELP, widget=forms.Textarea(attrs={"rows": 5, "spellcheck": "false"}))


FIELDS = {"string": _text, "integer": _integer, "number": _number, "boolean": _boolean}
