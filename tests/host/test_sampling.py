"""The next token: greedy, drawn, and what it is drawn from."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gateway.host import sampling
from gateway.host.sampling import Habits, Sampler
from gateway.host.wire import Sampling

LOGITS = torch.tensor([0.0, 3.0, 2.0, 1.0, -1.0])


def sampler(habits: Habits | None = None, **given: Any) -> Sampler:
    return Sampler(Sampling(**given), torch.device("cpu"), habits or Habits())


def drawn(**given: Any) -> set[int]:
    return {sampler(seed=seed, **given).choose(LOGITS) for seed in range(200)}


def test_without_a_temperature_the_largest_logit_wins() -> None:
    assert sampler().choose(LOGITS) == 1
    assert sampling.choose([sampler(), sampler()], torch.stack([LOGITS, -LOGITS])) == [1, 4]


def test_a_temperature_draws_by_the_shares() -> None:
    counts = torch.bincount(torch.tensor([sampler(temperature=1.0, seed=s).choose(LOGITS) for s in range(4000)]))
    assert torch.allclose(counts / 4000, torch.softmax(LOGITS, 0), atol=0.03)


def test_top_k_and_top_p_leave_out_the_unlikely() -> None:
    assert drawn(temperature=5.0) == {0, 1, 2, 3, 4}
    assert drawn(temperature=5.0, top_k=2) == {1, 2}
    shares = torch.softmax(LOGITS, 0)
    assert drawn(temperature=1.0, top_p=float(shares[1]) + 0.01) == {1, 2}
    assert drawn(temperature=1.0, top_p=0.01) == {1}  # one stays in any case


def test_one_seed_is_one_answer_and_none_is_another_each_time() -> None:
    def answer(**given: Any) -> list[int]:
        one = sampler(temperature=2.0, **given)
        return [one.choose(torch.zeros(1000)) for _ in range(8)]

    assert answer(seed=7) == answer(seed=7)
    assert answer(seed=7) != answer(seed=8)
    assert answer() != answer()


def test_penalties_count_what_was_said() -> None:
    one = sampler(frequency_penalty=0.6, presence_penalty=0.6)
    assert [one.choose(LOGITS) for _ in range(5)] == [1, 2, 1, 1, 3]


@pytest.mark.parametrize(("asked", "draws"), [({}, True), ({"temperature": 0.0}, False)])
def test_what_the_model_says_of_itself_holds_where_nobody_asks(asked: dict[str, float], draws: bool) -> None:
    habits = Habits(temperature=5.0, top_k=2)
    found = {sampler(habits, seed=seed, **asked).choose(LOGITS) for seed in range(100)}
    assert found == ({1, 2} if draws else {1})
