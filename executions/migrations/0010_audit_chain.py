"""The chain of the audit log: the database gives each entry its place when the transaction that wrote it commits."""

import pgtrigger.compiler
import pgtrigger.migrations
from django.db import migrations, models

# The trigger's statements see what was committed before they began, so that whoever has the lock finds the chain's true end. A
# lock by two numbers is another than one by a single number, which executions/locks.py makes. The function is its owner's
# (SECURITY DEFINER), so that nobody who may write entries has to be allowed to write links.
TAKES_ITS_PLACE = r"""
    CREATE FUNCTION audit_entry_takes_its_place() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
    AS $$
        DECLARE
            place bigint;
            link_before text;
        BEGIN
            PERFORM pg_advisory_xact_lock(hashtext('audit chain'), hashtext(NEW.tenant_id::text));
            SELECT sequence, hash INTO place, link_before FROM executions_auditlink
                WHERE tenant_id = NEW.tenant_id ORDER BY sequence DESC LIMIT 1;
            place := coalesce(place, 0) + 1;
            link_before := coalesce(link_before, repeat('0', 64));
            INSERT INTO executions_auditlink (tenant_id, sequence, entry_id, previous, hash)
            VALUES (NEW.tenant_id, place, NEW.id, link_before, encode(sha256(convert_to(
                concat_ws(E'\n', 'audit-link', NEW.tenant_id, place, link_before, NEW.digest), 'UTF8')), 'hex'));
            RETURN NULL;
        END;
    $$;
    CREATE CONSTRAINT TRIGGER takes_its_place AFTER INSERT ON executions_auditentry
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION audit_entry_takes_its_place();
"""
LOSES_ITS_PLACE = """
    DROP TRIGGER takes_its_place ON executions_auditentry;
    DROP FUNCTION audit_entry_takes_its_place();
"""


class Migration(migrations.Migration):
    dependencies = [
        ("executions", "0009_trust"),
    ]

    operations = [
        migrations.RunSQL(TAKES_ITS_PLACE, LOSES_ITS_PLACE),
        migrations.AddField(
            model_name="run",
            name="awaited",
            field=models.CharField(
                blank=True,
                choices=[("pause", "Pause"), ("resume", "Resume"), ("cancel", "Cancel")],
                default="",
                help_text="A command whose effect has not shown yet.",
                max_length=8,
            ),
        ),
        migrations.AddIndex(
            model_name="auditentry",
            index=models.Index(fields=["tenant_id", "subject", "-id"], name="audit_by_subject"),
        ),
        migrations.AddIndex(
            model_name="auditentry",
            index=models.Index(fields=["tenant_id", "actor", "-id"], name="audit_by_actor"),
        ),
        migrations.AddIndex(
            model_name="auditentry",
            index=models.Index(fields=["tenant_id", "action", "-id"], name="audit_by_action"),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name="auditcheckpoint",
            trigger=pgtrigger.compiler.Trigger(
                name="never_emptied",
                sql=pgtrigger.compiler.UpsertTriggerSql(
                    func="RAISE EXCEPTION '% is append-only: it is never emptied', TG_TABLE_NAME;",
                    hash="e5a7fcf218fe4a3fdecbad201152a80e5df3ce48",
                    level="STATEMENT",
                    operation="TRUNCATE",
                    pgid="pgtrigger_never_emptied_9f7e1",
                    table="executions_auditcheckpoint",
                    when="BEFORE",
                ),
            ),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name="auditentry",
            trigger=pgtrigger.compiler.Trigger(
                name="never_emptied",
                sql=pgtrigger.compiler.UpsertTriggerSql(
                    func="RAISE EXCEPTION '% is append-only: it is never emptied', TG_TABLE_NAME;",
                    hash="63a2ea9a2ae33d6fd11bfc75794b85e031efc333",
                    level="STATEMENT",
                    operation="TRUNCATE",
                    pgid="pgtrigger_never_emptied_25133",
                    table="executions_auditentry",
                    when="BEFORE",
                ),
            ),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name="auditlink",
            trigger=pgtrigger.compiler.Trigger(
                name="never_emptied",
                sql=pgtrigger.compiler.UpsertTriggerSql(
                    func="RAISE EXCEPTION '% is append-only: it is never emptied', TG_TABLE_NAME;",
                    hash="e4bd6233f37469358025f22dc0235fcd6f08573f",
                    level="STATEMENT",
                    operation="TRUNCATE",
                    pgid="pgtrigger_never_emptied_3f4e5",
                    table="executions_auditlink",
                    when="BEFORE",
                ),
            ),
        ),
    ]
