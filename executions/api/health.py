"""GET /health: whether the service works, for people and load balancers."""

from __future__ import annotations

import time
from datetime import timedelta

from django.conf import settings
from django.db import DatabaseError, connection
from django.db.models.functions import Now
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from executions.api.serializers import HealthSerializer
from executions.portia.client import portia
from executions.portia.errors import PortiaError
from orchestrator_project import VERSION
from orchestrator_project.models import WorkerNode

HEARTBEAT_TIMEOUT = timedelta(seconds=10)
HEALTH_AGE = 5.0  # seconds
_portia_seen = (float("-inf"), False)


class HealthView(APIView):
    """GET /health: whether the service works, for people and load balancers; needs no key."""

    authentication_classes = ()
    permission_classes = ()

    @extend_schema(
        operation_id="health", summary="Health", responses={200: HealthSerializer, 503: HealthSerializer}, auth=[]
    )
    def get(self, request: Request) -> Response:
        """Return 200 while requests can be taken, 503 when the database does not answer."""
        checks = {"database": _database_answers()}
        if checks["database"]:
            checks |= {"worker": _worker_is_alive(), "portia": _portia_answers()}
        status = "healthy" if all(checks.values()) else "degraded" if checks["database"] else "unhealthy"
        body = {
            "status": status,
            "environment": settings.ANUMATE_ENV,
            "version": VERSION,
            "checks": {name: "ok" if fine else "failing" for name, fine in checks.items()},
        }
        return Response(body, status=200 if checks["database"] else 503)


def _database_answers() -> bool:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        return False
    return True


def _worker_is_alive() -> bool:
    return WorkerNode.objects.filter(beat_at__gt=Now() - HEARTBEAT_TIMEOUT).exists()


def _portia_answers() -> bool:
    """Ask Portia, at most once in HEALTH_AGE seconds: /health is open to everybody, and Portia may hang."""
    global _portia_seen
    asked, fine = _portia_seen
    if time.monotonic() - asked > HEALTH_AGE:
        _portia_seen = (time.monotonic(), fine)  # others get the last answer while this one waits
        try:
            fine = portia().health_check().ok
        except PortiaError:
            fine = False
        _portia_seen = (time.monotonic(), fine)
    return fine
