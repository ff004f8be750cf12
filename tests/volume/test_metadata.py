"""A wish in model_metadata.json is content, and everything else in it is not."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.model import Generation, ModelId
from gateway.volume.generations import Store
from gateway.volume.metadata import read_samples, read_wish
from gateway.volume.record import Record, StoredFile, digest_of
from gateway.volume.source import scan
from gateway.wish import Wish
from tests import making


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    return making.encoder(tmp_path_factory.mktemp("made") / "m", layers=1)


@pytest.fixture
def root(tmp_path: Path, made: str) -> Path:
    shutil.copytree(made, tmp_path / "models/finetuned/m")
    return tmp_path / "models"


def take(root: Path, metadata: dict[str, Any] | None = None, **options: Any) -> Generation:
    """What a store makes of the model with this metadata."""
    if metadata is not None:
        (root / "finetuned/m/model_metadata.json").write_text(json.dumps(metadata))
    store = Store(str(root.parent / "state"), **options)
    return store.accept(scan(str(root)).directories[ModelId("finetuned", "m")], str(root))


def test_a_wish_makes_another_generation_and_other_metadata_does_not(root: Path) -> None:
    plain = take(root)
    described = take(root, {"display_name": "X", "runtime": "cuda", "dtype": 7})
    wished = [take(root, each) for each in ({"runtime": "openvino"}, {"dtype": "int8"}, {"dtype": "float16"})]
    assert described.digest == plain.digest
    assert len({plain.digest, *(generation.digest for generation in wished)}) == 4
    assert [each.manifest.wish for each in wished] == [Wish("openvino", ""), Wish("", "int8"), Wish("", "float16")]


def test_a_wish_outlives_the_start_of_another_gateway(root: Path) -> None:
    wished = take(root, {"runtime": "torch", "dtype": "bfloat16", "golden": {"texts": ["a beam"], "vectors": [[1]]}})
    found = Store(str(root.parent / "state")).open(wished.digest)
    assert found == wished
    assert found.manifest.wish == Wish("torch", "bfloat16")
    assert found.manifest.samples == ("a beam",)


def test_a_wish_counts_in_a_model_that_is_served_in_place(root: Path) -> None:
    copied = take(root, {"dtype": "bfloat16"})
    Store(str(root.parent / "state")).remove(copied.digest)
    in_place = take(root, copy_budget=1)
    assert in_place.place is not None
    assert (in_place.digest, in_place.manifest.wish) == (copied.digest, Wish("", "bfloat16"))


def test_content_without_a_wish_keeps_the_digest_it_always_had() -> None:
    files = (StoredFile("b", 1, "2" * 64), StoredFile("a", 1, "1" * 64))
    lines = f"a\0{'1' * 64}\nb\0{'2' * 64}\n".encode()
    assert digest_of(files, Wish()) == hashlib.sha256(lines).hexdigest()


def test_a_record_from_before_there_were_wishes_is_read_as_one_without(root: Path) -> None:
    generation = take(root)
    path = Path(generation.path).parent / "generation.json"
    document = json.loads(path.read_text())
    del document["manifest"]["wish"], document["manifest"]["samples"]
    path.write_text(json.dumps(document))
    assert Store(str(root.parent / "state")).open(generation.digest) == generation
    assert msgspec.json.decode(path.read_bytes(), type=Record).manifest.wish == Wish()


def test_a_wish_that_is_none_is_a_warning() -> None:
    found, warning = read_wish({"dtype": "fp8"})
    assert found == Wish()
    assert warning is not None
    assert (warning.code, warning.file) == ("metadata_invalid", "model_metadata.json")
    assert "dtype is none of" in warning.message


@pytest.mark.parametrize(
    "golden", [None, 1, {}, {"texts": "a"}, {"texts": [1, None]}, {"texts": [""]}, {"texts": ["\ud800"]}]
)
def test_golden_texts_that_are_odd_are_no_samples(golden: Any) -> None:
    assert read_samples({"golden": golden}) == ()


def test_samples_are_bounded() -> None:
    texts = ["x" * 2001, *(str(number) for number in range(100))]
    assert read_samples({"golden": {"texts": texts}}) == tuple(str(number) for number in range(64))


def test_what_a_killed_host_left_half_made_is_swept_and_the_rest_stays(root: Path) -> None:
    generation = take(root)
    made = Path(generation.path).parent / "runtimes"
    for name in (".half", "whole"):
        (made / name).mkdir(parents=True)
        (made / name / "network.bin").write_bytes(b"x")
    store = Store(str(root.parent / "state"))
    store.sweep()
    assert [path.name for path in made.iterdir()] == ["whole"]
    store.remove(generation.digest)
    assert not made.parent.exists()
