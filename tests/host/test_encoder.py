"""A load is whole or fails by name; a vector is its text's own; what is closed is free."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gateway.errors import InvalidDimensions, LoadFailed
from gateway.host import encoder, memory, stages
from gateway.host.tokenize import TokenIds, Tokenizer
from gateway.model import Generation
from tests import making

TEXTS = ("the beam is in the storage ring", "laser", "photon " * 60, "", "x-ray light source")


@pytest.fixture
def generation(tmp_path: Path) -> Generation:
    return making.generation(making.encoder(tmp_path / "model", dense=16))


def change_weights(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "t5", "deberta-v2", "gemma3_text", "qwen3"])
def test_a_vector_does_not_depend_on_what_shared_its_batch(family: str, tmp_path: Path) -> None:
    generation = making.generation(making.encoder(tmp_path / "model", family=family))
    rows = Tokenizer(generation).encode(TEXTS)
    loaded = encoder.load(generation, "cpu")
    together = loaded.embed(rows)
    alone = np.concatenate([loaded.embed([row]) for row in rows])
    assert np.abs(together - alone).max() <= 1e-5


def test_a_batch_without_texts_has_no_vectors_and_the_true_dimension(generation: Generation) -> None:
    assert encoder.load(generation, "cpu").embed([]).shape == (0, 16)


def test_missing_weights_fail_the_load_and_are_named(generation: Generation) -> None:
    name = "encoder.layer.1.output.dense.weight"
    change_weights(Path(generation.path, "model.safetensors"), lambda tensors: tensors.pop(name))
    with pytest.raises(LoadFailed, match=r"the weights lack encoder\.layer\.1\.output\.dense\.weight") as caught:
        encoder.load(generation, "cpu")
    assert caught.value.details["tensors"] == [name]


def test_a_missing_pooler_is_no_loss(tmp_path: Path) -> None:
    whole = making.generation(making.encoder(tmp_path / "whole"))
    bare = msgspec.structs.replace(whole, path=shutil.copytree(whole.path, str(tmp_path / "bare")))
    change_weights(
        Path(bare.path, "model.safetensors"),
        lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith("pooler")],
    )
    rows = Tokenizer(whole).encode(TEXTS)
    np.testing.assert_array_equal(encoder.load(bare, "cpu").embed(rows), encoder.load(whole, "cpu").embed(rows))


def test_weights_of_another_shape_fail_the_load(generation: Generation) -> None:
    file = Path(generation.path, "model.safetensors")
    change_weights(file, lambda tensors: tensors.update({"embeddings.LayerNorm.bias": torch.zeros(7)}))
    with pytest.raises(LoadFailed) as caught:
        encoder.load(generation, "cpu")
    assert caught.value.details["reason"] == "weights_unreadable"


@pytest.mark.parametrize("gone", ["linear.weight", "linear.bias"])
def test_a_dense_stage_without_one_of_its_tensors_fails_the_load(gone: str, generation: Generation) -> None:
    file = Path(generation.path, "2_Dense", "model.safetensors")
    change_weights(file, lambda tensors: tensors.pop(gone))
    with pytest.raises(LoadFailed, match=gone) as caught:
        encoder.load(generation, "cpu")
    assert caught.value.details["reason"] == "stage_weights"


def test_a_checkpoint_with_a_language_model_head_loads_as_its_encoder(tmp_path: Path) -> None:
    bare = making.generation(making.encoder(tmp_path / "bare", plain=True))
    whole = making.generation(shutil.copytree(bare.path, str(tmp_path / "whole")))
    file = Path(whole.path, "model.safetensors")
    tensors = {f"bert.{name}": tensor for name, tensor in load_file(file).items()}
    save_file(tensors | {"cls.predictions.bias": torch.ones(3)}, file, metadata={"format": "pt"})
    rows = Tokenizer(bare).encode(TEXTS)
    np.testing.assert_array_equal(encoder.load(whole, "cpu").embed(rows), encoder.load(bare, "cpu").embed(rows))


def test_an_activation_that_torch_does_not_have_fails_the_load() -> None:
    with pytest.raises(LoadFailed, match="no such activation: Else"):
        stages.activation("Else")
    with pytest.raises(LoadFailed, match="no such activation: torch"):
        stages.activation("torch")  # a name in that module, and no activation


def test_half_precision_checkpoints_are_loaded_in_float32(tmp_path: Path) -> None:
    generation = making.generation(making.encoder(tmp_path / "model", dtype="float16", dense=16))
    loaded = encoder.load(generation, "cpu")
    assert loaded.bytes == pytest.approx(memory.predict(generation.manifest), rel=0.2)  # the pooler is not loaded
    assert loaded.embed(Tokenizer(generation).encode(TEXTS)).dtype == np.float32


def test_a_load_says_nothing_on_standard_error(generation: Generation, capfd: pytest.CaptureFixture[str]) -> None:
    encoder.load(generation, "cpu")
    assert capfd.readouterr() == ("", "")


def test_a_closed_encoder_gives_its_memory_back(minilm: str) -> None:
    generation = making.generation(minilm)
    encoder.load(generation, "cpu").close()  # what a first load brings into the process stays
    loaded = encoder.load(generation, "cpu")
    loaded.embed(Tokenizer(generation).encode(TEXTS))
    held, before = loaded.bytes, memory.resident()
    assert held > 80_000_000
    loaded.close()
    assert loaded.bytes == 0
    assert before - memory.resident() > 0.8 * held


def test_the_probe_accepts_a_sound_model(generation: Generation) -> None:
    encoder.probe(encoder.load(generation, "cpu"), Tokenizer(generation), generation.manifest)


class Constant:
    """A runtime that answers every text with rows of `vectors`."""

    bytes = 0

    def __init__(self, vectors: Sequence[Sequence[float]]) -> None:
        self.vectors = np.array(vectors, dtype=np.float32)

    def embed(self, batch: Sequence[TokenIds], prompt_tokens: Sequence[int] | int = 0) -> encoder.Vectors:
        return np.resize(self.vectors, (len(batch), self.vectors.shape[1]))

    def close(self) -> None:
        self.vectors = self.vectors[:0]


@pytest.mark.parametrize(
    ("vectors", "reason"),
    [
        ([[1.0, 0.0], [0.0, float("nan")]], "probe_not_finite"),
        ([[1.0, 0.0], [0.0, 0.0]], "probe_zero"),
        ([[1.0, 0.0]], "probe_same"),
        ([[1.0, 0.0], [0.0, 2.0]], "probe_not_unit"),
        ([[1.0], [-1.0]], "probe_dimension"),
    ],
)
def test_the_probe_refuses_vectors_that_nobody_could_use(
    vectors: list[list[float]], reason: str, tmp_path: Path
) -> None:
    generation = making.generation(making.encoder(tmp_path / "model", dense=2))
    with pytest.raises(LoadFailed) as caught:
        encoder.probe(Constant(vectors), Tokenizer(generation), generation.manifest)
    assert caught.value.details["reason"] == reason


def test_the_probe_finds_weights_that_are_not_numbers(generation: Generation) -> None:
    file = Path(generation.path, "model.safetensors")
    change_weights(file, lambda tensors: tensors["embeddings.LayerNorm.bias"].fill_(float("nan")))
    with pytest.raises(LoadFailed, match="not finite"):
        encoder.probe(encoder.load(generation, "cpu"), Tokenizer(generation), generation.manifest)


def test_a_directory_whose_config_asks_for_its_own_code_is_not_obeyed(generation: Generation) -> None:
    file = Path(generation.path, "config.json")
    config = json.loads(file.read_text()) | {"auto_map": {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}}
    file.write_text(json.dumps(config | {"model_type": "unheard-of"}))
    Path(generation.path, "evil.py").write_text("raise SystemExit(1)")
    with pytest.raises(LoadFailed):
        encoder.load(generation, "cpu")


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), memory.OutOfMemory),
        (MemoryError(), memory.OutOfMemory),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), memory.OutOfMemory),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), torch.AcceleratorError),
        (RuntimeError("a bug of our own"), RuntimeError),
    ],
)
def test_only_a_refusal_of_memory_becomes_out_of_memory(raised: Exception, seen: type[Exception]) -> None:
    with pytest.raises(seen) as caught, memory.guarded():
        raise raised
    assert type(caught.value) is seen


def test_a_batch_that_the_machine_has_no_memory_for_is_told_as_such() -> None:
    with pytest.raises(memory.OutOfMemory), memory.guarded():
        torch.empty(1 << 60)


def test_finish_leaves_vectors_as_they_are_unless_it_is_asked() -> None:
    vectors = np.array([[3.0, 4.0], [1.0, 0.0]], dtype=np.float32)
    np.testing.assert_array_equal(encoder.finish(vectors), vectors)


def test_finish_cuts_first_and_then_makes_unit_length() -> None:
    vectors = np.array([[3.0, 4.0, 12.0], [0.0, 0.0, 1.0]], dtype=np.float32)
    found = encoder.finish(vectors, normalize=True, dimensions=2)
    np.testing.assert_allclose(found, [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
    assert found.dtype == np.float32


def test_finish_gives_bytes_that_lie_in_one_piece() -> None:
    assert encoder.finish(np.ones((2, 3), dtype=np.float32), dimensions=2).flags.c_contiguous


@pytest.mark.parametrize("dimensions", [0, -1, 4])
def test_finish_refuses_dimensions_that_the_model_does_not_have(dimensions: int) -> None:
    with pytest.raises(InvalidDimensions, match="between 1 and 3"):
        encoder.finish(np.ones((2, 3), dtype=np.float32), dimensions=dimensions)
