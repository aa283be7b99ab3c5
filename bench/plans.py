"""How long a plan of 500 steps takes to hash, validate and translate: `python bench/plans.py`.

The floor is `json.loads` of the same document; `rfc8785` is what the hash would cost with that package.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import rfc8785

from executions.plan_document import canonical_hash, parse
from executions.portia.translate import translate
from tests.factories.documents import large_plan

ROUNDS = 15


def main() -> None:
    """Print a table of medians in milliseconds."""
    document = large_plan(steps=500)
    text = json.dumps(document)
    plan = parse(document)
    measured: dict[str, Callable[[], Any]] = {
        "json.loads (floor)": lambda: json.loads(text),
        "rfc8785.dumps": lambda: rfc8785.dumps(document),
        "canonical_hash": lambda: canonical_hash(document),
        "parse (hash, shape, all checks)": lambda: parse(document),
        "translate": lambda: translate(plan, allowed_tools=["echo"], timeout=60),
        "parse + translate": lambda: translate(parse(document), timeout=60),
        "PortiaPlan.to_json": lambda: translate(plan).to_json(),
    }
    print(
        f"a plan of {len(list(plan.every_step()))} steps, {len(text) / 1000:.0f} KB; median and worst of {ROUNDS}, ms"
    )
    for name, work in measured.items():
        times = sorted(_milliseconds(work) for _ in range(ROUNDS))
        print(f"{name:34}{statistics.median(times):8.1f}{times[-1]:8.1f}")


def _milliseconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


if __name__ == "__main__":
    main()
