"""What lists of plans, and the estimate of a dry run, read in the order of the keys."""

from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("executions", "0006_idempotency_to_the_letter"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddIndex(
            model_name="plan",
            index=models.Index(fields=["tenant", "-id"], name="plan_by_tenant"),
        ),
        migrations.AddIndex(
            model_name="plan",
            index=models.Index(fields=["tenant", "name", "-id"], name="plan_by_name"),
        ),
        migrations.AddIndex(
            model_name="run",
            index=models.Index(
                condition=models.Q(("status", "completed")), fields=["plan", "-id"], name="run_completed_by_plan"
            ),
        ),
    ]
