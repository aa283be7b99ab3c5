import django.contrib.postgres.indexes
import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("executions", "0004_tenant_limits"),
    ]

    operations = [
        migrations.AddField(
            model_name="run",
            name="labels",
            field=models.JSONField(
                blank=True, default=dict, help_text="The plan's and the submission's: name -> text."
            ),
        ),
        migrations.AlterField(
            model_name="run",
            name="plan",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="runs",
                to="executions.plan",
            ),
        ),
        migrations.AlterField(
            model_name="run",
            name="portia_run_id",
            field=models.CharField(blank=True, max_length=128, null=True),
        ),
        migrations.AlterField(
            model_name="run",
            name="tenant",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="runs",
                to="executions.tenant",
            ),
        ),
        migrations.AddIndex(
            model_name="run",
            index=models.Index(
                condition=models.Q(("status", "failed")),
                fields=["tenant", "reason", "-id"],
                name="run_failed_by_reason",
            ),
        ),
        migrations.AddIndex(
            model_name="run",
            index=models.Index(fields=["plan", "-id"], include=("tenant",), name="run_by_plan"),
        ),
        migrations.AddIndex(
            model_name="run",
            index=models.Index(fields=["tenant", "triggered_by", "-id"], name="run_by_trigger"),
        ),
        migrations.AddIndex(
            model_name="run",
            index=models.Index(fields=["tenant", "requested_by", "-id"], name="run_by_requester"),
        ),
        migrations.AddIndex(
            model_name="run",
            index=models.Index(fields=["tenant", "correlation_id", "-id"], name="run_by_correlation"),
        ),
        migrations.AddIndex(
            model_name="run",
            index=django.contrib.postgres.indexes.GinIndex(fastupdate=False, fields=["labels"], name="run_labels"),
        ),
        migrations.AddIndex(
            model_name="run",
            index=django.contrib.postgres.indexes.BrinIndex(
                autosummarize=True, fields=["updated_at"], name="run_updated", pages_per_range=32
            ),
        ),
        migrations.AddConstraint(
            model_name="run",
            constraint=models.UniqueConstraint(fields=("portia_run_id",), name="run_once_at_portia"),
        ),
    ]
