#!/bin/sh
# Django's deployment checks under production settings, with a complete environment that is good for nothing else.
set -eu
exec env ANUMATE_ENV=production \
    SECRET_KEY=check-only-check-only-check-only-check-only-check-only-0123456789 \
    DATABASE_URL=postgresql://nobody@127.0.0.1:1/none \
    ALLOWED_HOSTS=orchestrator.example \
    PORTIA_BASE_URL=https://portia.example \
    PORTIA_API_KEY=check-only \
    CAPTOKENS_JWKS_FILE=/nonexistent/jwks.json \
    .venv/bin/python manage.py check --deploy --fail-level WARNING
