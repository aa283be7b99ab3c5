"""What the role of requests and jobs may do, table by table: a table that no migration names is closed to it."""

from django.db import migrations

ROLE = "orchestrator_tenant"
RIGHTS = {
    "SELECT": (
        "auth_user",
        "auth_group",
        "auth_permission",
        "auth_group_permissions",
        "auth_user_groups",
        "auth_user_user_permissions",
        "django_content_type",
        "executions_tenant_members",
        "executions_auditlink",
        "executions_auditcheckpoint",
        "orchestrator_project_jobslot",
        "orchestrator_project_workernode",
    ),
    "SELECT, INSERT": (
        "django_admin_log",
        "executions_plan",
        "executions_event",
        "executions_auditentry",
        "executions_revokedtoken",
    ),
    "SELECT, UPDATE": ("executions_tenant",),
    "SELECT, INSERT, UPDATE": (
        "executions_apikey",
        "executions_run",
        "executions_runstep",
        "executions_ratestate",
    ),
    "SELECT, INSERT, UPDATE, DELETE": (
        "django_session",
        "executions_work",
        "executions_idempotencyrecord",
    ),
}
CLOSE = f"""
    ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE ALL ON TABLES FROM {ROLE};
    ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE ALL ON SEQUENCES FROM {ROLE};
    REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {ROLE};
    REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM {ROLE};
"""
OPEN_AGAIN = f"""
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {ROLE};
    GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {ROLE};
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {ROLE};
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO {ROLE};
    REVOKE UPDATE, DELETE ON executions_auditentry, executions_auditlink, executions_auditcheckpoint FROM {ROLE};
    REVOKE INSERT ON executions_auditlink, executions_auditcheckpoint FROM {ROLE};
    REVOKE ALL ON django_migrations FROM {ROLE};
"""  # noqa: S608  made of constants


class Migration(migrations.Migration):
    """The embedded runtime's tables, django-q's, the failed logins and the list of migrations are not for requests at all."""

    dependencies = [
        ("executions", "0011_row_level_security"),
        ("admin", "0003_logentry_add_action_flag_choices"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
        ("sessions", "0001_initial"),
        ("orchestrator_project", "0003_login_attempts"),
    ]

    operations = [
        migrations.RunSQL(CLOSE, OPEN_AGAIN),
        *(
            migrations.RunSQL(f"GRANT {rights} ON {', '.join(tables)} TO {ROLE}", migrations.RunSQL.noop)
            for rights, tables in RIGHTS.items()
        ),
    ]
