"""A tenant whose list of tools is empty has none, as the admin says; before, saving its form forbade every tool."""

from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    """Mends what the form has written, and keeps it from coming back."""

    dependencies = [("executions", "0007_lists_in_order")]

    operations = [
        migrations.RunSQL(
            "UPDATE executions_tenant SET allowed_tools = NULL WHERE allowed_tools = '{}'", migrations.RunSQL.noop
        ),
        migrations.AddConstraint(
            model_name="tenant",
            constraint=models.CheckConstraint(condition=~Q(allowed_tools=[]), name="tenant_lists_tools_or_has_no_list"),
        ),
    ]
