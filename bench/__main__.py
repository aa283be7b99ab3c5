"""`make bench`: measure, and print a table with the machine it ran on. `python -m bench lists`: a million stored runs.

The data goes to a folder of its own (.data/bench), so that a long-used checkout and a fresh one measure the same. The million
runs stay where they were made (DATA_DIR, else .data/bench-lists): making them takes minutes, asking again does not.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orchestrator_project.settings")
ABOUT_LISTS = sys.argv[1:] == ["lists"]
if ABOUT_LISTS:
    os.environ.setdefault("DATA_DIR", str(ROOT / ".data" / "bench-lists"))
else:
    os.environ["DATA_DIR"] = str(ROOT / ".data" / "bench")


def main() -> None:
    """Print one line per measurement, as it is made."""
    import django

    django.setup()
    print(f"{machine()}\n")
    if ABOUT_LISTS:
        from bench import lists

        return lists.main()
    from bench import plans, service

    plans.main()
    print()
    for what, numbers in service.measure():
        print(f"{what:62}{numbers}", flush=True)
    return None


def machine() -> str:
    """Name what this ran on."""
    model = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "?")
    memory = next((int(line.split()[1]) >> 20 for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    load = os.getloadavg()[0]
    return (
        f"{model}, {os.cpu_count()} cores, {memory} GiB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, load {load:.1f}"
    )


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


if __name__ == "__main__":
    main()
