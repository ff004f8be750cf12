"""Every form that the trainer writes is served as it was measured; whatever is wished, and alone or in a batch."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from gateway.errors import LoadFailed
from gateway.host import encoder, runtimes
from gateway.host.tokenize import Tokenizer
from gateway.volume.manifest import judge
from gateway.wish import Wish
from tests import making
from trainer import forms, reload

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("bitsandbytes", "accelerate", "torchao", "openvino", "nncf"))),
    reason="pip install 'dropgate[train]': it quantizes",
)
TEXTS = ["the beam is in the storage ring", "laser", "photon " * 20, "x-ray light source", "a poem about leaves"]
RUNTIMES = {"bnb-int8": "torch", "bnb-nf4": "torch", "torchao-int8": "torch", "openvino-int8": "openvino"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("made")
    making.encoder(base / "plain", dim=64, dense=16)
    for name in RUNTIMES:
        (base / name).mkdir()
        forms.write(forms.named(name), base / "plain", base / name)
    return base


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


@pytest.mark.parametrize("form", RUNTIMES)
def test_the_gateway_answers_as_the_trainer_measured(form: str, made: Path) -> None:
    generation = making.generation(str(made / form))
    chosen = runtimes.load(generation, Wish(), "cpu")
    assert chosen.numerics.runtime == RUNTIMES[form]
    tokenizer = Tokenizer(generation)
    encoder.probe(chosen.runtime, tokenizer, generation.manifest)
    rows = tokenizer.encode(TEXTS)
    found = chosen.runtime.embed(rows)
    assert cosines(found, reload.embed(made / form, TEXTS)).min() > 0.9999
    assert not np.array_equal(found, reload.embed(made / "plain", TEXTS)), "it is the quantized one"
    if form != "bnb-int8":  # which rounds by the largest numbers of a call
        alone = np.concatenate([chosen.runtime.embed([row]) for row in rows])
        assert cosines(found, alone).min() > 0.99999
    assert [len(tokens) for tokens in chosen.runtime.token_vectors(rows)] == [len(row) for row in rows]
    assert chosen.runtime.embed([]).shape == (0, 16)
    chosen.runtime.close()
    assert chosen.runtime.bytes == 0


def test_a_wish_that_cannot_be_had_is_told_once_and_the_model_is_served(made: Path) -> None:
    failures = runtimes.Failures()
    generation, wish = making.generation(str(made / "openvino-int8")), Wish("torch", "float16")
    for told in (1, 0):
        chosen = runtimes.load(generation, wish, "cpu", failures)
        assert "one way to be computed" in chosen.numerics.fell_back
        assert len(failures.news()) == told


def test_a_gpu_refuses_quantized_weights_by_name(made: Path) -> None:
    with pytest.raises(LoadFailed, match="served on the CPU alone"):
        runtimes.load(making.generation(str(made / "torchao-int8")), Wish(), "cuda")


def test_a_network_that_openvino_does_not_read_is_a_failed_load(made: Path, tmp_path: Path) -> None:
    import shutil

    place = tmp_path / "m"
    shutil.copytree(made / "openvino-int8", place)
    path = place / "openvino/openvino_model.xml"
    path.write_text(path.read_text().replace('to-port="0"', 'to-port="7"'))
    assert judge(str(place)), "what is listed is whole"
    with pytest.raises(LoadFailed, match="OpenVINO does not load the network"):
        runtimes.load(making.generation(str(place)), Wish(), "cpu")


def test_a_quantized_model_without_one_of_its_tensors_does_not_load(made: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    place = tmp_path / "m"
    shutil.copytree(made / "bnb-int8", place)
    tensors = load_file(place / "model.safetensors")
    del tensors["encoder.layer.0.attention.self.query.weight"]
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LoadFailed):
        runtimes.load(making.generation(str(place)), Wish(), "cpu")
