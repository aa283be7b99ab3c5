# Every target makes what it needs: the virtual environment, the packages, the embedded PostgreSQL.
# All paths are relative, so that the project may live in a folder with a space in its name.

PY := .venv/bin/python
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help demo up test check audit fix bench lock clean

help: ## Show the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 10

demo: $(READY) .env ## Start everything, run a plan through an approval to its result, stop
	@$(PY) manage.py demo

up: $(READY) .env ## Start everything and stay; prints addresses and credentials
	@$(PY) manage.py up $(ARGS)

test: $(READY) .env ## Run the tests, on the same PostgreSQL the service uses
	@$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(READY) .env ## Lint, types, migrations, production settings, OpenAPI, the last audit
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy orchestrator_project executions approvals_bridge portia_runtime safe_json_schema.py
	@$(PY) manage.py makemigrations --check --dry-run
	@sh scripts/check_production.sh
	@$(PY) manage.py spectacular --validate --fail-on-warn --file /dev/null
	@$(PY) manage.py write_docs --check
	@$(PY) scripts/audit_dependencies.py --known

audit: $(READY) ## Ask PyPI whether vulnerabilities are known of the locked versions (needs a network)
	@$(PY) scripts/audit_dependencies.py

fix: $(READY) ## Let ruff mend what it can; write the generated documents
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .
	@$(PY) manage.py write_docs

bench: $(READY) .env ## Measure, and print a table with the machine it ran on
	@$(PY) -m bench

lock: $(READY) ## Resolve requirements*.txt again into the hashed lock files
	@$(PY) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes requirements.txt -o requirements.lock
	@$(PY) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes requirements-dev.txt -o requirements-dev.lock

clean: ## Remove the environment and all data of this checkout
	@rm -rf .venv .data

.env:
	@echo "ANUMATE_ENV=development" > .env

$(READY): requirements-dev.lock scripts/make_venv.sh
	@sh scripts/make_venv.sh
	@touch $(READY)
