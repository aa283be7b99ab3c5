"""What the role of requests and jobs may do with questions and votes: a vote is never changed (executions 0012)."""

from django.db import migrations

GRANTS = """
    GRANT SELECT, INSERT, UPDATE ON approvals_bridge_clarification TO orchestrator_tenant;
    GRANT SELECT, INSERT ON approvals_bridge_vote TO orchestrator_tenant;
"""


class Migration(migrations.Migration):
    dependencies = [
        ("approvals_bridge", "0004_row_level_security"),
        ("executions", "0012_rights_table_by_table"),
    ]

    operations = [migrations.RunSQL(GRANTS, migrations.RunSQL.noop)]
