"""Adapters as peft trains and saves them, over the bases of `making`, and what sentence-transformers makes of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gateway.model import Accepted, Generation, ModelId
from gateway.volume.bases import Base
from gateway.volume.manifest import judge

Vectors = npt.NDArray[np.float32]


def lora(path: str | os.PathLike[str], base: str, *, seed: int = 1, names: str = "", **config: Any) -> str:
    """Writes an adapter of peft's over the model in `base`, of random factors; `config` is LoraConfig's. The base is
    said to be `names`, or else its path."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    options: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["query", "value"], "lora_dropout": 0.0}
    torch.manual_seed(seed)
    network = AutoModel.from_pretrained(base)
    model = get_peft_model(network, LoraConfig(**(options | config)))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            elif "magnitude" in name:
                parameter.mul_(1 + 0.3 * torch.randn(parameter.shape, generator=generator))
    for each in model.peft_config.values():
        each.base_model_name_or_path = names or base
    model.save_pretrained(os.fspath(path))
    _readable(path)
    return os.fspath(path)


def library(path: str | os.PathLike[str], base: str, *, seed: int = 1, **config: Any) -> str:
    """The same, saved by sentence-transformers with its modules and its tokenizer."""
    from sentence_transformers import SentenceTransformer

    source = lora(f"{os.fspath(path)}.peft", base, seed=seed, **config)
    model = SentenceTransformer(base, device="cpu")
    model.load_adapter(source)
    model.save(os.fspath(path))
    shutil.rmtree(source)
    _readable(path)
    return os.fspath(path)


def reference(base: str, adapter: str, texts: Sequence[str], *, merged: bool = False) -> Vectors:
    """sentence-transformers' vectors with that adapter; or with peft's own merge of it into the base's weights, which
    knows DoRA, whose magnitudes are lost where transformers 5.23 loads an adapter."""
    from peft import PeftModel
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel

    model = SentenceTransformer(base, device="cpu")
    if merged:
        whole = PeftModel.from_pretrained(AutoModel.from_pretrained(base), adapter).merge_and_unload()
        model[0].auto_model.load_state_dict(whole.state_dict())
    else:
        model.load_adapter(adapter)
    found: Vectors = model.encode(list(texts), convert_to_numpy=True)
    return found


def generation(path: str, base: Generation, digest: str = "a" * 64) -> Generation:
    """What the volume makes of an adapter over a base that was taken in."""
    verdict = judge(path, base=Base(ModelId("base", "b"), base), allow_pickle=True)
    assert isinstance(verdict, Accepted), verdict
    return Generation(digest=digest, path=path, manifest=verdict.manifest, base=base)


def lowest_cosine(ours: Vectors, theirs: Vectors) -> float:
    ours, theirs = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (ours, theirs))
    return float((ours * theirs).sum(axis=1).min())


def _readable(path: str | os.PathLike[str]) -> None:
    for folder, _, files in os.walk(path):
        for name in files:
            os.chmod(os.path.join(folder, name), 0o644)  # safetensors writes 0600
