"""How a model of the catalog is shown: every field that `GET /models` has, documented in docs/api.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from gateway.catalog.entry import Entry, Version, rank
from gateway.engine.engine import Residence
from gateway.model import Reason, metadata_display_name
from gateway.volume import reasons

STATES: Final = ("copying", "waiting_for_base", "rejected", "ready", "loading", "loaded", "draining")
TRAINING: Final = ("training_date", "scores", "base_model", "base", "data", "seed", "seeds", "versions", "gate")
PENDING: Final = ("copying", "loading", "rejected")


def show(
    entry: Entry, residences: Mapping[str, Sequence[Residence]], quarantine: float | None = None
) -> dict[str, Any]:
    """One model as `GET /models` has it. Bytes in bytes, times in Unix seconds, `quarantine` in seconds left."""
    held = residences.get(entry.live.digest, ()) if entry.live else ()
    manifest = entry.live.manifest if entry.live else None
    source = entry.source
    directory = source.directory if source else None
    metadata = source.metadata if source else {}
    loaded = [residence for residence in held if residence.state == "loaded"]
    numerics = next((residence.numerics for residence in loaded if residence.numerics), None)
    return {
        "id": str(entry.model),
        "namespace": entry.model.namespace,
        "name": entry.model.name,
        "display_name": metadata_display_name(metadata, entry.model),
        "path": directory.path if directory else None,
        "inode": directory.inode if directory else None,
        "state": _state(entry, held),
        "generation": entry.live.short if entry.live else None,
        "since": entry.serving.since if entry.serving else None,
        "version": entry.serving.version if entry.serving else None,
        "versions": _versions(entry),
        "previous": [kept.generation.short for kept in entry.earlier],
        "previous_breaking": entry.breaking,
        "rolled_back_from": sorted(digest[:12] for digest in entry.held),
        "reasons": msgspec.to_builtins(_reasons(entry, held)),
        "pending": _pending(entry),
        "warnings": [*_warnings(source), *(manifest.warnings if manifest else ())],
        "load_error": entry.load_error or None,
        "quarantine": None if quarantine is None else round(quarantine, 1),
        "kind": manifest.kind if manifest else None,
        "base": manifest.lora.base if manifest and manifest.lora else None,
        "base_generation": entry.live.base.short if entry.live and entry.live.base else None,
        "dim": manifest.dim if manifest else None,
        "max_tokens": manifest.max_tokens if manifest else None,
        "normalized": manifest.normalized if manifest else None,
        "library": manifest.library if manifest else None,
        "bytes_on_disk": directory.bytes if directory else None,
        "files": len(directory.files) if directory else None,
        "bytes_on_device": sum(residence.bytes for residence in loaded),
        "bytes_parked": sum(residence.bytes for residence in held if residence.state == "parked"),
        "devices": [residence.device for residence in loaded],
        "load": _load(entry, held, residences),
        "runtime": numerics.runtime if numerics else None,
        "dtype": numerics.dtype if numerics else None,
        "precision": msgspec.to_builtins(numerics.precision) if numerics else None,
        "fell_back": (numerics.fell_back or None) if numerics else None,
        "last_used": max((residence.last_used for residence in held), default=None),
        "pinned": entry.pinned,
        "metadata": metadata,
    }


def trained(entry: Entry) -> dict[str, Any] | None:
    """What a model's metadata says of its training; None where it says nothing of it."""
    metadata = entry.source.metadata if entry.source else {}
    told: dict[str, Any] = {key: metadata[key] for key in TRAINING if key in metadata}
    if entry.live is None or not told:
        return None
    names = {"id": str(entry.model), "display_name": metadata_display_name(metadata, entry.model)}
    return {**names, "generation": entry.live.short, **told}


def count(
    entries: Iterable[Entry], residences: Mapping[str, Sequence[Residence]]
) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """How many models are in each state, and for how many of those that are served something newer waits."""
    states, pending = Counter(dict.fromkeys(STATES, 0)), Counter(dict.fromkeys(PENDING, 0))
    for entry in entries:
        states[_state(entry, residences.get(entry.live.digest, ()) if entry.live else ())] += 1
        if entry.live is not None and (waits := _pending(entry)):
            pending[waits["state"]] += 1
    return states, pending


def _state(entry: Entry, held: Sequence[Residence]) -> str:
    if entry.live is None:
        return _state_of(entry.newest) if entry.newest else "copying"
    states = {residence.state for residence in held}
    for state, shown in (("loaded", "loaded"), ("loading", "loading"), ("waiting", "loading")):
        if state in states:
            return shown
    return "draining" if "leaving" in states else "ready"


def _load(
    entry: Entry, held: Sequence[Residence], residences: Mapping[str, Sequence[Residence]]
) -> dict[str, Any] | None:
    """How far a load is, of the live generation or of the one that will replace it."""
    successor = residences.get(entry.successor.digest, ()) if entry.successor else ()
    found = next((each for each in (*successor, *held) if each.state in {"waiting", "loading"}), None)
    if found is None:
        return None
    return {"device": found.device, "state": found.state, "seconds_left": round(found.seconds_left, 1)}


def _state_of(version: Version) -> str:
    """Of one directory: whether it could be served."""
    if version.waits_for_base and not version.waiting:
        return "waiting_for_base"
    if version.copying:
        return "copying"
    if version.reasons:
        return "rejected"
    return "ready" if version.content else "copying"


def _reasons(entry: Entry, held: Sequence[Residence]) -> tuple[Reason, ...]:
    """Why the newest content is not served; or, when it should be, why it could not be loaded."""
    newest = entry.newest
    if newest and newest.reasons:
        return newest.reasons
    if elsewhere := tuple(residence.reason for residence in held if residence.reason):
        return elsewhere
    return (reasons.reason("load_failed", entry.load_error),) if entry.load_error else ()


def _pending(entry: Entry) -> dict[str, Any] | None:
    """What the directories hold that is newer than what is served."""
    newest = entry.newest
    if entry.copying:
        waiting = next((version.waiting for version in entry.versions.values() if version.waiting), "")
        return {"state": "loading" if entry.successor else "copying", "why": waiting or "it is being checked"}
    if entry.live is not None and newest and newest.reasons:
        return {"state": "rejected", "why": newest.reasons[0].message}
    return None


def _warnings(version: Version | None) -> list[str]:
    return [f"{warning.message} ({warning.remedy})" for warning in version.warnings] if version else []


def _versions(entry: Entry) -> list[dict[str, Any]]:
    """Numbered directories, the newest first; a model without numbers has none."""
    numbered = [version for version in entry.versions.values() if version.number is not None]
    return [
        {
            "version": version.number,
            "path": version.directory.path if version.directory else None,
            "state": _state_of(version) if version.content or version.copying or version.reasons else "not_kept",
            "generation": version.content.generation.short if version.content else None,
            "live": entry.serving is not None and version.content == entry.serving,
            "reasons": msgspec.to_builtins(version.reasons),
        }
        for version in sorted(numbered, key=lambda version: rank(version.number), reverse=True)
    ]
