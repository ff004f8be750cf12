"""Which model an adapter was trained on: told by what was written with it, never by a path alone.

peft writes down the path that its base was loaded from, on the machine that trained. Our own metadata says what the
base was called and what its weights were, so that another model of that name is not taken for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from trainer import metadata
from trainer.contents import read_json
from trainer.errors import InvalidInput, NotAModel

ADAPTER: Final = "adapter_config.json"
LINEAGE: Final = "lineage.json"
SETTINGS: Final = "resolved_config.json"
LEVELS: Final = 3  # folders above an adapter that its base is looked for in: namespace, volume, run


def find_base(adapter: Path, given: Path | None = None) -> Path:
    """The base's directory: `given`, else the first place that has one. Raises InvalidInput where none has, or where
    its weights are not those that the adapter was trained on."""
    told = _told(adapter)
    digest = _text(told, "digest")
    if given is not None:
        return _demand(_directory(given), digest, adapter)
    places = [place for place in dict.fromkeys(_places(adapter, told)) if (place / "config.json").is_file()]
    places += [place for place in dict.fromkeys(_places(adapter, told)) if (place / "modules.json").is_file()]
    for place in places:
        if not digest or metadata.weights_digest(place) == digest:
            return place
    if places:
        return _demand(places[0], digest, adapter)
    name = _text(told, "name") or _text(read_json(adapter / ADAPTER), "base_model_name_or_path") or "its base"
    raise InvalidInput(f"{adapter}: its base {name} was not found on this machine; --base DIR says where it is")


def _demand(base: Path, digest: str, adapter: Path) -> Path:
    if digest and (found := metadata.weights_digest(base)) != digest:
        raise InvalidInput(
            f"{base}: not the model that {adapter} was trained on: its weights have the digest {found[:12]}, "
            f"and {digest[:12]} was written down"
        )
    return base


def _directory(given: Path) -> Path:
    if not given.is_dir():
        raise NotAModel(f"{given}: no such directory")
    return given


def _places(adapter: Path, told: Mapping[str, Any]) -> Iterator[Path]:
    named = _text(read_json(adapter / ADAPTER), "base_model_name_or_path")
    for spelling in filter(None, (_text(told, "path"), named, _of_run(adapter))):
        yield from (Path(spelling), adapter / spelling)
    for name in filter(None, (_text(told, "name"), Path(named).name if named else "")):
        for folder in list(adapter.resolve().parents)[:LEVELS]:
            yield from (folder / "base" / name, folder / name)


def _told(adapter: Path) -> Mapping[str, Any]:
    """`name`, `digest` and perhaps `path` of the base: beside the adapter, or in the run that it is a part of."""
    fields = metadata.read(adapter)
    lineage = adapter.parent / LINEAGE
    run = read_json(lineage) if lineage.is_file() else {}
    for document in (fields, run):
        base = document.get("base") if isinstance(document, dict) else None
        if isinstance(base, dict):
            return base
    return {"name": fields.get("base_model"), "digest": fields.get("base_digest")}


def _of_run(adapter: Path) -> str:
    """The base as the run was told, of which the adapter is a part."""
    settings = adapter.resolve().parent / SETTINGS
    found = read_json(settings) if settings.is_file() else {}
    return _text(found.get("config") if isinstance(found, dict) else None, "base_model")


def _text(fields: Any, key: str) -> str:
    value = fields.get(key) if isinstance(fields, dict) else None
    return value if isinstance(value, str) else ""
