"""The admin of plans, runs, keys and records: staff see what their tenants have, and change only what is theirs to change."""

from executions.admin import keys, people, plans, records, runs, tenants

__all__ = ["keys", "people", "plans", "records", "runs", "tenants"]
