"""A generation is computed as it was wished where that works, and exactly where it does not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.errors import LoadFailed
from gateway.host import encoder, openvino_runtime, runtimes, shelf
from gateway.host.runtimes import EXACT, Choice, Failures
from gateway.host.tokenize import Tokenizer
from gateway.host.wire import Numerics
from gateway.model import Generation, ModelId
from gateway.volume.generations import Store
from gateway.volume.source import scan
from gateway.wish import AUTO, LEAST_COSINE, Wish
from tests import making

AS_IT_COMES = Wish(AUTO, AUTO)
TEXTS = ("the beam is in the storage ring", "laser", "photon " * 20)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("made")
    making.encoder(base / "models/finetuned/m", dim=64, layers=2)
    return base


@pytest.fixture
def generation(made: Path, tmp_path: Path) -> Generation:
    """In a store of its own."""
    shutil.copytree(made / "models", tmp_path / "models")
    root = str(tmp_path / "models")
    return Store(str(tmp_path / "state")).accept(scan(root).directories[ModelId("finetuned", "m")], root)


def vectors(runtime: Any, generation: Generation) -> np.ndarray:
    return runtime.embed(Tokenizer(generation).encode(TEXTS))


@pytest.mark.parametrize(
    ("wish", "stored", "device", "choice"),
    [
        (AS_IT_COMES, "F32", "cpu", EXACT),
        (AS_IT_COMES, "BF16", "cpu", EXACT),
        (AS_IT_COMES, "F32", "cuda", EXACT),
        (AS_IT_COMES, "BF16", "cuda:1", Choice("torch", "bfloat16")),
        (AS_IT_COMES, "F16", "cuda", Choice("torch", "float16")),
        (Wish(AUTO, "int8"), "F32", "cpu", Choice("openvino", "int8")),
        (Wish("openvino", AUTO), "F32", "cpu", Choice("openvino", "float32")),
        (Wish("torch", "bfloat16"), "F32", "cpu", Choice("torch", "bfloat16")),
    ],
)
def test_auto_is_float32_on_a_processor_and_the_stored_numbers_on_a_gpu(
    generation: Generation, wish: Wish, stored: str, device: str, choice: Choice
) -> None:
    import msgspec

    manifest = msgspec.structs.replace(generation.manifest, stored_dtype=stored)
    assert runtimes.choose(wish, manifest, device) == choice


@pytest.mark.parametrize(
    ("wish", "device"),
    [
        (Wish("openvino", AUTO), "cuda"),
        (Wish(AUTO, "int8"), "cuda"),
        (Wish("torch", "int8"), "cpu"),
        (Wish("openvino", "float16"), "cpu"),
    ],
)
def test_what_a_device_never_does_falls_back_and_says_so_once(generation: Generation, wish: Wish, device: str) -> None:
    failures = Failures()
    with pytest.raises(LoadFailed) as refused:
        runtimes.choose(wish, generation.manifest, device)
    chosen = runtimes.load(generation, wish, device, failures)
    assert chosen.numerics == Numerics("torch", "float32", None, refused.value.message)
    (told,) = failures.news()
    assert (told.digest, told.runtime, told.dtype) == (generation.digest, wish.runtime, wish.dtype)
    again = runtimes.load(generation, wish, device, failures)
    assert again.numerics == chosen.numerics
    assert failures.news() == []


def test_what_was_not_wished_for_needs_no_measuring(generation: Generation) -> None:
    chosen = runtimes.load(generation, AS_IT_COMES, "cpu")
    assert chosen.numerics == Numerics("torch", "float32")
    assert shelf.names(generation) == []
    np.testing.assert_array_equal(
        vectors(chosen.runtime, generation), vectors(encoder.load(generation, "cpu"), generation)
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_number_format_is_measured_at_the_first_load_and_its_cost_is_kept(
    generation: Generation, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = runtimes.load(generation, Wish("torch", dtype), "cpu")
    measured = first.numerics.precision
    assert (first.numerics.runtime, first.numerics.dtype, first.numerics.fell_back) == ("torch", dtype, "")
    assert measured is not None
    assert measured.texts == len(runtimes.precision.TEXTS)
    assert LEAST_COSINE[dtype] <= measured.lowest_cosine <= 1
    monkeypatch.setattr(runtimes, "_measure", None)  # a second time would fail
    assert runtimes.load(generation, Wish("torch", dtype), "cpu").numerics == first.numerics


def test_a_runtime_that_cannot_be_imported_falls_back_and_names_the_extra(
    generation: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    chosen = runtimes.load(generation, Wish("openvino", AUTO), "cpu")
    assert chosen.numerics.fell_back == "openvino is not installed: pip install 'dropgate[openvino]'"
    np.testing.assert_array_equal(
        vectors(chosen.runtime, generation), vectors(encoder.load(generation, "cpu"), generation)
    )


def test_vectors_that_are_too_far_off_are_never_served(generation: Generation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights are cut to a few bits, as a broken kernel would: the load finds out and closes it."""
    closed = []

    class Coarse(encoder.Encoder):
        def embed(self, *args: Any) -> encoder.Vectors:
            return np.round(super().embed(*args))

        def close(self) -> None:
            closed.append(self)
            super().close()

    def coarse(generation: Generation, choice: Choice, device: str) -> encoder.Encoder:
        found = encoder.read(generation, device)
        found.__class__ = Coarse
        return found

    monkeypatch.setattr(runtimes, "_load", coarse)
    failures = Failures()
    for _ in range(2):
        chosen = runtimes.load(generation, Wish("torch", "bfloat16"), "cpu", failures)
        assert "at least 0.999 is asked for" in chosen.numerics.fell_back
    assert len(closed) == 1
    assert len(failures.news()) == 1
    fresh = runtimes.load(generation, Wish("torch", "bfloat16"), "cpu", Failures())  # another host, after this one
    assert fresh.numerics == chosen.numerics
    assert len(closed) == 1  # what was measured is kept, also when it was too little


def test_a_model_that_is_broken_itself_fails_and_is_not_laid_on_the_runtime(generation: Generation) -> None:
    for file in Path(generation.path).rglob("*.safetensors"):
        file.chmod(0o644)
        file.write_bytes(b"nothing")
    failures = Failures()
    with pytest.raises(LoadFailed):
        runtimes.load(generation, Wish("torch", "bfloat16"), "cpu", failures)
    assert failures.news() == []


@pytest.mark.parametrize("wish", [AS_IT_COMES, Wish("torch", "bfloat16"), Wish("torch", "int8")])
def test_a_load_takes_no_more_than_was_predicted(generation: Generation, wish: Wish) -> None:
    assert runtimes.load(generation, wish, "cpu").runtime.bytes <= runtimes.predict(generation, wish, "cpu") * 1.05


def test_the_formats_that_openvino_has_are_those_it_is_asked_for() -> None:
    assert set(openvino_runtime.DTYPES) == set(openvino_runtime.HINTS)
