"""What the settings leave open is chosen from the data and the machine, and said."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.config import Config
from trainer.errors import InvalidInput
from trainer.hardware import Hardware
from trainer.plan import Plan, make

CPU = Hardware("cpu", "float32", 2)


def plan(
    rows: int = 1000, lengths: list[int] | None = None, *, on: Hardware = CPU, limit: int = 256, **set_: Any
) -> Plan:
    return make(Config(**set_), on, rows, lengths or [30], limit)


def test_the_length_holds_95_of_100_texts_whole() -> None:
    assert plan(lengths=[*range(1, 96), *[500] * 5]).max_seq_length == 96
    assert plan(lengths=[500] * 10).max_seq_length == 256
    assert plan(lengths=[3]).max_seq_length == 16


def test_the_model_is_served_with_the_length_of_its_base_unless_told_otherwise() -> None:
    assert plan(max_seq_length=24).serve_seq_length == 256
    assert plan(serve_seq_length=128).serve_seq_length == 128


@pytest.mark.parametrize("key", ["max_seq_length", "serve_seq_length"])
def test_a_length_beyond_the_base_is_refused(key: str) -> None:
    with pytest.raises(InvalidInput, match=f"{key} 512: the base takes 256"):
        plan(**{key: 512})


def test_a_batch_is_a_quarter_of_the_data_at_most_and_larger_on_a_gpu() -> None:
    assert (plan(1000).batch_size, plan(20).batch_size) == (16, 5)
    assert plan(1000, on=Hardware("cuda", "bfloat16", 1)).batch_size == 64


def test_steps_follow_from_rows_batch_accumulation_epochs_and_processes() -> None:
    assert plan(100, batch_size=10, epochs=3).steps == 30
    assert plan(100, batch_size=10, epochs=3, gradient_accumulation=4).steps == 9
    assert plan(100, batch_size=10, epochs=0.5).steps == 5
    assert plan(100, batch_size=10, epochs=3, on=Hardware("cpu", "float32", 1, processes=2)).steps == 15


def test_a_warm_up_is_a_share_below_1_and_steps_from_1_on() -> None:
    assert plan(100, batch_size=10, epochs=10, warmup=0.06).warmup_steps == 6
    assert plan(100, batch_size=10, epochs=10, warmup=20).warmup_steps == 20


def test_a_warm_up_that_outlasts_the_run_is_cut_and_said() -> None:
    found = plan(100, batch_size=10, epochs=3, warmup=500)
    assert found.warmup_steps == 15
    assert any("500" in note for note in found.notes)


def test_an_adapter_learns_at_ten_times_the_rate() -> None:
    assert (plan().learning_rate, plan(lora=True).learning_rate) == (5e-5, 5e-4)
    assert plan(lora=True, learning_rate=2e-5).learning_rate == 2e-5


def test_evaluations_and_checkpoints_come_ten_times_in_a_run_unless_told_otherwise() -> None:
    found = plan(1600, epochs=1)
    assert (found.steps, found.eval_every, found.save_every) == (100, 10, 10)
    found = plan(1600, epochs=1, eval_every=1000, save_every=7)
    assert (found.eval_every, found.save_every) == (100, 7)


def test_what_was_chosen_is_said_and_what_was_given_is_not() -> None:
    told = " ".join(plan(batch_size=32).notes)
    assert "tokens of a text" in told
    assert "batch" not in told


def test_accumulation_is_said_to_bring_no_negatives() -> None:
    assert any("does not enlarge" in note for note in plan(gradient_accumulation=2).notes)
    assert not any("does not enlarge" in note for note in plan(gradient_accumulation=2, loss="TripletLoss").notes)


def test_a_batch_with_few_negatives_is_said() -> None:
    assert any("few negatives" in note for note in plan(batch_size=4).notes)
