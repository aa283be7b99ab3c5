"""Are vulnerabilities known of the exact versions in requirements-dev.lock?

    python scripts/audit_dependencies.py            # asks PyPI (advisories of OSV, https://docs.pypi.org/api/json/)
    python scripts/audit_dependencies.py --known    # asks nobody: the last audit of this very lock file

Exit status 1 and a list where there is one that scripts/accepted_vulnerabilities.txt does not accept with a reason. Where PyPI
cannot be reached, or no audit was made yet or only long ago, it says so loudly and exits with 0.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from argparse import ArgumentParser
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parent.parent
ACCEPTED = "accepted_vulnerabilities.txt"
PINNED = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)
AT_ONCE = 8
SECONDS = 15
STALE_AFTER = 7 * 86_400  # seconds
LARGEST = 50_000_000  # bytes

Advisory = dict[str, Any]


def main() -> int:
    """Audit, or look at the last audit; give the exit status."""
    options = _options()
    lock = options.lock.read_bytes()
    folder = Path(os.environ.get("DATA_DIR") or ROOT / ".data") / "audit"
    kept = folder / f"{hashlib.sha256(lock).hexdigest()}.json"
    if options.known:
        found, problem = _last_audit(kept)
    else:
        found, problem = _audit(lock.decode(), options.index)
        if not problem:
            folder.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(found))
    if problem:
        print(f"!! DEPENDENCIES NOT AUDITED: {problem}", file=sys.stderr)
    return _report(found, _accepted(options.accepted))


def _options() -> Any:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--known", action="store_true", help="ask nobody; look at the last audit")
    parser.add_argument("--lock", type=Path, default=ROOT / "requirements-dev.lock")
    parser.add_argument("--accepted", type=Path, default=ROOT / "scripts" / ACCEPTED)
    parser.add_argument("--index", default="https://pypi.org", help="where /pypi/NAME/VERSION/json is answered")
    return parser.parse_args()


def _last_audit(kept: Path) -> tuple[list[Advisory], str]:
    if not kept.exists():
        return [], "no audit of this lock file was made here; with a network: make audit"
    age = time.time() - kept.stat().st_mtime
    problem = f"the last audit is {age / 86_400:.0f} days old; with a network: make audit" if age > STALE_AFTER else ""
    return json.loads(kept.read_text()), problem


def _audit(lock: str, index: str) -> tuple[list[Advisory], str]:
    """Every advisory for a pinned version, and why the audit is not complete, if it is not."""
    pins = sorted(set(PINNED.findall(lock)))
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            answers = list(pool.map(lambda pin: _advisories(index, *pin), pins))
    except (URLError, OSError, ValueError) as error:
        return [], f"{index} cannot be asked ({getattr(error, 'reason', None) or type(error).__name__})"
    unknown = [f"{name}=={version}" for (name, version), answer in zip(pins, answers, strict=True) if answer is None]
    print(f"{len(pins) - len(unknown)} of {len(pins)} locked versions audited.")
    problem = f"{index} does not know {len(unknown)} versions: {', '.join(unknown[:5])} …" if unknown else ""
    return [advisory for answer in answers for advisory in answer or []], problem


def _advisories(index: str, name: str, version: str) -> list[Advisory] | None:
    """What is known of this version; None where the index does not know the version itself, as some mirrors do not."""
    try:
        with urlopen(f"{index}/pypi/{name}/{version}/json", timeout=SECONDS) as answer:  # noqa: S310  https, from our own text
            document = json.loads(answer.read(LARGEST))
    except HTTPError as error:
        if error.code != 404:
            raise
        return None
    known = [one for one in document.get("vulnerabilities", []) if not one.get("withdrawn")]
    return [{"package": f"{name}=={version}", **one} for one in known]


def _accepted(path: Path) -> dict[str, str]:
    """The ids in the file, each with its reason."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    accepted = dict(line.split(maxsplit=1) if " " in line.strip() else (line.strip(), "") for line in lines)
    without = [name for name, reason in accepted.items() if not reason.strip()]
    if without:
        sys.exit(f"{path.name}: give a reason after {', '.join(without)}.")
    return accepted


def _report(found: list[Advisory], accepted: dict[str, str]) -> int:
    """Print what is known and not accepted; give the exit status."""
    open_ones = [one for one in found if not {one["id"], *one.get("aliases", [])} & accepted.keys()]
    for one in open_ones:
        fixed = ", ".join(one.get("fixed_in", [])) or "none yet"
        summary = (one.get("summary") or one.get("details") or "").strip().split("\n")[0][:160]
        print(f"{one['package']}: {one['id']} ({', '.join(one.get('aliases', []))}) {summary} Fixed in: {fixed}.")
    if open_ones:
        print(f"Take a fixed version (make lock), or list the id in scripts/{ACCEPTED} with the reason.")
    return 1 if open_ones else 0


if __name__ == "__main__":
    sys.exit(main())
