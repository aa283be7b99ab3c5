"""RevokedToken: a capability token that is refused although it has not expired."""

from __future__ import annotations

from django.db import models

from executions.models.tenant import Tenant


class RevokedToken(models.Model):
    """The `jti` of a token. It also stops the runs the token let in, before their launch and while they go on."""

    id = models.BigAutoField(primary_key=True)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="revoked_tokens")
    token_id = models.CharField(max_length=200, help_text="The token's jti.")
    revoked_at = models.DateTimeField(auto_now_add=True)
    revoked_by = models.CharField(max_length=150)
    reason = models.CharField(max_length=500)

    class Meta:
        ordering = ["-id"]
        constraints = [models.UniqueConstraint(name="token_revoked_once", fields=["tenant", "token_id"])]

    def __str__(self) -> str:
        return self.token_id
