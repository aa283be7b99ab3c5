"""Factories for every model a test needs; a run can be made at any status without going through it.

The cast: `UserFactory(username="alice")` asks, `staff_of(tenant, username="bob")` decides, and staff of another tenant
are strangers.
"""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from hashlib import sha256
from typing import Any

import factory
import rfc8785
from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import Permission
from django.utils import timezone

from approvals_bridge.models import Category, Clarification, Vote
from executions import events
from executions.models import ApiKey, Plan, Run, RunReason, RunStatus, RunStep, Scope, Tenant

REASON_OF_STATUS = {
    RunStatus.PENDING: RunReason.ACCEPTED,
    RunStatus.RUNNING: RunReason.EXECUTING,
    RunStatus.PAUSED: RunReason.AWAITING_CLARIFICATION,
    RunStatus.COMPLETED: RunReason.OK,
    RunStatus.FAILED: RunReason.STEP_FAILED,
    RunStatus.CANCELLED: RunReason.CANCEL_REQUESTED,
}
TERMINAL = {RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED}


def refund_document(**changes: Any) -> dict[str, Any]:
    """A small ExecutablePlan: look up, check, ask a person, pay back, write a mail."""
    steps = [
        {
            "step_id": "look_up_order", "name": "Look up the order", "step_type": "action", "tool": "read_record",
            "action": "read", "parameters": {"key": "{{order_id}}"}, "outputs": {"found": "order_found"},
            "timeout": 10,
        },
        {
            "step_id": "approve_refund", "name": "Ask for the refund", "step_type": "approval",
            "depends_on": ["look_up_order"], "conditions": ["look_up_order.found == true"],
            "parameters": {"title": "Approve refund", "message": "Refund order {{order_id}}?"},
        },
        {
            "step_id": "pay_back", "name": "Pay the money back", "step_type": "action", "tool": "write_record",
            "action": "write", "depends_on": ["approve_refund"],
            "parameters": {"key": "refund-{{order_id}}", "value": {"amount": 129.9, "currency": "EUR"}},
            "retry_policy": {"max_attempts": 3, "initial_delay": 1.0},
        },
        {
            "step_id": "tell_customer", "name": "Write to the customer", "step_type": "action",
            "tool": "email_connector", "action": "send", "depends_on": ["pay_back"],
            "conditions": ["pay_back.success == true"],
            "parameters": {"to": "maria@example.com", "subject": "Your refund"},
        },
    ]  # fmt: skip
    return {
        "plan_id": "refund-order",
        "name": "Refund an order",
        "version": "1.2.0",
        "description": "Pays an order back after a person agreed, and tells the customer.",
        "main_flow": "main",
        "flows": [{"flow_id": "main", "name": "Main", "steps": steps, "on_failure": "stop"}],
        "security_context": {
            "allowed_tools": ["read_record", "write_record", "email_connector"],
            "requires_approval": True,
            "approval_rules": ["four-eyes"],
        },
        "variables": {"order_id": "A-17"},
        "metadata": {"labels": {"team": "billing"}},
    } | changes


@cache
def hashed(password: str) -> str:
    """A password as it is stored; hashing is slow by design, so once is enough."""
    return make_password(password)


class TenantFactory(factory.django.DjangoModelFactory):
    """A tenant without members."""

    class Meta:
        model = Tenant

    identifier = factory.Sequence(lambda n: f"tenant-{n}")
    name = factory.LazyAttribute(lambda o: o.identifier.replace("-", " ").capitalize())


class UserFactory(factory.django.DjangoModelFactory):
    """A person who can log in with the password `secret`; no staff."""

    class Meta:
        model = get_user_model()

    username = factory.Sequence(lambda n: f"person{n}")
    email = factory.LazyAttribute(lambda o: f"{o.username}@example.com")
    password = factory.LazyFunction(lambda: hashed("secret"))


def staff_of(tenant: Tenant, *, username: str, permissions: tuple[str, ...] = ("decide_clarification",)) -> Any:
    """A staff member of this tenant who may decide; `permissions` are codenames."""
    user = UserFactory(username=username, is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    tenant.members.add(user)
    return user


class ApiKeyFactory(factory.django.DjangoModelFactory):
    """A key of a service that may submit, read and control; the caller finds its text at `key.secret`."""

    class Meta:
        model = ApiKey

    secret = factory.LazyFunction(ApiKey.new_secret)
    tenant = factory.SubFactory(TenantFactory)
    principal = "billing-service"
    prefix = factory.LazyAttribute(lambda o: o.secret[:12])
    digest = factory.LazyAttribute(lambda o: ApiKey.digest_of(o.secret))
    scopes = factory.LazyFunction(lambda: [Scope.EXECUTE, Scope.READ, Scope.CONTROL])

    @classmethod
    def _create(cls, model_class: type[ApiKey], *args: Any, secret: str, **kwargs: Any) -> ApiKey:
        key = super()._create(model_class, *args, **kwargs)
        key.secret = secret
        return key


class PlanFactory(factory.django.DjangoModelFactory):
    """The refund plan, a new one each time (its name ends in a number)."""

    class Meta:
        model = Plan

    tenant = factory.SubFactory(TenantFactory)
    document = factory.Sequence(lambda n: refund_document(plan_id=f"refund-order-{n}"))
    name = factory.LazyAttribute(lambda o: o.document["name"])
    version = factory.LazyAttribute(lambda o: o.document["version"])
    description = factory.LazyAttribute(lambda o: o.document["description"])
    plan_hash = factory.LazyAttribute(lambda o: sha256(rfc8785.dumps(o.document)).hexdigest())
    created_by = "plan-compiler"


class RunFactory(factory.django.DjangoModelFactory):
    """A run as it looks at `status`: `RunFactory(status="failed")`; reason, times and Portia's ids follow from it."""

    class Meta:
        model = Run

    tenant = factory.SubFactory(TenantFactory)
    plan = factory.SubFactory(PlanFactory, tenant=factory.SelfAttribute("..tenant"))
    status = RunStatus.PENDING
    reason = factory.LazyAttribute(lambda o: REASON_OF_STATUS[o.status])
    parameters = factory.LazyFunction(lambda: {"order_id": "A-17"})
    allowed_tools = factory.LazyAttribute(
        lambda o: o.plan.document.get("security_context", {}).get("allowed_tools", [])
    )
    triggered_by = "alice"
    requested_by = "billing-service"
    correlation_id = factory.Sequence(lambda n: f"order-{n}")
    created_at = factory.LazyFunction(timezone.now)
    updated_at = factory.SelfAttribute("created_at")
    started_at = factory.LazyAttribute(lambda o: None if o.status == RunStatus.PENDING else o.created_at)
    finished_at = factory.LazyAttribute(lambda o: o.created_at + timedelta(seconds=3) if o.status in TERMINAL else None)
    portia_run_id = factory.Sequence(lambda n: f"prun-{n}")
    portia_plan_id = factory.LazyAttribute(lambda o: f"anumate-{o.plan.plan_hash}")
    progress = factory.LazyAttribute(lambda o: 1.0 if o.status == RunStatus.COMPLETED else 0.25)
    error = factory.LazyAttribute(
        lambda o: (
            {"code": "tool_hard_error", "message": "The account is closed.", "step_id": "pay_back"}
            if o.status == RunStatus.FAILED
            else None
        )
    )


class RunStepFactory(factory.django.DjangoModelFactory):
    """One step of a run, completed a second after the run began."""

    class Meta:
        model = RunStep

    run = factory.SubFactory(RunFactory)
    position = factory.Sequence(lambda n: n)
    step_id = factory.LazyAttribute(lambda o: f"step_{o.position}")
    name = factory.LazyAttribute(lambda o: o.step_id.replace("_", " ").capitalize())
    step_type = "action"
    status = "completed"
    attempts = 1
    output = factory.LazyFunction(lambda: {"success": True})
    started_at = factory.LazyAttribute(lambda o: o.run.created_at)
    completed_at = factory.LazyAttribute(lambda o: o.run.created_at + timedelta(seconds=1))


class ClarificationFactory(factory.django.DjangoModelFactory):
    """An approval that waits, of a run paused for it. Other categories by trait: `choice=True`, `todo=True`."""

    class Meta:
        model = Clarification

    class Params:
        choice = factory.Trait(
            category=Category.MULTIPLE_CHOICE, title="Choose the account", argument_name="account",
            guidance="From which account shall the refund be paid?", options=["main", "reserve", 3, True], action=None,
        )  # fmt: skip
        typed_input = factory.Trait(
            category=Category.INPUT, title="Enter the refund amount", argument_name="amount",
            guidance="How much is to be refunded, in EUR?", action=None,
            data={"schema": {"type": "number", "minimum": 0, "maximum": 500}},
        )  # fmt: skip
        confirmation = factory.Trait(
            category=Category.VALUE_CONFIRMATION, title="Confirm the address", argument_name="to",
            guidance="Is this the right address?", proposed="maria@example.com", action=None,
        )  # fmt: skip
        todo = factory.Trait(
            category=Category.ACTION, title="Sign in at the bank", guidance="Sign in, then come back.",
            action_url="https://bank.example/login", action=None,
        )  # fmt: skip
        custom = factory.Trait(
            category=Category.CUSTOM, title="Fill in the form", guidance="What goes into the ledger?", action=None,
            data={"schema": {
                "type": "object", "required": ["cost_centre"],
                "properties": {
                    "cost_centre": {"type": "string", "title": "Cost centre"},
                    "amount": {"type": "integer", "minimum": 1},
                    "urgent": {"type": "boolean"},
                },
            }},
        )  # fmt: skip

    run = factory.SubFactory(RunFactory, status=RunStatus.PAUSED)
    tenant = factory.SelfAttribute("run.tenant")
    portia_clarification_id = factory.Sequence(lambda n: f"clar-{n}")
    category = Category.USER_VERIFICATION
    title = "Approve refund"
    guidance = "Refund order A-17?"
    step_id = "approve_refund"
    action = factory.LazyAttribute(
        lambda o: {
            "tool": "write_record",
            "action": "write",
            "arguments": {"key": "refund-A-17", "value": {"amount": 129.9, "currency": "EUR"}},
            "step_id": "pay_back",
            "plan_hash": o.run.plan.plan_hash,
        }
    )
    action_digest = factory.LazyAttribute(lambda o: sha256(rfc8785.dumps(o.action)).hexdigest() if o.action else "")
    requested_at = factory.LazyFunction(timezone.now)
    deadline = factory.LazyAttribute(lambda o: o.requested_at + timedelta(hours=1))


class VoteFactory(factory.django.DjangoModelFactory):
    """One person's approval."""

    class Meta:
        model = Vote

    clarification = factory.SubFactory(ClarificationFactory)
    voter = factory.SubFactory(UserFactory)
    decision = "approve"
    action_digest = factory.SelfAttribute("clarification.action_digest")
    source = "admin"


def record_event(run: Run, kind: str = events.STARTED, *, by: str = "portia", **data: Any) -> Any:
    """An event of this run, with the next sequence."""
    return events.record(run=run, kind=kind, by=by, data=data)
