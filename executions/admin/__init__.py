"""The admin of plans, runs, keys and records: staff see what their tenants have, and change only what is theirs to change."""

from executions.admin import audit, captokens, keys, people, plans, records, runs, tenants

__all__ = ["audit", "captokens", "keys", "people", "plans", "records", "runs", "tenants"]
