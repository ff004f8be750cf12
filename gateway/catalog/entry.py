"""One model of the catalog: the directories that it has, the generation that is live, and those it may go back to.

A directory is a numbered version of its model, or, without a number, all there is of it. What is live is said in one
place (`serving`) and changes in one assignment; everything else is about what the directories hold.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import msgspec

from gateway.catalog.golden import Golden
from gateway.errors import GenerationNotFound
from gateway.model import Generation, ModelId, Reason
from gateway.volume.directory import Directory

WAITING: Final = frozenset({"base_missing", "base_not_ready"})


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A generation of a model in the store. `number` rises with every new content of the model; `version` is the
    directory that it came from; `since` is when it was accepted, in Unix seconds; `bytes` is its size on the disk."""

    generation: Generation
    version: int | None
    number: int
    since: float
    bytes: int

    @property
    def digest(self) -> str:
        return self.generation.digest

    @property
    def rank(self) -> tuple[int, int]:
        """A higher version is newer, and so is later content of one version."""
        return rank(self.version), self.number


def rank(version: int | None) -> int:
    """What lies beside numbered versions is older than all of them."""
    return -1 if version is None else version


class Version:
    """One directory. `content` is the newest of it that is whole; what is newer still has `waiting` or `reasons`."""

    def __init__(self, model: ModelId) -> None:
        self.model = model
        self.directory: Directory | None = None
        self.accepted: Directory | None = None  # the directory as it was when `content` was copied from it
        self.content: Kept | None = None
        self.fingerprint = ""  # of what was judged last
        self.inode: int | None = None  # of the directory that `content` came from
        self.waiting = ""  # why the newest content is not judged yet
        self.judging: asyncio.Task[None] | None = None
        self.accepting = False  # being copied: nobody knows yet what it is
        self.whole = False  # `content` is what the directory held when it was judged last
        self.reasons: tuple[Reason, ...] = ()  # why the newest content is not served
        self.warnings: tuple[Reason, ...] = ()
        self.metadata: dict[str, Any] = {}
        self.golden: Golden | None = None
        self.base: ModelId | None = None  # of an adapter
        self.base_digest: str | None = None  # of what was live of its base when it was judged last
        self.retry_at: float | None = None  # monotonic: when to judge the same content again
        self.retry_wait = 0.0

    def __repr__(self) -> str:
        return f"<{self.model.path} {self.content and self.content.generation.short} {self.waiting or self.reasons}>"

    @property
    def number(self) -> int | None:
        return self.model.version

    @property
    def copying(self) -> bool:
        return bool(self.waiting) or self.judging is not None

    @property
    def holds_what_it_held(self) -> bool:
        """Whether the directory still is what `content` was copied from, as far as has been seen: after a start, before
        that has settled."""
        judged = self.judging is None and not self.reasons
        return judged and self.directory is not None and self.directory.fingerprint == self.fingerprint

    @property
    def waits_for_base(self) -> bool:
        """An adapter whose base is not on the volume, or is not served."""
        return any(reason.code in WAITING for reason in self.reasons)

    @property
    def unconfirmed(self) -> bool:
        """Whether `content` is known from an earlier run alone: its directory has not been seen since."""
        return self.content is not None and self.accepted is None


class Entry:
    """One model. `held` are digests of content that an operator rolled back from: they stay away until something
    newer is dropped."""

    def __init__(self, model: ModelId) -> None:
        self.model = model
        self.versions: dict[int | None, Version] = {}
        self.serving: Kept | None = None
        self.earlier: tuple[Kept, ...] = ()  # the newest first
        self.held: frozenset[str] = frozenset()
        self.breaking = False  # whether indexes built with the generation before are void
        self.count = 0  # of contents so far
        self.pinned = False
        self.successor: Generation | None = None  # being loaded beside the live one
        self.turn = asyncio.Lock()  # who holds it may change what is live
        self.swapping: asyncio.Event | None = None  # requests wait for it: the old generation had to go first
        self.load_error = ""

    def __repr__(self) -> str:
        return f"<{self.model.path} live={self.live and self.live.short} {list(self.versions.values())}>"

    @property
    def live(self) -> Generation | None:
        return self.serving.generation if self.serving else None

    @property
    def newest(self) -> Version | None:
        """The directory of the highest number: what the listing speaks of."""
        return max(self.versions.values(), key=lambda version: rank(version.number), default=None)

    @property
    def source(self) -> Version | None:
        """The directory that the live generation came from, or else the newest."""
        return (self.versions.get(self.serving.version) if self.serving else None) or self.newest

    @property
    def copying(self) -> bool:
        return any(version.copying for version in self.versions.values())

    def kept(self, generation: Generation, version: Version, size: int) -> Kept:
        """What a directory was found to hold: known already, or the newest content of the model."""
        for known in (version.content, self.serving):
            if known and known.digest == generation.digest and known.version == version.number:
                if known.generation.place == generation.place:
                    return known
                return msgspec.structs.replace(known, generation=generation)  # served in place, and it was touched
        self.count += 1
        return Kept(generation=generation, version=version.number, number=self.count, since=time.time(), bytes=size)

    def hold_only_what_is_there(self) -> None:
        """Content that has gone from its directory and comes back is a new drop."""
        self.held &= {version.content.digest for version in self.versions.values() if version.content}

    def generations(self) -> list[Kept]:
        """All that may be asked for by name, the newest first, the live one included."""
        contents = [version.content for version in self.versions.values() if version.content]
        found = {kept.digest: kept for kept in (*contents, *self.earlier, *((self.serving,) if self.serving else ()))}
        return sorted(found.values(), key=lambda kept: kept.rank, reverse=True)

    def next_up(self) -> Version | None:
        """The directory whose content is to go live now; None when what is live is right, or when that is not known
        yet. What was rolled back from is passed over, unless nothing else can be served."""
        found = sorted(self.versions.values(), key=lambda version: rank(version.number), reverse=True)
        lost = self.serving is None or self.serving.version not in self.versions
        for version in found:
            if version.accepting:
                return None
            if version.content is None or version.content.digest in self.held:
                continue
            behind = self.serving is not None and rank(version.number) < rank(self.serving.version)
            return None if version.content == self.serving or (behind and not lost) else version
        return next((version for version in found if version.content), None) if lost else None

    def target(self, to: str | None) -> Kept:
        """Where a rollback leads: the generation whose digest begins with `to`, or the one before the live one.
        Raises GenerationNotFound, with those that are there."""
        there = self.generations()
        if to is None:
            wanted = [kept for kept in there if self.serving and kept.rank < self.serving.rank]
            what = "no earlier generation"
        else:
            wanted = [kept for kept in there if kept.digest.startswith(to)]
            what = f"no generation {to}"
        if wanted:
            return wanted[0]
        raise self.not_found(what)

    def neighbour(self, kept: Kept) -> Kept | None:
        """The generation before one, or else the nearest behind it: something to compare it with, if there is any."""
        others = [each for each in self.generations() if each.digest != kept.digest]
        return next((each for each in others if each.rank < kept.rank), others[-1] if others else None)

    def not_found(self, what: str, *, without: str = "-") -> GenerationNotFound:
        """`without` is the beginning of a digest that the disk has lost."""
        there = [kept.generation.short for kept in self.generations() if not kept.digest.startswith(without)]
        return GenerationNotFound(
            f"{self.model} has {what}; it has {', '.join(there) or 'none'}", model=str(self.model), generations=there
        )

    def go_live(self, kept: Kept) -> Kept | None:
        """The one assignment; -> what was live before, when it is another generation."""
        before, self.serving = self.serving, kept
        if before is None or before.digest == kept.digest:
            return None
        self.breaking = breaks(before.generation, kept.generation)
        self.load_error = ""
        behind = {each.digest: each for each in (*self.earlier, before) if each.digest != kept.digest}
        self.earlier = tuple(sorted(behind.values(), key=lambda each: each.rank, reverse=True))
        return before

    def end_swap(self) -> None:
        """Requests that waited for a swap go on."""
        self.successor = None
        if self.swapping is not None:
            self.swapping.set()
            self.swapping = None

    def hold_above(self, target: Kept) -> None:
        """After a rollback: what the directories hold that is newer must not come back by itself."""
        above = [version.content for version in self.versions.values() if rank(version.number) >= rank(target.version)]
        self.held = frozenset(content.digest for content in above if content and content.digest != target.digest)


def breaks(old: Generation, new: Generation) -> bool:
    """Whether what was made with the old generation is void for more than its weights: indexes of its vectors, or
    thresholds of its scores."""
    before, after = old.manifest, new.manifest
    same = before.kind == after.kind and before.dim == after.dim and before.activation == after.activation
    return not same or before.stages != after.stages
