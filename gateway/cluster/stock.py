"""What a node of a cluster has of generations: a store of its own, which all replicas of the node share.

A node sees the volume at its own time, perhaps a moment later than the gateway does. So nothing is taken for what it is
called: a generation is opened when its content has been copied here and has the digest that was asked for, and a node
that finds other content says so (`NodeStale`), for the gateway to ask another one, or to ask again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Collection, Sequence
from typing import Final, TextIO

from gateway.cluster.messages import Offered
from gateway.errors import NodeStale
from gateway.model import Generation, ModelId
from gateway.volume import source
from gateway.volume.bases import Base
from gateway.volume.copying import Changed, Refused
from gateway.volume.directory import Directory
from gateway.volume.generations import Store
from gateway.volume.sums import Sums

SPARED: Final = 3600.0  # seconds that what nobody wants any more stays on the disk


class Stock:
    """`root` is the volume as this node has it, `state_dir` its own disk, and `node` what the node is called. Blocking;
    several lanes, and several replicas, may take at once."""

    def __init__(
        self, root: str, state_dir: str, node: str, *, allow_pickle: bool, copy_budget: int, in_place: bool
    ) -> None:
        self._root = root
        self._node = node
        self._generations = os.path.join(state_dir, "generations")
        self._store = Store(
            state_dir, allow_pickle=allow_pickle, sums=Sums(root), copy_budget=copy_budget, in_place=in_place
        )
        self._lock = self._sweep(state_dir)

    def _sweep(self, state_dir: str) -> TextIO:
        """What killed processes left half-made, if no other replica of this node is about to make something."""
        os.makedirs(state_dir, mode=0o700, exist_ok=True)
        if os.stat(state_dir).st_uid != os.geteuid():  # others could put in what nobody has verified
            raise PermissionError(f"{state_dir} belongs to somebody else")
        lock = open(os.path.join(state_dir, "lock"), "w")  # noqa: SIM115  # held, shared, until the process ends
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._store.sweep()
        fcntl.flock(lock, fcntl.LOCK_SH)
        return lock

    def open(self, offers: Sequence[Offered]) -> Generation:
        """The last of them, copied here if it is not here yet; a base comes before its adapter. Raises NodeStale."""
        base: Generation | None = None
        for offered in offers:
            base = self._open(offered, base)
        assert base is not None, "a command is about a generation"
        return base

    def _open(self, offered: Offered, base: Generation | None) -> Generation:
        wanted = offered.generation
        found = self._store.open(wanted.digest)
        if found is not None:
            return found
        below = None
        if wanted.base is not None and wanted.manifest.lora is not None:
            assert base is not None, "the base is offered before its adapter"
            below = Base(ModelId.of(wanted.manifest.lora.base), base)
        seen: list[str] = []  # what there is in its place
        if wanted.place is None and os.path.isdir(wanted.path):  # a disk that the gateway shares
            try:
                found = self._store.adopt(wanted, below)
            except (Refused, OSError) as error:
                seen.append(_why(error))
            else:
                if found.digest == wanted.digest:
                    return found
                seen.append(found.digest[:12])
        for path in offered.sources:
            directory = source.find(self._root, ModelId.of(path))
            if directory is not None:
                found, other = self._taken(directory, wanted.digest, below)
                if found is not None:
                    return found
                seen.append(other)
        raise NodeStale(self._told(wanted, seen), retry_after=1.0, node=self._node, generation=wanted.short)

    def _taken(self, directory: Directory, wanted: str, base: Base | None) -> tuple[Generation | None, str]:
        """The directory's content if it has that digest; else what it is instead."""
        try:
            digest = self._store.digest(directory, self._root, base)  # other content is not worth a copy
            if digest != wanted:
                return None, digest[:12]
            found = self._store.accept(directory, self._root, base)
        except Changed:
            return None, "changing"
        except (Refused, OSError) as error:  # it is not whole there, or there is no room for it here
            return None, _why(error)
        return (found, "") if found.digest == wanted else (None, found.digest[:12])

    def _told(self, wanted: Generation, seen: Sequence[str]) -> str:
        what = f"node {self._node} does not have generation {wanted.short}"
        return f"{what}: it finds {'; '.join(sorted(set(seen)))}" if seen else f"{what}: it does not find the model"

    def prune(self, keep: Collection[str]) -> set[str]:
        """Removes what has not been wanted for SPARED seconds: `keep` is what is wanted now. -> what was removed."""
        gone = set()
        for digest in self._store.digests():
            folder = os.path.join(self._generations, digest)
            with contextlib.suppress(OSError):
                if digest in keep:
                    os.utime(folder)
                elif time.time() - os.stat(folder).st_mtime > SPARED:
                    self._store.remove(digest)
                    gone.add(digest)
        return gone


def _why(error: Refused | OSError) -> str:
    """Without paths of the node's: clients read it."""
    return str(error) if isinstance(error, Refused) else f"nothing that can be read: {error.strerror}"
