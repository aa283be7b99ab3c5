"""`write_record` and `read_record`: a small durable key-value store, in which side effects can be counted."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.utils import timezone

from portia_runtime.documents import JSON
from portia_runtime.models import Record, RecordWrite
from portia_runtime.tools.base import HardError, Tool, ToolCall

KEY = {"type": "string", "minLength": 1, "maxLength": 255}
COLLECTION = {"type": "string", "minLength": 1, "maxLength": 128}


def _write(call: ToolCall) -> JSON:
    """One transaction: lock the record, see whether this step wrote already, else write and count."""
    with transaction.atomic():
        record = _locked(call)
        done = RecordWrite.objects.filter(effect=call.idempotency_key).first()
        if done is None:
            record.value = _new_value(record, call.arguments)
            record.writes += 1
            record.updated_at = timezone.now()
            record.save(update_fields=["value", "writes", "updated_at"])
            done = RecordWrite.objects.create(
                record=record, effect=call.idempotency_key, value=record.value, writes=record.writes
            )
    return {"success": True, "key": record.key, "value": done.value, "writes": done.writes}


def _locked(call: ToolCall) -> Record:
    scope = {"tenant": call.tenant, "collection": _collection(call), "key": call.arguments["key"]}
    Record.objects.bulk_create([Record(**scope)], ignore_conflicts=True)
    return Record.objects.select_for_update().get(**scope)


def _new_value(record: Record, arguments: JSON) -> Any:
    if "increment" not in arguments:
        return arguments["value"]
    if record.value is not None and (isinstance(record.value, bool) or not isinstance(record.value, (int, float))):
        raise HardError(f"the record {record.key!r} holds no number that could be incremented")
    return (record.value or 0) + arguments["increment"]


def _read(call: ToolCall) -> JSON:
    record = Record.objects.filter(
        tenant=call.tenant, collection=_collection(call), key=call.arguments["key"], writes__gt=0
    ).first()
    return {
        "found": record is not None,
        "value": record.value if record else None,
        "writes": record.writes if record else 0,
    }


def _collection(call: ToolCall) -> str:
    return str(call.arguments.get("collection") or "default")


write_record = Tool(
    id="write_record",
    name="Write a record",
    description="Stores `value` under `key`, or adds `increment` to it; a repeated step counts once.",
    args_schema={
        "type": "object",
        "properties": {"collection": COLLECTION, "key": KEY, "value": {}, "increment": {"type": "number"}},
        "required": ["key"],
        "oneOf": [{"required": ["value"]}, {"required": ["increment"]}],
        "additionalProperties": False,
    },
    run=_write,
    idempotent=True,
    is_quick=True,
)

read_record = Tool(
    id="read_record",
    name="Read a record",
    description="Gives found, value and writes: how often the record was written.",
    args_schema={
        "type": "object",
        "properties": {"collection": COLLECTION, "key": KEY},
        "required": ["key"],
        "additionalProperties": False,
    },
    run=_read,
    idempotent=True,
    is_quick=True,
)
