"""The form under a decision card, by category: a yes or no, one of several options, a typed value, a thing done.

A form turns what a person enters into a JSON value of the right type; whether that value is acceptable is for
approvals_bridge.answers to say, whatever way it came in.
"""

from __future__ import annotations

import json
from typing import Any

from django import forms
from pydantic_core import from_json

from approvals_bridge import answers
from approvals_bridge.models import Category, Clarification, Decision
from executions.errors import InvalidRequest

SCALARS = {"string", "integer", "number", "boolean"}
TYPE_OF_PYTHON = {bool: "boolean", int: "integer", float: "number", str: "string"}
LONG_TEXT = 120  # characters; a longer one gets several lines
JSON_HELP = 'Written as JSON: a number, true or false, a text in "quotes", or {"name": "value"}.'


class DecisionForm(forms.Form):
    """A bare decision: the seal of what was shown, and the person's words. `value` is what to answer."""

    positive, positive_label = Decision.APPROVE, "Approve"
    reason_label = "Note (optional)"

    action_digest = forms.CharField(required=False, widget=forms.HiddenInput)
    reason = forms.CharField(required=False, max_length=2000, strip=True, widget=forms.Textarea(attrs={"rows": 2}))

    def __init__(self, clarification: Clarification, data: Any = None, *, reason_required: bool = False) -> None:
        super().__init__(data, initial={"action_digest": clarification.action_digest}, label_suffix="")
        self.clarification = clarification
        self.fields["reason"].required = reason_required
        self.fields["reason"].label = self.reason_label
        self.add_fields()
        self.order_fields([name for name in self.fields if name != "reason"] + ["reason"])

    def add_fields(self) -> None:
        """Add what this category asks for."""

    def clean(self) -> dict[str, Any]:
        """Show at the form what the answer would be refused for, so that nothing typed is lost."""
        if self.positive == Decision.ANSWER and not self.errors:
            try:
                answers.check(self.clarification, self.value)
            except InvalidRequest as refusal:
                self.add_error("value" if "value" in self.fields else None, str(refusal))
        return self.cleaned_data

    @property
    def value(self) -> Any:
        """The answer; call after is_valid."""
        return None


class ApprovalForm(DecisionForm):
    """Yes or no: the two buttons say it."""

    reason_label = "Reason"

    def add_fields(self) -> None:
        """Tell what the reason is for."""
        self.fields["reason"].help_text = "Needed to reject; it is passed on to who asked."


class RefusalForm(DecisionForm):
    """Instead of an answer: end the run, with a reason."""

    reason_label = "Reason"

    def __init__(self, clarification: Clarification, data: Any = None) -> None:
        super().__init__(clarification, data, reason_required=True)
        self.fields["reason"].error_messages["required"] = "Say why you reject this."


class ChoiceForm(DecisionForm):
    """One of the options, each with the JSON type it was offered in."""

    positive, positive_label = Decision.ANSWER, "Send this answer"

    def add_fields(self) -> None:
        """One radio button per option."""
        self.fields["value"] = _choice(self.clarification.options, label="Your choice")

    @property
    def value(self) -> Any:
        """The chosen option."""
        return self.cleaned_data["value"]


class SchemaForm(DecisionForm):
    """A value by its JSON Schema: one field for a scalar, several for a flat object, JSON text for the rest."""

    positive, positive_label = Decision.ANSWER, "Send this answer"
    proposed: Any = None

    def add_fields(self) -> None:
        """Add the schema's fields."""
        self.schema = self.find_schema()
        properties = self.schema.get("properties") or {}
        needed = self.schema.get("required", [])
        flat = isinstance(properties, dict) and _is_flat(self.schema)
        self.parts = sorted(properties, key=lambda name: name not in needed) if flat else []
        for name in self.parts:
            required = name in needed
            self.fields[f"value.{name}"] = _field(
                properties[name], label=_title(properties[name], name), required=required
            )
        if not self.parts:
            label = _title(self.schema, self.clarification.argument_name or "Your answer")
            self.fields["value"] = _field(self.schema, label=label, required=True)

    def find_schema(self) -> dict[str, Any]:
        """The schema the runtime sent; without one an Input is a text and anything else is JSON."""
        schema = self.clarification.data.get("schema")
        if isinstance(schema, dict):
            return schema
        return {"type": "string", "maxLength": 20_000} if self.clarification.category == Category.INPUT else {}

    @property
    def value(self) -> Any:
        """The value entered; optional fields that were left empty are left out."""
        if not self.parts:
            return self.cleaned_data["value"]
        entered = {name: self.cleaned_data[f"value.{name}"] for name in self.parts}
        return {name: value for name, value in entered.items() if value not in (None, "")}


class ConfirmationForm(SchemaForm):
    """The proposed value, as it is or changed."""

    positive_label = "Confirm this value"

    def add_fields(self) -> None:
        """Fill the field with what is proposed."""
        super().add_fields()
        proposed = self.clarification.proposed
        for name in self.parts:
            self.fields[f"value.{name}"].initial = proposed.get(name) if isinstance(proposed, dict) else None
        if not self.parts:
            self.fields["value"].initial = proposed
            self.fields["value"].help_text = "Send it as it is, or change it first."

    def find_schema(self) -> dict[str, Any]:
        """The schema the runtime sent, else the type of what is proposed."""
        schema = self.clarification.data.get("schema")
        kind = TYPE_OF_PYTHON.get(type(self.clarification.proposed))
        return schema if isinstance(schema, dict) else {"type": kind} if kind else {}


class DoneForm(DecisionForm):
    """A thing that was to be done."""

    positive, positive_label = Decision.ANSWER, "Done"

    @property
    def value(self) -> str:
        """The word Portia expects."""
        return answers.ACTION_DONE


FORMS: dict[str, type[DecisionForm]] = {
    Category.USER_VERIFICATION: ApprovalForm,
    Category.MULTIPLE_CHOICE: ChoiceForm,
    Category.VALUE_CONFIRMATION: ConfirmationForm,
    Category.ACTION: DoneForm,
}


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

    def prepare_value(self, value: Any) -> Any:
        """Show a proposed value as text; what was typed stays as it was."""
        return value if value is None or isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)


def form_for(clarification: Clarification, data: Any = None) -> DecisionForm:
    """Return the answer form of a clarification; one of an unknown category is answered as its schema says."""
    return FORMS.get(clarification.category, SchemaForm)(clarification, data)


def _is_flat(schema: dict[str, Any]) -> bool:
    parts = schema.get("properties", {}).values()
    return schema.get("type") == "object" and all(
        isinstance(p, dict) and ("enum" in p or p.get("type") in SCALARS) for p in parts
    )


def _field(schema: dict[str, Any], *, label: str, required: bool) -> forms.Field:
    if isinstance(schema.get("enum"), list):
        return _choice(schema["enum"], label=label, required=required)
    maker = FIELDS.get(str(schema.get("type")), _json)
    field = maker(schema)
    field.label, field.required = label if required else f"{label} (optional)", required
    field.help_text = field.help_text or str(schema.get("description", ""))
    field.initial = schema.get("default")
    return field


def _choice(options: list[Any], *, label: str, required: bool = True) -> forms.Field:
    return forms.TypedChoiceField(
        choices=[(str(number), _option_text(option, options)) for number, option in enumerate(options)],
        coerce=lambda number: options[int(number)],
        empty_value=None,
        widget=forms.RadioSelect,
        label=label if required else f"{label} (optional)",
        required=required,
    )


def _option_text(option: Any, options: list[Any]) -> str:
    """The option in words; where two would read alike (`1` and `"1"`) the text is put in quotes."""
    text = _plain(option)
    alike = [other for other in options if _plain(other) == text]
    return json.dumps(option, ensure_ascii=False) if len(alike) > 1 else text


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
    return forms.CharField(min_length=schema.get("minLength"), max_length=longest, widget=widget, strip=False)


def _integer(schema: dict[str, Any]) -> forms.Field:
    return forms.IntegerField(min_value=schema.get("minimum"), max_value=schema.get("maximum"))


def _number(schema: dict[str, Any]) -> forms.Field:
    return forms.FloatField(min_value=schema.get("minimum"), max_value=schema.get("maximum"))


def _boolean(schema: dict[str, Any]) -> forms.Field:
    return _choice([True, False], label="", required=True)


def _json(schema: dict[str, Any]) -> forms.Field:
    return JSONText(help_text=JSON_HELP, widget=forms.Textarea(attrs={"rows": 5, "spellcheck": "false"}))


FIELDS = {"string": _text, "integer": _integer, "number": _number, "boolean": _boolean}


def _title(schema: dict[str, Any], name: str) -> str:
    return str(schema.get("title") or name.replace("_", " ").capitalize())
