"""The request rate of a tenant, where DRF asks for it, and what the answer says of it.

Headers by draft-ietf-httpapi-ratelimit-headers-11, as structured fields (RFC 9651): `RateLimit-Policy: "requests";q=100;w=60`
and `RateLimit: "requests";r=42;t=26`: 42 requests may be sent within 26 seconds, after which as many have come back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from executions import limits
from executions.errors import RateLimited
from executions.limits import Quota

if TYPE_CHECKING:  # importing it at run time would be circular: DRF's own settings name this file
    from rest_framework.views import APIView


class TenantRate(BaseThrottle):
    """Counts each request of a tenant once, and refuses it beyond the tenant's rate; without a tenant nothing is counted."""

    def allow_request(self, request: Request, view: APIView) -> bool:
        """Leave what is left as `request.quota`. Raises RateLimited."""
        tenant = getattr(request.user, "tenant", None)
        if tenant is None or hasattr(request, "quota"):
            return True
        quota = limits.take_request(tenant)
        request.quota = quota  # type: ignore[attr-defined]
        if quota and quota.is_exceeded:
            sentence = f"This tenant may send {quota.limit} requests a minute; send the next one in {quota.seconds} s."
            raise RateLimited(sentence, retry_after=quota.seconds, limit=quota.limit)
        return True


def quota_headers(*, requests: Quota | None, runs: Quota | None) -> dict[str, str]:
    """RateLimit-Policy and RateLimit for the limits that are set; none without any."""
    policies, items = [], []
    if requests:
        policies.append(f'"requests";q={requests.limit};w={limits.WINDOW}')
        items.append(f'"requests";r={requests.left};t={requests.seconds}')
    if runs:
        policies.append(f'"runs";q={runs.limit};qu="concurrent-requests"')
        items.append(f'"runs";r={runs.left}')
    return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(items)} if items else {}
