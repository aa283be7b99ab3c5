"""The form under a decision card, by category: a yes or no, one of several options, a typed value, a thing done.

A form turns what a person enters into a JSON value of the right type; whether that value is acceptable is for
approvals_bridge.answers to say, whatever way it came in.
"""

from __future__ import annotations

from typing import Any

from django import forms

from approvals_bridge import answers
from approvals_bridge.fields import OptionField, field_for, fill, is_flat, title_of
from approvals_bridge.models import Category, Clarification, Decision
from executions.errors import InvalidRequest
from safe_json_schema import flaws

TYPE_OF_PYTHON = {bool: "boolean", int: "integer", float: "number", str: "string"}
NO_FORM = "The plan describes this value in a way that cannot be shown as a form."


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
        self.fields["value"] = OptionField(self.clarification.options)
        self.fields["value"].label = "Your choice"

    @property
    def value(self) -> Any:
        """The chosen option."""
        return self.cleaned_data["value"]


class SchemaForm(DecisionForm):
    """A value by its JSON Schema: one field for a scalar, several for a flat object, JSON text for the rest."""

    positive, positive_label = Decision.ANSWER, "Send this answer"

    def add_fields(self) -> None:
        """Add the schema's fields."""
        schema = self.find_schema()
        schema = {"description": NO_FORM} if flaws(schema) else schema
        properties, needed = schema.get("properties", {}), schema.get("required", [])
        self.parts = sorted(properties, key=lambda name: name not in needed) if is_flat(schema) else []
        for name in self.parts:
            part, required = properties[name], name in needed
            self.fields[f"value.{name}"] = field_for(part, label=title_of(part, name), required=required)
        if not self.parts:
            label = title_of(schema, self.clarification.argument_name or "Your answer")
            self.fields["value"] = field_for(schema, label=label, required=True)

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
            fill(self.fields[f"value.{name}"], proposed.get(name) if isinstance(proposed, dict) else None)
        if not self.parts:
            fill(self.fields["value"], proposed)
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


def form_for(clarification: Clarification, data: Any = None) -> DecisionForm:
    """Return the answer form of a clarification; one of an unknown category is answered as its schema says."""
    return FORMS.get(clarification.category, SchemaForm)(clarification, data)
