"""The drains and due times that settings.JOBS names; each calls one action."""

from __future__ import annotations

from functools import partial

from approvals_bridge import actions
from executions.models import Kind, Work

import_clarifications = actions.import_clarifications
deliver_answers = actions.deliver_answers

imports_due = partial(Work.objects.due_in, Kind.CLARIFICATIONS)
answers_due = partial(Work.objects.due_in, Kind.ANSWER)
