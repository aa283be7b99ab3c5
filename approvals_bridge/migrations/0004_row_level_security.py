"""Clarifications and votes behind the second wall between tenants (executions/tenancy.py)."""

from django.db import migrations

ROLE = "orchestrator_tenant"
POLICIES = {
    "approvals_bridge_clarification": "tenant_id = ANY ((SELECT orchestrator_tenants())::uuid[])",
    "approvals_bridge_vote": "EXISTS (SELECT FROM approvals_bridge_clarification AS asked WHERE asked.id = clarification_id)",
}


class Migration(migrations.Migration):
    dependencies = [
        ("approvals_bridge", "0003_lists_in_order"),
        ("executions", "0011_row_level_security"),
    ]

    operations = [
        migrations.RunSQL(
            f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;"
            f"CREATE POLICY of_tenant ON {table} TO {ROLE} USING ({own}) WITH CHECK ({own})",
            f"DROP POLICY of_tenant ON {table}; ALTER TABLE {table} DISABLE ROW LEVEL SECURITY",
        )
        for table, own in POLICIES.items()
    ]
