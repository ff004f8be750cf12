"""Adapters over one base: what sharing a call costs, and what swapping one at a time would, through HTTP.

The same load goes to the base alone, to adapters in turn that all are loaded, and to the same with a slot for one of
them. In one process, the same against peft.
"""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench import directories, swapping, texts
from bench.generator import drive, target
from bench.rounds import Measure, interleaved, told
from bench.servers import Gateway, gateway
from bench.setting import Setting

BASE: Final = "base/minilm"
COUNTS: Final = (2, 8, 32)
QUICK: Final = (32,)
CONNECTIONS: Final = 64
TOKENS: Final = 16
RANK: Final = 8
WIDTH: Final = 384
LAYERS: Final = 6
TENSORS: Final = 4 * RANK * (WIDTH + WIDTH) * 2 * LAYERS  # bytes: two factors of two layers of each block
VARIETY: Final = 16


def run(setting: Setting) -> dict[str, Any]:
    """Cells of `base`, `mixed` and `swapped`, and of one process; bytes of adapters, and of their tensors."""
    folder = setting.own("adapters")
    counts = QUICK if setting.quick else COUNTS
    names = published(folder / "models", max(counts))
    with gateway(folder, folder / "models", *setting.gateway_options, names=[BASE, *names]) as served:
        shared = {
            f"{count} adapters": {
                "base": measure(served, [BASE], setting),
                "mixed": measure(served, names[:count], setting),
            }
            for count in counts
        }
        cells = interleaved(shared, setting.rounds)
        size = _bytes(served, folder / "models", names)
        with beside(setting, folder / "models", "swapping", 1, [BASE, names[0]]) as other:
            sides = {"mixed": measure(served, names, setting), "swapped": measure(other, names, setting)}
            cells |= interleaved({"one at a time": sides}, setting.rounds)
    cells |= swapping.run(setting, folder / "models", BASE, names)
    return {"cells": cells, "bytes": size}


def beside(setting: Setting, models: Path, name: str, slots: int, names: list[str]) -> Any:
    """A gateway with so many slots for adapters."""
    folder = setting.own(name)
    return gateway(folder, models, *setting.gateway_options, f"--max-loaded-adapters={slots}", names=names)


def measure(served: Gateway, names: list[str], setting: Setting) -> Measure:
    aim = target(served.url, [texts.of_tokens(TOKENS, 1, seed) for seed in range(VARIETY)], "json", names)
    return partial(drive, aim, CONNECTIONS, setting.seconds, served)


def _bytes(served: Gateway, models: Path, names: list[str]) -> dict[str, int]:
    """On the device, and of the tensors in the files: the mean of those that are loaded."""
    listed = [served.listed(name) for name in names]
    loaded = [entry["bytes_on_device"] for entry in listed if entry["bytes_on_device"]]
    told(f"{len(loaded)} of {len(names)} adapters are loaded")
    return {"on_device": int(np.mean(loaded)), "tensors": TENSORS, "files": _size(models / names[0])}


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def published(models: Path, count: int) -> list[str]:
    """The base, and so many adapters over it of random factors; -> the names of these."""
    directories.publish(models, BASE)
    names = [f"tenants/number-{number}" for number in range(count)]
    for number, name in enumerate(names):
        _publish(models / name, number)
    return names


def _publish(path: Path, seed: int) -> None:
    from safetensors.numpy import save_file

    staged = path.with_name(f".{path.name}.staged")
    staged.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    tensors = {}
    for layer in range(LAYERS):
        for name in ("query", "value"):
            at = f"base_model.model.encoder.layer.{layer}.attention.self.{name}"
            tensors[f"{at}.lora_A.weight"] = (0.02 * generator.standard_normal((RANK, WIDTH))).astype(np.float32)
            tensors[f"{at}.lora_B.weight"] = (0.02 * generator.standard_normal((WIDTH, RANK))).astype(np.float32)
    save_file(tensors, staged / "adapter_model.safetensors", metadata={"format": "pt"})
    described = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": ["query", "value"]}
    described |= {"base_model_name_or_path": BASE, "task_type": "FEATURE_EXTRACTION"}
    (staged / "adapter_config.json").write_text(json.dumps(described), encoding="utf-8")
    os.rename(staged, path)
