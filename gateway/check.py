"""`gateway check DIR`: the gateway's own judge, for a directory on your disk."""

from __future__ import annotations

import os
import sys

import msgspec

from gateway.model import Accepted, Generation, Manifest, ModelId, Normalize, Pooling, Rejected, Verdict
from gateway.volume.adapters import references
from gateway.volume.bases import Base, search
from gateway.volume.directory import Directory, read
from gateway.volume.files import Folder
from gateway.volume.manifest import judge
from gateway.volume.metadata import read_metadata, read_wish
from gateway.volume.sums import Sums


def run(directory: str, *, allow_pickle: bool, as_json: bool, bases: str | None = None) -> int:
    """Prints the verdict. `bases` is a models root where the base of an adapter is looked for.

    Exit status: 0 it would be served, 1 it would be rejected, 2 there is no such directory.
    """
    if not os.path.isdir(directory):
        print(f"gateway: {directory} is not a directory", file=sys.stderr)
        return 2
    path = os.path.realpath(directory)
    seen = read(ModelId(None, os.path.basename(path)), path, path)
    if seen is None:  # it went while we looked
        return 2
    verdict = _verdict(seen, allow_pickle, bases)
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(verdict), indent=2).decode() + "\n")
    elif isinstance(verdict, Accepted):
        _show(verdict.manifest)
    if isinstance(verdict, Rejected) and not as_json:
        _explain(verdict)
    metadata, trouble = read_metadata(directory, directory)
    _, doubtful = read_wish(metadata)
    for warning in (trouble, doubtful):
        if warning and not as_json:
            print(f"warning  {warning.code}: {warning.message}\n         {warning.remedy}")
    if seen.in_progress and not as_json:
        print(f"warning  {seen.in_progress} is a name of a copy in progress: a gateway waits until it has gone")
    return 0 if isinstance(verdict, Accepted) else 1


def _verdict(seen: Directory, allow_pickle: bool, bases: str | None) -> Verdict:
    """What the gateway would say of the directory once it has settled: its SHA256SUMS counts too."""
    if seen.error:
        return Rejected((seen.error,))
    verdict = judge(seen.path, allow_pickle=allow_pickle, base=_base(seen.path, allow_pickle, bases))
    mismatch = Sums(seen.path).check(seen).reason
    if mismatch is None:
        return verdict
    return Rejected((*(verdict.reasons if isinstance(verdict, Rejected) else ()), mismatch))


def _base(path: str, allow_pickle: bool, bases: str | None) -> Base | None:
    """That of an adapter, if it is there and fit to be served."""
    found = search(references(Folder(path, path)), bases) if bases else None
    verdict = judge(found.directory.path, root=bases, allow_pickle=allow_pickle) if found else None
    if found is None or not isinstance(verdict, Accepted):
        return None
    return Base(found.model, Generation(digest="", path=found.directory.path, manifest=verdict.manifest))


def _show(manifest: Manifest) -> None:
    pooling = next((stage for stage in manifest.stages if isinstance(stage, Pooling)), None)
    steps = [type(stage).__name__ for stage in manifest.stages if not isinstance(stage, Pooling | Normalize)]
    print("accepted")
    for name, value in {
        "kind": f"{manifest.kind} ({manifest.library})",
        "base": manifest.lora.base if manifest.lora else None,
        "model": f"{manifest.architecture}, {manifest.parameters / 1e6:.1f} million parameters",
        "vectors": _vectors(manifest) if manifest.kind == "encoder" else None,
        "scores": manifest.activation if manifest.kind == "reranker" else None,
        "pooling": ", ".join((*pooling.modes, *steps) if pooling else steps) or None,
        "longest text": f"{manifest.max_tokens} tokens",
        "weights": f"{manifest.stored_bytes / 1e6:.1f} MB {manifest.stored_dtype} in {', '.join(manifest.weights)}",
        "on a device": f"{manifest.parameters * 4 / 1e6:.1f} MB in float32",
        "wishes": " ".join(filter(None, (manifest.wish.runtime, manifest.wish.dtype))) or None,
        "prompts": ", ".join(sorted(manifest.prompts)) or None,
    }.items():
        if value:
            print(f"  {name:<13} {value}")
    for warning in manifest.warnings:
        print(f"warning  {warning}")


def _vectors(manifest: Manifest) -> str:
    return f"{manifest.dim} numbers{', unit length' if manifest.normalized else ''}"


def _explain(verdict: Rejected) -> None:
    print("rejected")
    for reason in verdict.reasons:
        where = f" [{reason.file}]" if reason.file and reason.file not in reason.message else ""
        print(f"  {reason.code} ({reason.kind}){where}: {reason.message}\n    remedy: {reason.remedy}")
