"""Merge: an adapter and its base become one plain float32 model, which needs neither of them any more.

What comes out is believed only when it answers as the adapter did, and, loaded anew by another process, exactly as it
did in memory. It is never made from a quantized base: what the base lost would be lost for good.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from trainer import golden, metadata, quiet, reload
from trainer.bases import ADAPTER, find_base
from trainer.contents import CONFIGS, model_files, read_json
from trainer.errors import InvalidInput, NotAModel, QualityGate
from trainer.output import staged
from trainer.proof import speaks

CLOSE: Final = 1e-6  # of a unit vector's numbers; measured: 2e-7
OF_TOKENIZER: Final = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
NEVER_TAKEN: Final = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
    metadata.FILE,
    "README.md",
)
Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Merged:
    """`difference` is the largest of any number of a vector, merged beside adapted."""

    path: Path
    base: Path
    difference: float


def merge(adapter_dir: Path, base_dir: Path, out: Path) -> Path:
    """Writes the merged model to `out`, which must not be there yet. Raises as `join` does."""
    return join(adapter_dir, out, base_dir).path


def join(adapter: Path, out: Path, base: Path | None = None, *, overwrite: bool = False) -> Merged:
    """Merges and proves it. Raises InvalidInput for what is no adapter or not its base, QualityGate where the merged
    model does not answer as the adapter does; nothing is left then."""
    _check_adapter(adapter)
    found = find_base(adapter, base)
    _check_base(found)
    if speaks(adapter):
        return _join_speaking(adapter, found, out, overwrite)
    with staged(out, overwrite=overwrite) as stage:
        adapted, merged = _merge(adapter, found, stage)
        difference = _difference(adapted, merged)
        metadata.write(stage, _described(adapter, found))
        again = reload.vectors(stage, golden.TEXTS)
        if not np.array_equal(again, merged):
            worst = float(np.abs(again - merged).max()) if again.shape == merged.shape else float("inf")
            raise QualityGate(f"{out}: loaded anew it answers otherwise than in memory, by up to {worst:.1e}")
    return Merged(out, found, difference)


def _join_speaking(adapter: Path, base: Path, out: Path, overwrite: bool) -> Merged:
    """Of a language model."""
    from trainer.language import golden as answers  # noqa: PLC0415  what an encoder does not need
    from trainer.language import merging  # noqa: PLC0415

    with staged(out, overwrite=overwrite) as stage:
        spoken, difference = merging.merge(adapter, base, stage)
        metadata.write(stage, {**_described(adapter, base), answers.KEY: spoken.to_json()})
    return Merged(out, base, difference)


def _merge(adapter: Path, base: Path, stage: Path) -> tuple[Matrix, Matrix]:
    """Saves to `stage`; -> the vectors before and after the merge."""
    quiet.libraries()
    from peft import PeftModel  # noqa: PLC0415  seconds

    with tempfile.TemporaryDirectory() as folder:
        assembled = _assembled(adapter, base, Path(folder))
        model = reload.load(assembled, "cpu")
        try:
            wrapped = PeftModel.from_pretrained(model.transformers_model, str(adapter))  # edits it in place
            adapted = reload.encode(model, golden.TEXTS)
            wrapped.merge_and_unload(safe_merge=True)
        except (ValueError, RuntimeError, KeyError) as error:  # peft has no list of what it raises
            raise InvalidInput(f"{adapter}: peft cannot merge it into {base}: {quiet.one_line(error)}") from error
        golden.check(adapted, golden.TEXTS)
        merged = reload.encode(model, golden.TEXTS)
        model.save_pretrained(str(stage), create_model_card=False)
    return adapted, merged


def _difference(adapted: Matrix, merged: Matrix) -> float:
    length = max(1.0, float(np.linalg.norm(adapted, axis=1).max()))
    found = float(np.abs(adapted - merged).max()) / length
    if not found <= CLOSE:  # not a number is no success
        raise QualityGate(f"merged, the model answers otherwise than with its adapter: by up to {found:.1e}")
    return found


def _check_adapter(adapter: Path) -> None:
    if not adapter.is_dir():
        raise NotAModel(f"{adapter}: no such directory")
    if not (adapter / ADAPTER).is_file():
        hint = ": it is a whole model already" if any((adapter / name).is_file() for name in CONFIGS) else ""
        raise NotAModel(f"{adapter}: not an adapter: {ADAPTER} is missing{hint}")
    config = read_json(adapter / ADAPTER)
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise InvalidInput(f"{adapter}: an adapter of the kind {kind!r}; LoRA alone can be merged")


def _check_base(base: Path) -> None:
    config = base / transformer_folder(base) / "config.json"
    if not config.is_file():
        raise NotAModel(f"{base}: not a model: {config.name} is missing")
    fields = read_json(config)
    if isinstance(fields, dict) and fields.get("quantization_config"):
        raise InvalidInput(f"{base}: a quantized base; merge into the float32 model that it was made from")


def transformer_folder(model: Path) -> PurePosixPath:
    """Where the transformer of a sentence-transformers directory lies, relative to it."""
    listing = model / "modules.json"
    modules = read_json(listing) if listing.is_file() else []
    first = modules[0] if isinstance(modules, list) and modules and isinstance(modules[0], dict) else {}
    return PurePosixPath(str(first.get("path") or ""))


def _assembled(adapter: Path, base: Path, folder: Path) -> Path:
    """The base with what the adapter brings of its own: its modules, its settings, its tokenizer. Links, no copies."""
    ours = (adapter / "modules.json").is_file()
    source = transformer_folder(base)
    target = transformer_folder(adapter) if ours else source
    chosen: dict[PurePosixPath, Path] = {}
    for path in model_files(base):
        if path.is_relative_to(source) and (str(source) != "." or len(path.parts) == 1):
            chosen[target / path.relative_to(source)] = base / path
        elif not ours:
            chosen[path] = base / path
    if ours:  # the settings of its own chain stand in for those of the base's
        chosen = {path: file for path, file in chosen.items() if path.name != "modules.json"}
    for path in model_files(adapter):
        if path.name not in NEVER_TAKEN and (ours or path.name in OF_TOKENIZER):
            chosen[path if ours else target / path] = adapter / path
    chosen.pop(PurePosixPath(metadata.FILE), None)
    for path, file in chosen.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(file.resolve(), folder / path)
    return folder


def _described(adapter: Path, base: Path) -> dict[str, Any]:
    """What is known of the adapter goes on with the model; its golden vectors are checked by whoever publishes."""
    described = metadata.read(adapter)
    described.setdefault("base_model", metadata.logical_name(str(base)))
    return described | {"base": {"name": described["base_model"], "digest": metadata.weights_digest(base)}}
