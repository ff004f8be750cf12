"""Generations with the same tokenizer have one of them in memory, for as long as one of them is loaded."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path

import msgspec
import pytest

from gateway.errors import LoadFailed
from gateway.host import tokenize
from gateway.host.tokenize import shared
from gateway.model import Generation, Place
from tests import making


def made(path: Path, seed: int = 0, **recipe: object) -> Generation:
    return making.generation(making.encoder(path, seed=seed, **recipe))  # type: ignore[arg-type]  # as making has them


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_models_of_one_base_share_their_tokenizer(family: str, tmp_path: Path) -> None:
    first, second = (made(tmp_path / str(seed), seed, family=family) for seed in (1, 2))
    assert shared(first) is shared(second)  # the first is held until the comparison is made


@pytest.mark.parametrize(
    "recipe",
    [{"max_tokens": 17}, {"lower": False}, {"lower_case": True, "spelling": "old"}, {"words": ["other"]}],
    ids=str,
)
def test_another_limit_or_content_is_another_tokenizer(recipe: dict[str, object], tmp_path: Path) -> None:
    first, second = shared(made(tmp_path / "a")), shared(made(tmp_path / "b", **recipe))
    assert first is not second


def test_a_changed_file_is_another_tokenizer(tmp_path: Path) -> None:
    generation = made(tmp_path / "a")
    before = shared(generation)
    file = tmp_path / "a" / "tokenizer.json"
    document = json.loads(file.read_text())
    document["model"]["vocab"]["klystrons"] = len(document["model"]["vocab"])
    file.write_text(json.dumps(document))
    after = shared(generation)
    assert before is not after
    assert len(after.encode(["klystrons"])[0]) < len(before.encode(["klystrons"])[0])


def test_a_tokenizer_is_kept_for_a_while_and_freed_when_newer_ones_have_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenize, "_shared", weakref.WeakValueDictionary())  # other tests may hold some of theirs
    generation = made(tmp_path / "a")
    gc.disable()  # it must not take the collector
    try:
        tokenizer = shared(generation)
        gone = weakref.ref(tokenizer)
        del tokenizer
        for number in range(tokenize.KEPT - 1):
            shared(made(tmp_path / f"b{number}", words=[f"other{number}"]))
        assert shared(generation) is gone()  # and is the newest again
        for number in range(tokenize.KEPT):
            assert gone() is not None
            shared(made(tmp_path / f"c{number}", words=[f"newer{number}"]))
        assert gone() is None
        assert len(tokenize._shared) == tokenize.KEPT
    finally:
        gc.enable()


def test_a_large_tokenizer_is_kept_for_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenize, "KEPT_WORDS", 3)
    gone = weakref.ref(shared(made(tmp_path / "a", words=["many"])))
    assert gone() is None


def test_what_is_served_in_place_has_a_tokenizer_of_its_own(tmp_path: Path) -> None:
    generation = made(tmp_path / "a")
    in_place = msgspec.structs.replace(generation, place=Place("/", "a", (), ""))
    first = shared(generation)
    assert shared(in_place) is not first
    assert shared(in_place).encode(["the beam"])[0].tolist() == first.encode(["the beam"])[0].tolist()


def test_a_file_that_has_gone_fails_the_load(tmp_path: Path) -> None:
    generation = made(tmp_path / "a")
    (tmp_path / "a" / "tokenizer.json").unlink()
    with pytest.raises(LoadFailed) as caught:
        shared(generation)
    assert caught.value.details["reason"] == "tokenizer_unreadable"
