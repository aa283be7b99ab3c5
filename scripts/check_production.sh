#!/bin/sh
# Django's deployment checks under production settings, with a complete environment that is good for nothing else. A warning,
# Django's or Python's, is a failure.
set -eu
key=$(mktemp)
trap 'rm -f "$key"' EXIT
.venv/bin/python -c '
import json, sys
from joserfc.jwk import OKPKey
json.dump(OKPKey.generate_key("Ed25519").as_dict(private=True), sys.stdout)' >"$key"
env -u DJANGO_SETTINGS_MODULE ANUMATE_ENV=production \
    SECRET_KEY=check-only-check-only-check-only-check-only-check-only-0123456789 \
    DATABASE_URL=postgresql://nobody@127.0.0.1:1/none \
    ALLOWED_HOSTS=orchestrator.example \
    PORTIA_BASE_URL=https://portia.example \
    PORTIA_API_KEY=check-only \
    CAPTOKENS_JWKS_FILE=/nonexistent/jwks.json \
    AUDIT_SIGNING_KEY_FILE="$key" \
    .venv/bin/python -W error manage.py check --deploy --fail-level WARNING
