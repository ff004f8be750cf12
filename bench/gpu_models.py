"""Models to measure: the real all-MiniLM-L6-v2, and random weights in the shapes of larger ones, made on the spot.

What a forward pass costs is counted from the shape: two operations for each weight and token, and four for each pair of
tokens that attend to one another and each number of their vectors. Embedding tables are read, and cost none.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from bench.directories import minilm
from gateway.model import Accepted, Generation
from gateway.volume.manifest import judge


@dataclass(frozen=True, slots=True)
class Shape:
    """`config` holds transformers' names; `family` is its model_type."""

    family: str
    config: dict[str, int]

    def flop(self, tokens: int) -> float:
        """Of one text of so many tokens."""
        config = self.config
        width, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
        heads = config["num_attention_heads"]
        head = config.get("head_dim", width // heads)
        keys = config.get("num_key_value_heads", heads)
        gated = 3 if self.family == "qwen3" else 2
        weights = width * head * (2 * heads + 2 * keys) + gated * width * inner
        attended = tokens * (tokens + 1) / 2 if self.family == "qwen3" else tokens * tokens  # a decoder looks back
        return layers * (2 * weights * tokens + 4 * attended * heads * head)


def _bert(width: int, layers: int, heads: int) -> Shape:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    return Shape("bert", sizes | {"intermediate_size": 4 * width})


QWEN: Final = {"hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8}
SHAPES: Final = {
    "minilm": _bert(384, 6, 12),
    "bge-base": _bert(768, 12, 12),
    "bge-large": _bert(1024, 24, 16),
    "qwen3-0.6b": Shape("qwen3", QWEN | {"head_dim": 128, "intermediate_size": 3072, "vocab_size": 151_936}),
}


def generation(name: str, folder: Path) -> Generation:
    """A directory of this model below `folder`, judged as the volume would. MiniLM is the real one."""
    path = minilm() if name == "minilm" else folder / name
    if name != "minilm" and not path.exists():
        _write(path, SHAPES[name])
    verdict = judge(str(path))
    assert isinstance(verdict, Accepted), verdict
    return Generation(digest=name.ljust(64, "0"), path=str(path), manifest=verdict.manifest)


def _write(path: Path, shape: Shape) -> None:
    """MiniLM's directory, with another network in it: its tokenizer serves for every vocabulary that is larger."""
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModel

    shutil.copytree(minilm(), path)
    path.chmod(0o755)
    config = AutoConfig.for_model(shape.family, **{"vocab_size": 30_522, "max_position_embeddings": 512} | shape.config)
    with torch.device("meta"):
        network = AutoModel.from_config(config)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: _drawn(name, tensor.shape, generator)
        for name, tensor in network.state_dict().items()
        if tensor.is_floating_point()
    }
    _replace(path / "model.safetensors")
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    described = config.to_dict() | {"architectures": [type(network).__name__], "dtype": "bfloat16"}
    _replace(path / "config.json").write_text(json.dumps(described), "utf-8")
    for file in path.glob("*_Pooling/config.json"):
        settings: dict[str, Any] = json.loads(file.read_text("utf-8"))
        key = next(key for key in settings if key.endswith("embedding_dimension"))
        _replace(file).write_text(json.dumps(settings | {key: shape.config["hidden_size"]}), "utf-8")


def _drawn(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """Norms near 1, as a trained network has them: numbers that grow from layer to layer would end as infinities."""
    noise = torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)
    return noise + 1 if len(shape) == 1 and name.endswith("weight") else noise


def _replace(file: Path) -> Path:
    """The package's files are read-only, and so are copies of them."""
    file.parent.chmod(0o755)
    file.unlink(missing_ok=True)
    return file
