"""WSGI entry point of the web process (granian)."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orchestrator_project.settings")

application = get_wsgi_application()
