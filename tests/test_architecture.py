"""Imports point one way; each room belongs to one subject."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
APPS = ("orchestrator_project", "executions", "approvals_bridge", "portia_runtime")
ENTRANCES = ("api", "admin", "management", "tasks", "admin_theme")

# What a package may import of ours. Wiring is used by all, and itself names what it wires.
ALLOWED = {
    "portia_runtime": {"portia_runtime"},
    "executions": {"executions", "orchestrator_project"},
    "approvals_bridge": {"approvals_bridge", "executions", "orchestrator_project"},
    "orchestrator_project": {"orchestrator_project", "executions", "approvals_bridge"},
}


def modules(app):
    return [path for path in (ROOT / app).rglob("*.py") if "migrations" not in path.parts]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def room(name):
    """`executions.api.views` is in the room `api` of `executions`."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


@pytest.mark.parametrize("app", APPS)
def test_packages_import_only_those_below_them(app):
    strangers = {
        (str(path.relative_to(ROOT)), name)
        for path in modules(app)
        for name in imported(path)
        if name.split(".")[0] in APPS and name.split(".")[0] not in ALLOWED[app]
    }
    assert strangers == set()


@pytest.mark.parametrize("app", ["executions", "approvals_bridge"])
def test_nothing_below_the_entrances_imports_an_entrance(app):
    wrong = {
        (str(path.relative_to(ROOT)), name)
        for path in modules(app)
        if path.relative_to(ROOT / app).parts[0].removesuffix(".py") not in (*ENTRANCES, "apps")
        for name in imported(path)
        if name.split(".")[0] in ("executions", "approvals_bridge") and room(name) in ENTRANCES
    }
    assert wrong == set()


@pytest.mark.parametrize("library", ["requests", "urllib3", "http.client"])
def test_all_http_is_bounded_in_one_place(library):
    assert importers(library) == {"executions/bounded_http.py"}


def test_only_the_clients_of_our_neighbours_speak_http():
    assert importers("executions.bounded_http") == {
        "executions/portia/connection.py", "executions/plan_compiler.py", "executions/key_sets.py",
        "executions/captokens_service.py",
    }  # fmt: skip


def importers(module):
    return {
        str(path.relative_to(ROOT))
        for app in ("executions", "approvals_bridge")
        for path in modules(app)
        if any(name == module or name.startswith(f"{module}.") for name in imported(path))
    }


def test_what_both_sides_of_the_wire_share_imports_neither():
    assert not [name for name in imported(ROOT / "safe_json_schema.py") if name.split(".")[0] in APPS]


def test_only_transition_writes_the_status_of_a_run():
    writers = {
        str(path.relative_to(ROOT))
        for app in ("executions", "approvals_bridge")
        for path in modules(app)
        if path.name != "errors.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assign)
        and any(isinstance(t, ast.Attribute) and t.attr in ("status", "reason") for t in _targets(node))
    }
    assert writers <= {"executions/models/run.py", "approvals_bridge/actions.py"}


def _targets(node):
    for target in node.targets:
        yield from target.elts if isinstance(target, ast.Tuple) else [target]


def test_the_documents_made_from_code_are_current():
    from orchestrator_project.management.commands.write_docs import DOCUMENTS

    assert {name: (ROOT / name).read_text() for name in DOCUMENTS} == {name: make() for name, make in DOCUMENTS.items()}
