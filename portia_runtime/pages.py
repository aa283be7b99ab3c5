"""Pages of runs, the oldest change first: a cursor is the place of the last run seen, not a number of a page."""

from __future__ import annotations

import base64
import binascii
from datetime import datetime

from django.db.models import Q, QuerySet

from portia_runtime.models import Run
from portia_runtime.problems import Problem


def changed_after(query: QuerySet[Run], cursor: str | None) -> QuerySet[Run]:
    """The runs after the cursor. Raises Problem invalid_request for one that is not ours."""
    if not cursor:
        return query
    try:
        moment, _, run_id = base64.urlsafe_b64decode(cursor.encode()).decode().partition("|")
        updated_at = datetime.fromisoformat(moment)
    except (ValueError, binascii.Error):
        raise Problem("invalid_request", "cursor is not one that this runtime gave out") from None
    if "\x00" in run_id or updated_at.tzinfo is None:
        raise Problem("invalid_request", "cursor is not one that this runtime gave out")
    return query.filter(Q(updated_at__gt=updated_at) | Q(updated_at=updated_at, run_id__gt=run_id))


def page_of(query: QuerySet[Run], limit: int) -> tuple[list[Run], str | None]:
    """So many runs, and the cursor to go on with if there are more."""
    rows = list(query.order_by("updated_at", "run_id")[: limit + 1])
    if len(rows) <= limit:
        return rows, None
    last = rows[limit - 1]
    return rows[:limit], base64.urlsafe_b64encode(f"{last.updated_at.isoformat()}|{last.run_id}".encode()).decode()
