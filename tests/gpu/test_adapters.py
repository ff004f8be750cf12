"""On a GPU: adapters change rows of a call that they share as they do on the CPU, however the call gets there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gateway.host import adapted, encoder
from gateway.host.encoder import Dtype
from gateway.host.tokenize import Tokenizer
from tests import adapting, making
from tests.host.test_adapters import Base

TEXTS = ["the beam is in the storage ring", "laser", "photon " * 30, "a", "x-ray light source", "beam magnet tune"]


@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.99999), ("bfloat16", 0.999)])
@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_texts_of_several_adapters_in_one_call_have_the_vectors_of_the_cpu(
    family: str, dtype: Dtype, least: float, tmp_path: Path, device: str
) -> None:
    targets = {"bert": ["query", "value", "dense"], "mpnet": ["q", "v", "dense"]}[family]
    base = Base(making.encoder(tmp_path / "base", family=family, dim=64))
    paths = [
        adapting.lora(tmp_path / "a", base.path, seed=1, target_modules=targets),
        adapting.lora(tmp_path / "b", base.path, seed=2, r=7, target_modules=targets[:1]),
        adapting.lora(tmp_path / "c", base.path, seed=3, target_modules=targets, use_dora=True),
    ]
    a, b, c = (base.adapter(path) for path in paths)
    wanted = base.vectors(TEXTS, [a, None, b, c, a, c])
    rows = Tokenizer(base.generation).encode(TEXTS)
    there = encoder.load(base.generation, device, dtype)
    for each in (a, b, c):
        each.place(device)
        each.lora.to(device, there.dtype)
    found = adapted.embed(there, rows, [0] * len(rows), [a, None, b, c, a, c])
    assert adapting.lowest_cosine(found, wanted) >= least
    assert np.isfinite(found).all()
    there.close()
