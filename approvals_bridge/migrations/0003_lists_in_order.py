"""What lists of clarifications read in the order of the keys."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("approvals_bridge", "0002_rounds"),
        ("executions", "0007_lists_in_order"),
    ]

    operations = [
        migrations.RemoveIndex(
            model_name="clarification",
            name="clarification_by_tenant",
        ),
        migrations.AddIndex(
            model_name="clarification",
            index=models.Index(fields=["tenant", "-id"], name="clarification_by_tenant"),
        ),
        migrations.AddIndex(
            model_name="clarification",
            index=models.Index(fields=["tenant", "status", "-id"], name="clarification_by_status"),
        ),
    ]
