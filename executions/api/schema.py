"""How the API key shows in the OpenAPI document."""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension


class ApiKeyScheme(OpenApiAuthenticationExtension):
    """Bearer authentication with an API key."""

    target_class = "executions.api.authentication.ApiKeyAuthentication"
    name = "ApiKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        """Return the security scheme object of OpenAPI 3.1."""
        return {"type": "http", "scheme": "bearer", "bearerFormat": "API key"}
