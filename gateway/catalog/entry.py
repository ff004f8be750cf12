"""One model of the catalog, and how it is shown."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gateway.engine.engine import Residence
from gateway.model import Generation, ModelId, Reason, metadata_display_name
from gateway.volume.directory import Directory


class Entry:
    """One model. `live` is what is served; everything else is about the directory's newest content."""

    def __init__(self, model: ModelId) -> None:
        self.model = model
        self.live: Generation | None = None
        self.previous: tuple[str, ...] = ()  # digests, newest first
        self.pinned = False
        self.directory: Directory | None = None
        self.accepted: Directory | None = None  # the directory as it was when `live` was copied from it
        self.fingerprint = ""  # of the content that was judged last
        self.inode: int | None = None  # of the directory that `live` came from
        self.waiting = ""  # why the newest content is not judged yet
        self.judging: asyncio.Task[None] | None = None
        self.successor: Generation | None = None  # being loaded beside `live`
        self.reasons: tuple[Reason, ...] = ()  # why the newest content is not served
        self.warnings: tuple[Reason, ...] = ()
        self.metadata: dict[str, Any] = {}
        self.load_error = ""
        self.retry_at: float | None = None  # monotonic: when to judge the same content again
        self.retry_wait = 0.0
        self.seen = time.time()

    def __repr__(self) -> str:
        return f"<{self.model.path} live={self.live and self.live.short} {self.waiting or self.reasons}>"

    @property
    def copying(self) -> bool:
        return bool(self.waiting) or self.judging is not None

    @property
    def unconfirmed(self) -> bool:
        """Whether `live` is known from an earlier run alone: its directory has not been seen since."""
        return self.live is not None and self.accepted is None


def show(entry: Entry, residences: Mapping[str, Sequence[Residence]]) -> dict[str, Any]:
    """One model as `GET /models` has it. Bytes in bytes, times in Unix seconds."""
    held = residences.get(entry.live.digest, ()) if entry.live else ()
    manifest = entry.live.manifest if entry.live else None
    directory = entry.directory
    loaded = [residence for residence in held if residence.state == "loaded"]
    return {
        "id": str(entry.model),
        "namespace": entry.model.namespace,
        "name": entry.model.name,
        "display_name": metadata_display_name(entry.metadata, entry.model),
        "path": directory.path if directory else None,
        "state": _state(entry, held),
        "generation": entry.live.short if entry.live else None,
        "previous": [digest[:12] for digest in entry.previous],
        "reasons": msgspec.to_builtins(entry.reasons),
        "pending": _pending(entry),
        "warnings": [*(f"{w.message} ({w.remedy})" for w in entry.warnings), *(manifest.warnings if manifest else ())],
        "load_error": entry.load_error or None,
        "kind": manifest.kind if manifest else None,
        "dim": manifest.dim if manifest else None,
        "max_tokens": manifest.max_tokens if manifest else None,
        "normalized": manifest.normalized if manifest else None,
        "library": manifest.library if manifest else None,
        "bytes_on_disk": directory.bytes if directory else None,
        "files": len(directory.files) if directory else None,
        "bytes_on_device": sum(residence.bytes for residence in loaded),
        "devices": [residence.device for residence in loaded],
        "last_used": max((residence.last_used for residence in held), default=None),
        "pinned": entry.pinned,
        "metadata": entry.metadata,
    }


def _state(entry: Entry, held: Sequence[Residence]) -> str:
    if entry.live is None:
        return "rejected" if entry.reasons and not entry.copying else "copying"
    states = {residence.state for residence in held}
    for state, shown in (("loaded", "loaded"), ("loading", "loading"), ("waiting", "loading")):
        if state in states:
            return shown
    return "draining" if "leaving" in states else "ready"


def _pending(entry: Entry) -> dict[str, Any] | None:
    """What the directory holds that is newer than what is served."""
    if entry.copying:
        return {"state": "loading" if entry.successor else "copying", "why": entry.waiting or "it is being checked"}
    if entry.live is not None and entry.reasons:
        return {"state": "rejected", "why": entry.reasons[0].message}
    return None


def breaks(old: Generation, new: Generation) -> bool:
    """Whether indexes built with the old generation's vectors are void for more than their weights."""
    return (old.manifest.dim, old.manifest.stages) != (new.manifest.dim, new.manifest.stages)
