"""The best evaluation is read from the log; its weights, and no others, become the final model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests import making
from trainer import best, final
from trainer.config import Config
from trainer.modelling import load
from trainer.run import RunDirectory

METRIC = "mrr@10"


def log(*scores: float) -> list[dict[str, Any]]:
    """An evaluation every ten steps, with losses between."""
    entries: list[dict[str, Any]] = []
    for number, score in enumerate(scores, 1):
        entries += [{"step": 10 * number, "loss": 1.0}, {"step": 10 * number, f"eval_{METRIC}": score}]
    return entries


def test_the_best_is_the_highest_and_of_equals_the_first() -> None:
    assert best.best(log(0.1, 0.5, 0.5, 0.4), METRIC) == (20, 0.5)
    assert best.best([{"step": 1, "loss": 2.0}], METRIC) is None


def test_of_losses_the_lowest_is_the_best_and_what_is_no_number_is_none() -> None:
    entries = [{"step": step, "eval_loss": loss} for step, loss in enumerate((2.0, 0.5, float("nan"), 0.5, 0.7), 1)]
    assert best.best(entries, "loss") == (2, 0.5)
    assert best.is_stalled(entries, "loss", 2)
    assert best.best(entries[2:3], "loss") is None


def test_a_run_is_stalled_after_so_many_evaluations_without_a_gain() -> None:
    assert not best.is_stalled(log(0.1, 0.5, 0.5), METRIC, 2)
    assert best.is_stalled(log(0.1, 0.5, 0.5, 0.4), METRIC, 2)
    assert not best.is_stalled(log(0.1, 0.5, 0.4, 0.6), METRIC, 2)
    assert not best.is_stalled(log(0.5, 0.4, 0.3), METRIC, 0)


def test_only_an_evaluation_that_is_the_best_so_far_is_kept(tmp_path: Path) -> None:
    def save(path: str) -> None:
        Path(path).mkdir()

    keep = best.KeepBest(tmp_path, METRIC, 0, save)
    scores = [0.1, 0.5, 0.4, 0.6]
    for count in range(1, len(scores) + 1):
        state = SimpleNamespace(log_history=log(*scores[:count]), global_step=10 * count, is_world_process_zero=True)
        keep.on_evaluate(None, state, SimpleNamespace())
        kept = [path.name for path in tmp_path.iterdir()]
        assert kept == [f"best-{10 * (1, 2, 2, 4)[count - 1]}"]


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run whose best weights, of step 20, are those of another model than the last."""
    load(making.encoder(tmp_path / "good", seed=1)).save_pretrained(
        str(tmp_path / "run" / "checkpoints" / "best-20"), create_model_card=False
    )
    return RunDirectory(tmp_path / "run")


def vectors(model: Any) -> Any:
    return model.encode(["light and sound", "water"])


def test_the_best_weights_take_the_place_of_the_last(run: RunDirectory, tmp_path: Path) -> None:
    model = load(making.encoder(tmp_path / "last", seed=2))
    told = final.take_best(Config(), run, model, [*log(0.1, 0.5, 0.4), {"step": 30}])
    assert told == "the best weights are those of step 20: mrr@10 0.5000"
    assert np.array_equal(vectors(model), vectors(load(tmp_path / "good")))


@pytest.mark.parametrize(("scores", "by"), [((0.1, 0.4, 0.5), "mrr@10"), ((0.1, 0.5, 0.4), "last"), ((), "mrr@10")])
def test_the_last_weights_stay_where_they_are_the_best_or_asked_for(
    run: RunDirectory, tmp_path: Path, scores: tuple[float, ...], by: Any
) -> None:
    model = load(making.encoder(tmp_path / "last", seed=2))
    assert final.take_best(Config(best_by=by), run, model, [*log(*scores), {"step": 10 * len(scores)}]) == ""
    assert np.array_equal(vectors(model), vectors(load(tmp_path / "last")))


def test_best_weights_that_are_cut_are_not_taken_and_it_is_said(run: RunDirectory, tmp_path: Path) -> None:
    path = run.checkpoints / "best-20" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    model = load(making.encoder(tmp_path / "last", seed=2))
    told = final.take_best(Config(), run, model, [*log(0.1, 0.5, 0.4), {"step": 30}])
    assert "not there any more" in told
    assert np.array_equal(vectors(model), vectors(load(tmp_path / "last")))


def test_a_saved_model_replaces_what_a_killed_run_left(run: RunDirectory, tmp_path: Path) -> None:
    run.final_model.mkdir()
    (run.final_model / "optimizer.pt").write_bytes(b"left")
    model = load(making.encoder(tmp_path / "m"))
    known = {"base": {"name": "base/m", "digest": "0" * 64}, "examples": {"train": 1, "held_out": 0}}
    final.save(Config(), run, model, tmp_path / "m", known)
    assert not (run.final_model / "optimizer.pt").exists()
    assert sorted(path.name for path in run.path.iterdir()) == ["checkpoints", "final_model"]
    assert torch.equal(torch.tensor(vectors(load(run.final_model))), torch.tensor(vectors(model)))
