"""One key is one request of a principal, on whatever route; a key may be released; requests without a key have one of their own."""

from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    """Forgets the answers stored so far, both ways: fingerprints are made of more now, so none could be found again."""

    dependencies = [("executions", "0005_run_labels_and_indexes")]

    operations = [
        migrations.RunSQL("DELETE FROM executions_idempotencyrecord", migrations.RunSQL.noop),
        migrations.RemoveConstraint(model_name="idempotencyrecord", name="idempotency_key_once"),
        migrations.AddField(
            model_name="idempotencyrecord",
            name="origin",
            field=models.CharField(
                choices=[("header", "Idempotency-Key header"), ("content", "SHA-256 of the request")],
                default="header",
                max_length=8,
            ),
        ),
        migrations.AddField(
            model_name="idempotencyrecord",
            name="released_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="idempotencyrecord",
            name="released_by",
            field=models.CharField(blank=True, default="", max_length=150),
        ),
        migrations.AddField(
            model_name="idempotencyrecord",
            name="release_reason",
            field=models.CharField(blank=True, default="", max_length=500),
        ),
        migrations.AlterField(
            model_name="idempotencyrecord",
            name="created_at",
            field=models.DateTimeField(),
        ),
        migrations.AlterField(
            model_name="idempotencyrecord",
            name="fingerprint",
            field=models.CharField(help_text="SHA-256 of route, tenant, principal and canonical body.", max_length=64),
        ),
        migrations.AlterField(
            model_name="idempotencyrecord",
            name="route",
            field=models.CharField(help_text="Method and path.", max_length=512),
        ),
        migrations.AlterField(
            model_name="idempotencyrecord",
            name="response_status",
            field=models.PositiveSmallIntegerField(),
        ),
        migrations.AddConstraint(
            model_name="idempotencyrecord",
            constraint=models.UniqueConstraint(
                condition=Q(released_at__isnull=True),
                fields=("tenant", "principal", "key"),
                name="idempotency_key_once",
            ),
        ),
        migrations.AddConstraint(
            model_name="idempotencyrecord",
            constraint=models.CheckConstraint(
                condition=Q(released_at__isnull=True, released_by="", release_reason="")
                | (Q(released_at__isnull=False) & ~Q(released_by="") & ~Q(release_reason="")),
                name="idempotency_released_by_somebody",
            ),
        ),
        migrations.RunSQL(migrations.RunSQL.noop, "DELETE FROM executions_idempotencyrecord"),
    ]
