"""What changed between two generations of a model: files, what the directory says it is, and what was said of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import orjson

from gateway.catalog.entry import Kept, breaks
from gateway.volume.record import Record, StoredFile

UNTOLD: Final = frozenset({"files", "weights", "samples"})  # of a manifest: told as files, or of no interest
APART: Final = ("scores", "golden")  # of the metadata: told by themselves, or too long to be told
LINEAGE: Final = ("base_model", "base", "data", "seed", "seeds", "versions", "training_date")
LONGEST: Final = 4096  # bytes of a value that is shown
MOST: Final = 200  # keys


class Side(msgspec.Struct, frozen=True):
    """A generation, its record in the store, and the metadata that it came with, if that is known."""

    kept: Kept
    record: Record
    metadata: dict[str, Any]
    serving: Kept | None = None


def lasting(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a generation's metadata: all but the vectors that it was held to."""
    return {key: value for key, value in metadata.items() if key != "golden"}


def changes(before: Side, after: Side) -> dict[str, Any]:
    """Bytes in bytes, times in Unix seconds; `breaking`: indexes built with one are void for the other."""
    return {
        "from": _head(before),
        "to": _head(after),
        "breaking": breaks(before.kept.generation, after.kept.generation),
        "files": _files(before.record.files, after.record.files),
        "manifest": _differences(_manifest(before), _manifest(after)),
        "metadata": _differences(_told(before.metadata), _told(after.metadata)),
        "lineage": _differences(_lineage(before.metadata), _lineage(after.metadata)),
        "scores": {"from": _shown(before.metadata.get("scores")), "to": _shown(after.metadata.get("scores"))},
    }


def known(kept: Kept, serving: Kept | None) -> dict[str, Any]:
    """A generation that there is."""
    live = serving is not None and serving.digest == kept.digest
    return {"generation": kept.generation.short, "since": kept.since, "version": kept.version, "live": live}


def _head(side: Side) -> dict[str, Any]:
    base = side.kept.generation.base
    return {
        **known(side.kept, side.serving),
        "digest": side.kept.digest,
        "bytes": sum(file.size for file in side.record.files),
        "base_generation": base.short if base else None,
        "metadata_known": bool(side.metadata),
    }


def _files(before: tuple[StoredFile, ...], after: tuple[StoredFile, ...]) -> dict[str, Any]:
    old, new = ({file.path: file for file in files} for files in (before, after))
    both = sorted(old.keys() & new.keys())
    same = [path for path in both if old[path].sha256 == new[path].sha256]
    return {
        "added": [_file(new[path]) for path in sorted(new.keys() - old.keys())],
        "removed": [_file(old[path]) for path in sorted(old.keys() - new.keys())],
        "changed": [
            {"path": _text(path), "from": _content(old[path]), "to": _content(new[path])}
            for path in both
            if old[path].sha256 != new[path].sha256
        ],
        "same": len(same),
        "same_bytes": sum(new[path].size for path in same),
    }


def _file(file: StoredFile) -> dict[str, Any]:
    return {"path": _text(file.path), **_content(file)}


def _content(file: StoredFile) -> dict[str, Any]:
    return {"bytes": file.size, "sha256": file.sha256}


def _text(path: str) -> str:
    return path.encode(errors="backslashreplace").decode()


def _manifest(side: Side) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(side.record.manifest)
    return {key: value for key, value in fields.items() if key not in UNTOLD}


def _told(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metadata.items() if key not in APART and key not in LINEAGE}


def _lineage(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {key: metadata[key] for key in LINEAGE if key in metadata}


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of objects the keys that differ, one level down too: `prompts.query` says more than `prompts`."""
    old, new = _flat(before), _flat(after)
    keys = [*old, *(key for key in new if key not in old)]
    found = [key for key in keys if old.get(key) != new.get(key)]
    return [{"key": key, "from": _shown(old.get(key)), "to": _shown(new.get(key))} for key in found[:MOST]]


def _flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in fields.items():
        if isinstance(value, dict) and value:
            flat |= {f"{key}.{inner}": each for inner, each in value.items()}
        else:
            flat[key] = value
    return flat


def _shown(value: Any) -> Any:
    """What is too long is told by its size."""
    size = len(orjson.dumps(value, default=str))
    return value if size <= LONGEST else {"bytes": size}
