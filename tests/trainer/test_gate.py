"""The gate: what is not better beyond luck does not take the place of what is live."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests import families, making
from trainer import metadata, reload
from trainer.bootstrap import Difference
from trainer.cli import main
from trainer.errors import InvalidInput
from trainer.gate import Verdict, judge, live_model
from trainer.questions import Questions

# every query has the words of its answer in another order: an encoder that takes the mean of word vectors finds them
# all, and one that looks at the first token alone finds none
WORDS = [word for word in families.WORDS if word.isalpha() and len(word) > 2][:30]


def pairs(count: int = 24) -> list[tuple[str, str]]:
    drawn = np.random.default_rng(0)
    chosen = [[WORDS[at] for at in drawn.choice(len(WORDS), size=4, replace=False)] for _ in range(count)]
    return [(" ".join(words), " ".join(reversed(words))) for words in chosen]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies are loaded in this process; that another one does it is shown in test_proof.py."""
    monkeypatch.setattr(reload, "vectors", reload.embed)


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    path = tmp_path / "held_out.jsonl"
    rows = [{"question": question, "answer": answer} for question, answer in pairs()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def questions() -> Questions:
    asked, answers = zip(*pairs(), strict=True)
    return Questions(asked, answers, tuple(frozenset([n]) for n in range(len(asked))))


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return Path(making.encoder(tmp_path / "good", layers=1, pooling="mean"))


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """Its answers do not depend on what is asked nearly as much."""
    return Path(making.encoder(tmp_path / "bad", layers=1, pooling="cls"))


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume"


def publish(model: Path, volume: Path, held_out: Path, *options: str) -> int:
    arguments = ["publish", str(model), "finetuned/x", "--models-dir", str(volume), "--gate", "--data", str(held_out)]
    return main([*arguments, *options])


def test_the_better_model_passes_and_the_worse_one_does_not(good: Path, bad: Path, questions: Questions) -> None:
    won, lost = judge(good, bad, questions), judge(bad, good, questions)
    assert (won.passed, lost.passed) == (True, False)
    assert won.gain.low > won.margin
    assert won.gain.mean == pytest.approx(-lost.gain.mean)
    assert won.live < won.new


def test_a_model_is_not_better_than_itself(good: Path, questions: Questions) -> None:
    verdict = judge(good, good, questions)
    assert (verdict.gain.low, verdict.gain.high, verdict.passed) == (0, 0, False)


@pytest.mark.parametrize(
    ("low", "margin", "passed"), [(0.011, 0.01, True), (0.01, 0.01, False), (-0.01, 0.0, False), (0.001, 0.0, True)]
)
def test_the_lower_end_of_the_interval_decides(low: float, margin: float, passed: bool) -> None:
    verdict = Verdict("mrr@10", margin, 100, 0.5, 0.6, Difference(0.1, low, 0.2, 0.01))
    assert verdict.passed is passed


def test_an_unknown_metric_is_told_before_anything_is_loaded(tmp_path: Path, questions: Questions) -> None:
    with pytest.raises(InvalidInput, match="no such metric"):
        judge(tmp_path, tmp_path, questions, metric="accuracy-ish")


def test_an_adapter_is_not_scored_by_itself(tmp_path: Path, good: Path, questions: Questions) -> None:
    adapter = Path(making.adapter(tmp_path / "adapter", base=str(good)))
    with pytest.raises(InvalidInput, match="trainer merge"):
        judge(good, adapter, questions)


def test_what_answers_for_a_name_is_its_highest_version(volume: Path, good: Path) -> None:
    assert live_model("finetuned/x", volume) is None
    for number in ("2", "10", "notes"):
        making.encoder(volume / "finetuned" / "x" / number, layers=1)
    assert live_model("finetuned/x", volume) == volume / "finetuned" / "x" / "10"
    making.encoder(volume / "finetuned" / "y", layers=1)
    assert live_model("finetuned/y", volume) == volume / "finetuned" / "y"


def test_a_better_model_replaces_the_live_one_and_a_worse_one_lies_beside_it(
    good: Path, bad: Path, volume: Path, held_out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert publish(bad, volume, held_out) == 0
    assert "nothing to be better than" in capsys.readouterr().err

    assert publish(good, volume, held_out, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["model"], told["replaced"], told["gate"]["passed"]) == ("finetuned/x", True, True)
    served = (volume / "finetuned" / "x" / "model.safetensors").read_bytes()
    gate = metadata.read(volume / "finetuned" / "x")["gate"]
    assert (gate["passed"], gate["against"]) == (True, metadata.weights_digest(bad))

    assert publish(bad, volume, held_out) == 3
    assert (volume / "finetuned" / "x" / "model.safetensors").read_bytes() == served
    assert metadata.read(volume / "finetuned" / "x-candidate")["gate"]["passed"] is False
    assert "published finetuned/x-candidate" in capsys.readouterr().out


def test_only_a_better_model_becomes_a_version(good: Path, bad: Path, volume: Path, held_out: Path) -> None:
    assert publish(bad, volume, held_out, "--version-number=next") == 0
    assert publish(good, volume, held_out, "--version-number=next") == 0
    assert publish(bad, volume, held_out, "--version-number=next") == 3
    assert sorted(path.name for path in (volume / "finetuned").iterdir()) == ["x", "x-candidate"]
    assert sorted(path.name for path in (volume / "finetuned" / "x").iterdir()) == ["1", "2"]


def test_a_gate_without_questions_is_refused(good: Path, volume: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish", str(good), "finetuned/x", "--models-dir", str(volume), "--gate"]) == 2
    assert "--gate needs --data" in capsys.readouterr().err
