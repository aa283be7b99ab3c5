"""django-q's queue table, made fit for LISTEN and for years: see docs/explanation/jobs.md.

- an index for the claim, which would otherwise read the whole table including the tasks that others work on;
- a notification when rows are added, from wherever (our broker, django-q's scheduler, the admin);
- 64-bit ids: with 32 bits the queue refuses every task for good after 2,147,483,647 of them;
- vacuum by a number of dead rows instead of a share of a table that is nearly always empty.
"""

from django.db import migrations

FORWARD = """
ALTER TABLE django_q_ormq ALTER COLUMN id TYPE bigint;
ALTER TABLE django_q_ormq SET (autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0);
CREATE INDEX django_q_ormq_key_lock ON django_q_ormq (key, lock);

CREATE FUNCTION django_q_ormq_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('django_q_ormq', '');
    RETURN NULL;
END $$;

CREATE TRIGGER django_q_ormq_notify AFTER INSERT ON django_q_ormq
FOR EACH STATEMENT EXECUTE FUNCTION django_q_ormq_notify();
"""

BACKWARD = """
DROP TRIGGER django_q_ormq_notify ON django_q_ormq;
DROP FUNCTION django_q_ormq_notify();
DROP INDEX django_q_ormq_key_lock;
ALTER TABLE django_q_ormq RESET (autovacuum_vacuum_threshold, autovacuum_vacuum_scale_factor);
ALTER TABLE django_q_ormq ALTER COLUMN id TYPE integer;
"""


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator_project", "0001_job_slots_and_worker_nodes"),
        ("django_q", "0019_alter_task_options_alter_ormq_key_alter_ormq_lock_and_more"),
    ]

    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
