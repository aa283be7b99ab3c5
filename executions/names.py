"""Whether two names are one person's, and for whom else somebody can speak: what four eyes are counted by."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable


def folded(name: str) -> str:
    """A name without what people spell differently: Unicode forms (NFKC) and upper or lower case."""
    return unicodedata.normalize("NFKC", name).casefold()


def fold_all(names: Iterable[str | None]) -> frozenset[str]:
    """The names there are, each folded."""
    return frozenset(folded(name) for name in names if name)


def made_by(names: Iterable[str], keys: Iterable[tuple[str, str]]) -> frozenset[str]:
    """The principals, folded, whose secrets these names have seen: of keys they made, and of keys that were made with those.

    `keys` are (maker, principal) pairs of one tenant.
    """
    made = defaultdict(set)
    for maker, principal in keys:
        made[folded(maker)].add(folded(principal))
    found: set[str] = set()
    left = [folded(name) for name in names]
    while left:
        fresh = made.pop(left.pop(), set()) - found
        found |= fresh
        left.extend(fresh)
    return frozenset(found)
