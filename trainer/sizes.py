"""What a model takes on the disk, and how much of it is the table of word vectors."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trainer.openvino_files import BIN, FOLDER

TABLE: Final = re.compile(r"(?:^|\.)(?:word_embeddings|tok_embeddings|embed_tokens|shared)\.weight$")


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of weights before and after; numbers of the model before, and of those in its table of word vectors."""

    before: int
    after: int
    parameters: int
    embedding: int


def sizes(source: Path, made: Path) -> Sizes:
    parameters, embedding = _numbers(source)
    return Sizes(_weights(source), _weights(made), parameters, embedding)


def _weights(directory: Path) -> int:
    files = [*directory.rglob("*.safetensors"), directory / FOLDER / BIN]
    ours = [path for path in files if path.is_file() and (path.suffix != ".bin" or not _has_safetensors(directory))]
    return sum(path.stat().st_size for path in ours)


def _has_safetensors(directory: Path) -> bool:
    return any(directory.glob("*.safetensors"))


def _numbers(directory: Path) -> tuple[int, int]:
    from safetensors import safe_open  # noqa: PLC0415  numpy

    parameters = embedding = 0
    for path in directory.rglob("*.safetensors"):
        with safe_open(str(path), framework="numpy") as held:
            for name in held.keys():  # noqa: SIM118  no mapping
                count = math.prod(held.get_slice(name).get_shape())
                parameters += count
                embedding += count if TABLE.search(name) else 0
    return parameters, embedding
