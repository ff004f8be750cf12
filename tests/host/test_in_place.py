"""A model that is served in place is read and never mapped: what happens to its files does not reach the vectors."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

from gateway.errors import LoadFailed
from gateway.host import encoder, stages
from gateway.host.tokenize import Tokenizer
from gateway.model import Generation, ModelId
from gateway.volume.generations import Store
from gateway.volume.source import scan
from tests import making

TEXTS = ("the beam is in the storage ring", "laser")


@pytest.fixture(params=["float32", "bfloat16"])
def generation(tmp_path: Path, request: pytest.FixtureRequest) -> Generation:
    """In place, with its weights in two shards and a Dense stage of its own."""
    making.encoder(tmp_path / "models/finetuned/m", dense=16, shards=2, dtype=request.param)
    root = str(tmp_path / "models")
    store = Store(str(tmp_path / "state"), copy_budget=1)
    taken = store.accept(scan(root).directories[ModelId("finetuned", "m")], root)
    assert taken.place is not None
    return taken


def mapped() -> str:
    return Path("/proc/self/maps").read_text()


def test_its_vectors_are_those_of_the_copy(generation: Generation) -> None:
    copied = msgspec.structs.replace(generation, place=None)
    rows = Tokenizer(generation).encode(TEXTS)
    np.testing.assert_array_equal(encoder.load(generation, "cpu").embed(rows), encoder.load(copied, "cpu").embed(rows))


def test_nothing_of_it_is_mapped(generation: Generation) -> None:
    loaded = encoder.load(generation, "cpu")
    assert generation.path not in mapped()
    if generation.manifest.stored_dtype == "F32":  # others are converted, and their mapping goes
        copied = encoder.load(msgspec.structs.replace(generation, place=None), "cpu")
        assert generation.path in mapped()
        copied.close()
    loaded.close()


@pytest.mark.parametrize("harm", ["overwritten", "truncated", "removed"])
def test_what_happens_to_its_files_after_the_load_does_not_reach_it(generation: Generation, harm: str) -> None:
    rows = Tokenizer(generation).encode(TEXTS)
    loaded = encoder.load(generation, "cpu")
    before = loaded.embed(rows)
    if harm == "removed":
        shutil.rmtree(generation.path)
    else:
        for file in Path(generation.path).rglob("*.safetensors"):
            size = file.stat().st_size
            with open(file, "r+b") as stream:
                stream.truncate(0) if harm == "truncated" else stream.write(os.urandom(size))
    np.testing.assert_array_equal(loaded.embed(rows), before)


def test_a_directory_that_was_changed_since_it_was_accepted_is_not_loaded(generation: Generation) -> None:
    os.utime(Path(generation.path, "tokenizer.json"))
    with pytest.raises(LoadFailed, match="served in place, has changed") as caught:
        encoder.load(generation, "cpu")
    assert caught.value.details["reason"] == "changed_in_place"


def test_a_change_during_the_load_fails_it(generation: Generation, monkeypatch: pytest.MonkeyPatch) -> None:
    build = stages.build

    def build_and_touch(*given: object, **options: bool) -> object:
        os.utime(Path(generation.path, "model.safetensors.index.json"))
        return build(*given, **options)  # type: ignore[arg-type]  # passed on as it came

    monkeypatch.setattr(stages, "build", build_and_touch)
    with pytest.raises(LoadFailed, match="has changed"):
        encoder.load(generation, "cpu")
