"""What trust is made of: the audit log, revoked capability tokens, keys that replace keys, who gave a run its last command."""

import django.db.models.deletion
import executions.models.ids
import pgtrigger.compiler
import pgtrigger.migrations
import uuid
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("executions", "0008_no_empty_tool_list"),
    ]

    operations = [
        migrations.CreateModel(
            name="AuditEntry",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=executions.models.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("tenant_id", models.UUIDField(default=uuid.UUID("00000000-0000-0000-0000-000000000000"))),
                ("at", models.DateTimeField()),
                (
                    "actor",
                    models.CharField(
                        help_text="The principal, the person, or the part of the service.", max_length=150
                    ),
                ),
                (
                    "source",
                    models.CharField(
                        choices=[
                            ("api", "API"),
                            ("admin", "Admin"),
                            ("link", "Mail link"),
                            ("command", "Management command"),
                            ("job", "Background job"),
                        ],
                        max_length=16,
                    ),
                ),
                (
                    "action",
                    models.CharField(help_text="What was done, e.g. execution.cancel_requested.", max_length=64),
                ),
                ("subject", models.CharField(help_text="To what, e.g. execution/<run_id>.", max_length=200)),
                ("reason", models.TextField(blank=True)),
                ("correlation_id", models.CharField(blank=True, max_length=128)),
                ("address", models.CharField(blank=True, help_text="The caller's IP address.", max_length=45)),
                ("before", models.JSONField(blank=True, null=True)),
                ("after", models.JSONField(blank=True, null=True)),
                (
                    "digest",
                    models.CharField(help_text="SHA-256 of the entry in canonical JSON (RFC 8785).", max_length=64),
                ),
            ],
            options={
                "verbose_name_plural": "audit entries",
                "ordering": ["-id"],
                "abstract": False,
            },
        ),
        migrations.CreateModel(
            name="AuditLink",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("tenant_id", models.UUIDField()),
                ("sequence", models.BigIntegerField()),
                ("entry_id", models.UUIDField(unique=True)),
                (
                    "previous",
                    models.CharField(help_text="The hash of the link before; 64 zeros for the first.", max_length=64),
                ),
                (
                    "hash",
                    models.CharField(
                        help_text="SHA-256 of tenant, sequence, previous hash and the entry's digest.", max_length=64
                    ),
                ),
            ],
            options={
                "abstract": False,
            },
        ),
        migrations.CreateModel(
            name="RevokedToken",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("token_id", models.CharField(help_text="The token's jti.", max_length=200)),
                ("revoked_at", models.DateTimeField(auto_now_add=True)),
                ("revoked_by", models.CharField(max_length=150)),
                ("reason", models.CharField(max_length=500)),
            ],
            options={
                "ordering": ["-id"],
            },
        ),
        migrations.AddField(
            model_name="apikey",
            name="created_by",
            field=models.CharField(blank=True, default="", editable=False, max_length=150),
        ),
        migrations.AddField(
            model_name="apikey",
            name="replaces",
            field=models.ForeignKey(
                blank=True,
                editable=False,
                help_text="The key this one was made from, which expires when both have been valid for a while.",
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="replaced_by",
                to="executions.apikey",
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="revoked_by",
            field=models.CharField(blank=True, default="", editable=False, max_length=150),
        ),
        migrations.AddField(
            model_name="run",
            name="commanded_by",
            field=models.CharField(blank=True, default="", help_text="Who gave the last command.", max_length=150),
        ),
        migrations.AlterField(
            model_name="apikey",
            name="scopes",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(
                    choices=[
                        ("execute", "Submit plans"),
                        ("read", "Read plans, runs and approvals"),
                        ("control", "Pause, resume and cancel"),
                        ("decide", "Decide approvals as a person"),
                        ("admin", "Make and revoke API keys and capability tokens, read the audit log"),
                    ],
                    max_length=16,
                ),
                size=None,
            ),
        ),
        migrations.CreateModel(
            name="AuditCheckpoint",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("tenant_id", models.UUIDField()),
                ("sequence", models.BigIntegerField()),
                ("hash", models.CharField(max_length=64)),
                ("key_id", models.CharField(max_length=64)),
                ("envelope", models.JSONField(help_text="DSSE: the statement and its Ed25519 signature.")),
                ("signed_at", models.DateTimeField()),
            ],
            options={
                "abstract": False,
                "constraints": [
                    models.UniqueConstraint(fields=("tenant_id", "sequence"), name="audit_checkpoint_once")
                ],
            },
        ),
        pgtrigger.migrations.AddTrigger(
            model_name="auditcheckpoint",
            trigger=pgtrigger.compiler.Trigger(
                name="append_only",
                sql=pgtrigger.compiler.UpsertTriggerSql(
                    func="RAISE EXCEPTION 'pgtrigger: Cannot update or delete rows from % table', TG_TABLE_NAME;",
                    hash="6c9cde18b44cc7adca29d9716c0f7f2fd4b5ba98",
                    operation="UPDATE OR DELETE",
                    pgid="pgtrigger_append_only_233d9",
                    table="executions_auditcheckpoint",
                    when="BEFORE",
                ),
            ),
        ),
        migrations.AddIndex(
            model_name="auditentry",
            index=models.Index(fields=["tenant_id", "-id"], name="audit_by_tenant"),
        ),
        migrations.AddConstraint(
            model_name="auditentry",
            constraint=models.CheckConstraint(
                condition=models.Q(("digest__regex", "^[0-9a-f]{64}$")), name="audit_digest_is_sha256"
            ),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name="auditentry",
            trigger=pgtrigger.compiler.Trigger(
                name="append_only",
                sql=pgtrigger.compiler.UpsertTriggerSql(
                    func="RAISE EXCEPTION 'pgtrigger: Cannot update or delete rows from % table', TG_TABLE_NAME;",
                    hash="f66a85ced42a83d7ef18d57c7f0f53629017b3a4",
                    operation="UPDATE OR DELETE",
                    pgid="pgtrigger_append_only_29b6a",
                    table="executions_auditentry",
                    when="BEFORE",
                ),
            ),
        ),
        migrations.AddConstraint(
            model_name="auditlink",
            constraint=models.UniqueConstraint(fields=("tenant_id", "sequence"), name="audit_sequence_once"),
        ),
        migrations.AddConstraint(
            model_name="auditlink",
            constraint=models.CheckConstraint(condition=models.Q(("sequence__gte", 1)), name="audit_sequence_from_one"),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name="auditlink",
            trigger=pgtrigger.compiler.Trigger(
                name="append_only",
                sql=pgtrigger.compiler.UpsertTriggerSql(
                    func="RAISE EXCEPTION 'pgtrigger: Cannot update or delete rows from % table', TG_TABLE_NAME;",
                    hash="bba654819b874312ef0fce97abfb7667a2e4dada",
                    operation="UPDATE OR DELETE",
                    pgid="pgtrigger_append_only_ee7d5",
                    table="executions_auditlink",
                    when="BEFORE",
                ),
            ),
        ),
        migrations.AddField(
            model_name="revokedtoken",
            name="tenant",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE, related_name="revoked_tokens", to="executions.tenant"
            ),
        ),
        migrations.AddConstraint(
            model_name="revokedtoken",
            constraint=models.UniqueConstraint(fields=("tenant", "token_id"), name="token_revoked_once"),
        ),
    ]
