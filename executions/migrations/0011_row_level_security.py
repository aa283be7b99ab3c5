"""The second wall between tenants: policies for the role that requests and jobs take on (executions/tenancy.py)."""

from django.db import connection, migrations, transaction
from django.db.utils import ProgrammingError

ROLE = "orchestrator_tenant"
OWN = "tenant_id = ANY ((SELECT orchestrator_tenants())::uuid[])"
NONE = "00000000-0000-0000-0000-000000000000"
OF_RUN = "EXISTS (SELECT FROM executions_run AS run WHERE run.id = run_id)"
POLICIES = {  # table: (which rows are seen, which may be written)
    "executions_tenant": ("id = ANY ((SELECT orchestrator_tenants())::uuid[])",) * 2,
    "executions_tenant_members": (OWN, OWN),
    "executions_apikey": (OWN, OWN),
    "executions_plan": (OWN, OWN),
    "executions_run": (OWN, OWN),
    "executions_runstep": (OF_RUN, OF_RUN),
    "executions_work": (OF_RUN, OF_RUN),
    "executions_event": (OWN, OWN),
    "executions_idempotencyrecord": (OWN, OWN),
    "executions_ratestate": (OWN, OWN),
    "executions_revokedtoken": (OWN, OWN),
    "executions_auditentry": (OWN, f"{OWN} OR tenant_id = '{NONE}'"),
    "executions_auditlink": (OWN, OWN),
    "executions_auditcheckpoint": (OWN, OWN),
}
FUNCTION = """
    CREATE FUNCTION orchestrator_tenants() RETURNS uuid[] LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT string_to_array(NULLIF(current_setting('orchestrator.tenants', true), ''), ',')::uuid[] $$
"""
GRANTS = f"""
    GRANT USAGE ON SCHEMA public TO {ROLE};
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {ROLE};
    GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {ROLE};
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {ROLE};
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO {ROLE};
    REVOKE UPDATE, DELETE ON executions_auditentry, executions_auditlink, executions_auditcheckpoint FROM {ROLE};
    REVOKE INSERT ON executions_auditlink, executions_auditcheckpoint FROM {ROLE};
    REVOKE ALL ON django_migrations FROM {ROLE};
"""  # noqa: S608  made of constants
UNGRANT = f"""
    ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE ALL ON TABLES FROM {ROLE};
    ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE ALL ON SEQUENCES FROM {ROLE};
    REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {ROLE};
    REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM {ROLE};
    REVOKE ALL ON SCHEMA public FROM {ROLE};
"""


def ensure_role(apps, schema_editor):
    """Make the role where there is none, and let us take it on. It cannot log in, and is the server's, not the database's."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = %s", [ROLE])
        known = cursor.fetchone()
        if known is None:
            _or_say_how(cursor, f"CREATE ROLE {ROLE} NOLOGIN")
        elif known[0]:
            raise RuntimeError(f"The role {ROLE} may see everything: ALTER ROLE {ROLE} NOSUPERUSER NOBYPASSRLS.")
        if not _can_become(cursor):
            # whoever makes a role may grant it, from PostgreSQL 16 on, and yet not take it on
            _or_say_how(cursor, f"GRANT {ROLE} TO CURRENT_USER")


def _can_become(cursor):
    try:
        with transaction.atomic():
            cursor.execute(f"SET LOCAL ROLE {ROLE}")
            cursor.execute("RESET ROLE")
    except ProgrammingError:
        return False
    return True


def _or_say_how(cursor, statement):
    try:
        with transaction.atomic():
            cursor.execute(statement)
    except ProgrammingError as error:
        raise RuntimeError(
            f"This database user may not do it: {statement}. Let an administrator of the server run, once: "
            f'CREATE ROLE {ROLE} NOLOGIN; GRANT {ROLE} TO "{connection.settings_dict["USER"]}";'
        ) from error


class Migration(migrations.Migration):
    """Needs a database user who may create roles, or one to whom an administrator has granted the role before."""

    dependencies = [("executions", "0010_audit_chain")]

    operations = [
        migrations.RunPython(ensure_role, migrations.RunPython.noop, elidable=False),
        migrations.RunSQL(FUNCTION, "DROP FUNCTION orchestrator_tenants()"),
        migrations.RunSQL(GRANTS, UNGRANT),
        *(
            migrations.RunSQL(
                f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;"
                f"CREATE POLICY of_tenant ON {table} TO {ROLE} USING ({seen}) WITH CHECK ({written})",
                f"DROP POLICY of_tenant ON {table}; ALTER TABLE {table} DISABLE ROW LEVEL SECURITY",
            )
            for table, (seen, written) in POLICIES.items()
        ),
    ]
