"""A generator says what `generate` of transformers says, whoever shares its calls."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from gateway.errors import LoadFailed
from gateway.host import generator as module
from gateway.host.generator import Generator, Row
from gateway.host.sampling import Sampler
from gateway.host.wire import Sampling
from tests.speaking import greedy, language_model

CPU = torch.device("cpu")
FAMILIES = {
    "Qwen2": {},
    "Llama": {},
    "Mistral": {"sliding_window": 8},
    "Qwen3": {"head_dim": 16},
    "Gemma": {"head_dim": 16},
    "Gemma2": {"head_dim": 16, "sliding_window": 8},
}


def network(path: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path).eval()


def row(number: int, prompt: Sequence[int], **sampling: Any) -> Row:
    return Row(number, prompt, Sampler(Sampling(**sampling), CPU))


def run(generator: Generator, rows: Sequence[Row], tokens: int, join: random.Random) -> dict[int, list[int]]:
    """Rows come one, two or none with each call, and leave when they have so many tokens."""
    said: dict[int, list[int]] = {each.number: [] for each in rows}
    waiting, leaving, done = list(rows), frozenset[int](), set[int]()
    while len(done) < len(rows):
        count = join.choice([0, 1, 2])
        joining, waiting = waiting[:count], waiting[count:]
        for number, token in generator.advance(joining, leaving):
            said[number].append(token)
        leaving = frozenset(number for number, each in said.items() if len(each) == tokens) - done
        done |= leaving
    return said


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_come_and_go_say_what_each_says_alone(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = language_model(tmp_path, family=family, endings=False, **FAMILIES[family])
    monkeypatch.setattr(module, "SLICE", 16)  # so that some prompts are read in parts, and some together
    draw = random.Random(family)
    prompts = [[draw.randrange(3, 250) for _ in range(length)] for length in (1, 3, 7, 16, 17, 40, 90)]
    said = run(Generator(network(path)), [row(at, prompt) for at, prompt in enumerate(prompts)], 12, draw)
    assert list(said.values()) == [greedy(path, prompt, 12) for prompt in prompts]


def test_a_buffer_that_is_full_grows(tmp_path: Path) -> None:
    path = language_model(tmp_path, endings=False)
    prompt = [5, 6, 7]
    assert run(Generator(network(path)), [row(0, prompt)], 180, random.Random(0))[0] == greedy(path, prompt, 180)


def test_a_seed_gives_one_answer_whoever_is_beside_it(tmp_path: Path) -> None:
    path = language_model(tmp_path, endings=False)

    def drawn(others: int) -> list[int]:
        rows = [row(0, [9, 8, 7], temperature=1.0, seed=4)]
        rows += [row(at + 1, [3, 4, 5, at + 6], temperature=1.0, seed=at) for at in range(others)]
        return run(Generator(network(path)), rows, 10, random.Random(others))[0]

    assert drawn(0) == drawn(5)
    assert drawn(0) != greedy(path, [9, 8, 7], 10)


def test_a_row_that_leaves_takes_its_keys_and_values_along(tmp_path: Path) -> None:
    generator = Generator(network(language_model(tmp_path, endings=False)))
    generator.advance([row(0, [4] * 60), row(1, [5, 6])])
    assert generator.rows == 2
    generator.advance([], frozenset({0}))
    assert generator.rows == 1
    assert generator._cache.layers[0].keys.shape[-2] == 3  # and nothing of the long one
    generator.advance([], frozenset({1}))
    assert generator.rows == 0
    assert generator._cache is None


def test_a_row_that_leaves_before_it_was_read_is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE", 4)
    generator = Generator(network(language_model(tmp_path, endings=False)))
    assert generator.advance([row(0, [4] * 60)]) == []
    assert generator.advance([], frozenset({0})) == []
    assert generator.rows == 0


def test_what_a_call_raises_leaves_no_row_behind(tmp_path: Path) -> None:
    generator = Generator(network(language_model(tmp_path, endings=False)))
    generator.advance([row(0, [4, 5])])
    with pytest.raises(IndexError):
        generator.advance([row(1, [10_000])])
    assert generator.rows == 0
    assert [number for number, _ in generator.advance([row(2, [4, 5])])] == [2]


def test_weights_that_are_no_numbers_are_found_before_anybody_asks(tmp_path: Path) -> None:
    broken = network(language_model(tmp_path))
    with torch.no_grad():
        broken.model.norm.weight[0] = torch.nan
    with pytest.raises(LoadFailed, match="not finite"):
        Generator(broken).probe()


def test_prompts_of_like_length_are_read_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPARE", 4)
    generator = Generator(network(language_model(tmp_path, endings=False)))
    rows = [row(at, [5] * length) for at, length in enumerate((20, 5, 22, 6, 60))]
    first = generator.advance(rows)
    assert sorted(number for number, _ in first) == [0, 2]
    firsts = [sorted({number for number, _ in generator.advance([])} - {0, 2}) for _ in range(2)]
    assert firsts == [[1, 3], [1, 3, 4]]


def test_a_burst_of_prompts_goes_before_rows_that_run_and_not_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLICE", 8)
    generator = Generator(network(language_model(tmp_path, endings=False)))
    generator.advance([row(0, [4, 5])])
    came = [generator.advance([row(at, [at] * 8) for at in range(1, 9)])]
    came += [generator.advance([]) for _ in range(7)]
    got = [0 in {number for number, _ in each} for each in came]
    assert got == [False] * module.MOST_WAITED + [True] + [False] * module.MOST_WAITED + [True]


def test_a_long_prompt_makes_no_row_wait_for_its_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE", 8)
    generator = Generator(network(language_model(tmp_path, endings=False)))
    generator.advance([row(0, [4])])
    came = [generator.advance([row(9, [3] * 40)] if not at else []) for at in range(5)]
    assert [len(each) for each in came] == [1, 1, 1, 1, 2]


def test_a_row_that_comes_takes_the_place_of_one_that_left(tmp_path: Path) -> None:
    path = language_model(tmp_path, endings=False)
    generator = Generator(network(path))
    prompts = {number: [number + 3] * length for number, length in enumerate((9, 30, 12, 20))}
    for number in (0, 1, 2):
        generator.advance([row(number, prompts[number])])
    place = generator._cache.layers[0].buffers[0].data_ptr()
    said = [*generator.advance([row(3, prompts[3])], frozenset({1}))]
    said += [each for _ in range(5) for each in generator.advance([])]
    assert generator._cache.layers[0].buffers[0].data_ptr() == place
    assert [token for number, token in said if number == 3] == greedy(path, prompts[3], 6)
    assert [token for number, token in said if number == 0] == greedy(path, prompts[0], 6)[1:]


def test_rows_that_have_left_give_their_memory_back(tmp_path: Path) -> None:
    generator = Generator(network(language_model(tmp_path, endings=False)))
    generator.advance([row(number, [number + 3] * 10) for number in range(8)])
    generator.advance([], frozenset(range(6)))
    assert len(generator._cache.layers[0].buffers[0]) == 2
