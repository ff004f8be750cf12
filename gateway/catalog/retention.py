"""Which earlier generations stay on the disk: a pure choice. Live ones, and what the volume's own directories hold,
are not up for it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from gateway.catalog.entry import Entry, Kept


def retain(entries: Collection[Entry], *, keep: int, budget: int, named: Collection[str]) -> None:
    """Leaves each entry its last `keep` earlier generations, and all of them together at most `budget` bytes (0: no
    limit), the oldest going first. `named` are digests that aliases or knowledge bases ask for: they
    stay."""
    for entry in entries:
        entry.earlier = tuple(kept for place, kept in enumerate(entry.earlier) if place < keep or kept.digest in named)
    if not budget:
        return
    needed = {kept.digest for entry in entries for kept in _needed(entry)} | set(named)
    gone = _over(budget, (kept for entry in entries for kept in entry.earlier if kept.digest not in needed))
    for entry in entries:
        entry.earlier = tuple(kept for kept in entry.earlier if kept.digest not in gone)


def _needed(entry: Entry) -> list[Kept]:
    contents = [version.content for version in entry.versions.values()]
    return [kept for kept in (entry.serving, *contents) if kept is not None]


def _over(budget: int, found: Iterable[Kept]) -> set[str]:
    """Digests beyond the budget, counted from the newest: equal content lies on the disk once."""
    newest: dict[str, Kept] = {}
    for kept in found:
        if kept.digest not in newest or kept.since > newest[kept.digest].since:
            newest[kept.digest] = kept
    gone, used = set(), 0
    for kept in sorted(newest.values(), key=lambda each: each.since, reverse=True):
        used += kept.bytes
        if used > budget:
            gone.add(kept.digest)
    return gone
