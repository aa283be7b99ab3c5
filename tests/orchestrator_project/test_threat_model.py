"""docs/explanation/security.md names tests as its proof: they are there."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/explanation/security.md").read_text()
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)`", TEXT)


@cache
def functions(file):
    return {
        node.name for node in ast.parse((ROOT / "tests" / file).read_text()).body if isinstance(node, ast.FunctionDef)
    }


@pytest.mark.parametrize(("file", "name"), NAMED, ids=[name for _, name in NAMED])
def test_a_test_named_in_the_threat_model_is_there(file, name):
    assert name in functions(file)


def test_every_threat_names_a_test():
    threats = TEXT.split("## Spoofing")[1].split("## What is left")[0]
    rows = [line for line in threats.splitlines() if line.startswith("| ") and not line.startswith("| threat ")]
    assert len(rows) >= 40
    assert [row for row in rows if "::test_" not in row] == []
