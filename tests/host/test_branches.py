"""Rows of several adapters in one call: each says what peft says of it alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from gateway.host import factors, generator
from gateway.host.generator import Generator, Row
from gateway.host.sampling import Sampler
from gateway.host.stacks import Branches
from gateway.host.wire import Sampling
from gateway.model import Accepted, Generation
from gateway.volume.manifest import judge
from tests.host.test_generator import network, run
from tests.speaking import greedy, language_model, voice


def branches(root: Path, path: str, base: str) -> Branches:
    """As the host reads them."""
    found = []
    for each in (base, path):
        verdict = judge(each, root=str(root))
        assert isinstance(verdict, Accepted), verdict
        found.append(Generation(digest=each, path=each, manifest=verdict.manifest))
    below, above = found
    return factors.read_branches(Generation(digest=path, path=path, manifest=above.manifest, base=below), torch.float32)


FORMS: list[dict[str, Any]] = [
    {},
    {"use_rslora": True},
    {"use_dora": True},
    {"r": 2, "rank_pattern": {"q_proj": 6}, "alpha_pattern": {"v_proj": 3}},
]


def test_each_row_is_changed_by_its_own_adapter_and_by_no_other(tmp_path: Path) -> None:
    base = language_model(tmp_path / "base/tiny", endings=False)
    paths = [voice(tmp_path / f"org/{at}", base, seed=at + 1, **form) for at, form in enumerate(FORMS)]
    loaded = [branches(tmp_path, path, base) for path in paths]
    owners = [0, None, 1, 2, 3, None, 0, 1]
    draw = random.Random(0)
    prompts = [[draw.randrange(3, 250) for _ in range(draw.choice([2, 5, 30]))] for _ in owners]
    rows = [
        Row(at, prompt, Sampler(Sampling(), torch.device("cpu")), None if owner is None else loaded[owner])
        for at, (owner, prompt) in enumerate(zip(owners, prompts, strict=True))
    ]
    said = run(Generator(network(base)), rows, 12, draw)
    alone = [
        greedy(base, prompt, 12, None if owner is None else paths[owner])
        for owner, prompt in zip(owners, prompts, strict=True)
    ]
    assert list(said.values()) == alone
    assert all(
        greedy(base, prompt, 12) != words
        for owner, prompt, words in zip(owners, prompts, alone, strict=True)
        if owner is not None
    )


@pytest.mark.parametrize("room", [1 << 26, 0])
def test_many_adapters_at_once_whatever_they_change_say_what_each_says_alone(
    tmp_path: Path, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "LEAST_COPIES", room)
    monkeypatch.setattr(generator, "COPIES", 10**12)
    base = language_model(tmp_path / "base/tiny", endings=False)
    forms: list[dict[str, Any]] = [{"targets": ["q_proj"]}, {"r": 8}, {}, {"targets": ["down_proj", "v_proj"]}, {}, {}]
    paths = [voice(tmp_path / f"org/{at}", base, seed=at + 1, **form) for at, form in enumerate(forms)]
    loaded = [branches(tmp_path, path, base) for path in paths]
    owners = [0, 1, 1, None, 2, 3, 4, 5, 1, 0]
    prompts = [[at + 3, at + 5, 7] for at in range(len(owners))]
    rows = [
        Row(at, prompt, Sampler(Sampling(), torch.device("cpu")), None if owner is None else loaded[owner])
        for at, (owner, prompt) in enumerate(zip(owners, prompts, strict=True))
    ]
    found = Generator(network(base))
    said = run(found, rows, 12, random.Random(3))
    assert list(said.values()) == [
        greedy(base, prompt, 12, None if owner is None else paths[owner])
        for owner, prompt in zip(owners, prompts, strict=True)
    ]


def test_copies_of_factors_are_made_for_many_alone_stay_within_their_room_and_are_dropped(tmp_path: Path) -> None:
    base = language_model(tmp_path / "base/tiny", endings=False)
    loaded = [branches(tmp_path, voice(tmp_path / f"org/{at}", base, seed=at + 1), base) for at in range(4)]
    sampler = [Sampler(Sampling(), torch.device("cpu")) for _ in loaded]
    rows = [Row(at, [at + 3], sampler[at], each) for at, each in enumerate(loaded)]
    found = Generator(network(base))
    found.advance(rows[:2])
    found.advance([])
    assert found.copied == 0
    found.advance(rows[2:])
    found.advance([])
    assert found.copied == sum(each.bytes for each in loaded)
    found.advance([], frozenset({0, 1, 2}))
    assert found.copied == 0
    found.advance([], frozenset({3}))
    found = Generator(network(base))
    found._rowwise._room = loaded[0].bytes * 4 - 1
    found.advance([Row(at, [5], Sampler(Sampling(), torch.device("cpu")), each) for at, each in enumerate(loaded)])
    found.advance([])
    assert found.copied == 0


def test_an_adapter_takes_its_own_tensors_and_gives_them_back(tmp_path: Path) -> None:
    base = language_model(tmp_path / "base/tiny")
    path = voice(tmp_path / "org/a", base)
    found = branches(tmp_path, path, base)
    stored = Path(path, "adapter_model.safetensors").stat().st_size
    assert found.bytes == pytest.approx(stored, rel=0.2)  # the header of the file
    found.empty()
    assert found.bytes == 0


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"targets": ["embed_tokens"]}, "adapter_not_supported"),
        ({"modules_to_save": ["lm_head"]}, "adapter_not_supported"),
    ],
)
def test_what_cannot_be_served_right_is_refused(tmp_path: Path, change: dict[str, Any], code: str) -> None:
    base = language_model(tmp_path / "base/tiny", tie_word_embeddings=False)
    verdict = judge(voice(tmp_path / "org/a", base, **change), root=str(tmp_path))
    assert not isinstance(verdict, Accepted)
    assert code in [reason.code for reason in verdict.reasons]
    assert all(reason.remedy for reason in verdict.reasons)


def test_an_adapter_for_another_language_model_is_refused(tmp_path: Path) -> None:
    base = language_model(tmp_path / "other", hidden_size=32)
    language_model(tmp_path / "base/tiny")
    verdict = judge(voice(tmp_path / "org/a", base), root=str(tmp_path))
    assert not isinstance(verdict, Accepted)
    assert [reason.code for reason in verdict.reasons] == ["base_mismatch"]
