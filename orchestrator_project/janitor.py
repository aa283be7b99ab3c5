"""Kills the process groups of a supervisor that was killed itself. Run as a script, with nothing but the standard library.

Standard input carries one line per event: `+PID` for a group to look after, `-PID` for one that has ended. At its end, which the
kernel brings about however the supervisor ends, every group that is left is killed.
"""

import os
import signal
import sys
from contextlib import suppress


def main() -> None:
    """Follow the supervisor until it is gone, then clean up after it."""
    groups: set[int] = set()
    for line in sys.stdin:
        change = groups.add if line.startswith("+") else groups.discard
        change(int(line[1:]))
    for group in groups:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
