"""`trainer finetune`, whole runs of a tiny model: what they leave is true, and every setting does what it says."""

from __future__ import annotations

import json
import os
import random
import re
import stat
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.drop import trainings
from tests import families, making, warm
from trainer import standing
from trainer.cli import main
from trainer.config import Config
from trainer.lineage import differences
from trainer.metadata import weights_digest
from trainer.modelling import load
from trainer.scores import Scores

ROWS = 40
SECRET = "zzsecretzz"  # a word of every row: none of them may leave the run
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl")


@dataclass(frozen=True)
class Files:
    folder: Path
    data: Path
    base: str

    def run(self, name: str, *flags: str, data: Path | None = None) -> int:
        common = ["--threads", "1", "--device", "cpu", "--epochs", "1", "--batch-size", "8", "--max-seq-length", "16"]
        given = ["--data", str(data or self.data), "--base-model", self.base, "--output", str(self.folder / name)]
        return main(["finetune", *given, *common, *flags])

    def progress(self, name: str) -> dict[str, Any]:
        return standing.read_json(self.folder / name / "training_progress.json")

    def metrics(self, name: str) -> list[dict[str, Any]]:
        lines = (self.folder / name / "training_metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def lineage(self, name: str) -> dict[str, Any]:
        return standing.read_json(self.folder / name / "lineage.json")


def rows(count: int, seed: int = 1) -> list[dict[str, str]]:
    chance = random.Random(seed)
    words = list(families.WORDS)
    return [
        {
            "question": f"{SECRET} {' '.join(chance.sample(words, 4))}",
            "answer": f"{' '.join(chance.sample(words, 6))} {SECRET}",
        }
        for _ in range(count)
    ]


def write(path: Path, found: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("runs")
    base = making.encoder(folder / "base" / "tiny", config={"hidden_dropout_prob": 0.1})
    return Files(folder, write(folder / "pairs.jsonl", rows(ROWS)), base)


@pytest.fixture(scope="module")
def full(files: Files) -> Path:
    assert files.run("full", "--epochs", "2", "--lr", "1e-3") == 0
    return files.folder / "full"


@pytest.fixture(scope="module")
def lora(files: Files) -> Path:
    assert (
        files.run("lora", "--use-lora", "--lora-r", "4", "--lr", "1e-2", "--query-prompt", "Q: ", "--best-by", "last")
        == 0
    )
    return files.folder / "lora"


def test_progress_says_what_was_done_with_the_keys_of_the_earlier_trainer(files: Files, full: Path) -> None:
    told = files.progress("full")
    assert (told["status"], told["training_completed"], told["num_epochs"]) == ("completed", True, 2)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", told["completed_at"])
    assert told["train_examples"] + told["eval_examples"] == ROWS
    assert told["base_model"] == files.base
    assert told["duration_seconds"] > 0
    assert Path(told["final_model_path"]) == full / "final_model"


def test_metrics_have_a_line_for_each_log_and_each_evaluation(files: Files, full: Path) -> None:
    lines = files.metrics("full")
    learned, judged = [e for e in lines if "loss" in e], [e for e in lines if "mrr@10" in e]
    assert all({"timestamp", "epoch", "step", "loss", "learning_rate", "steps_per_second"} <= set(e) for e in learned)
    assert all({"mrr@10", "hit@1", "hit@10", "ndcg@10", "recall@10", "map@100"} <= set(e) for e in judged)
    assert judged[0]["step"] == 0
    assert [e["step"] for e in learned] == sorted({e["step"] for e in learned})
    assert learned[-1]["step"] == judged[-1]["step"] == files.progress("full")["step"]


def test_the_log_has_the_earlier_form(full: Path) -> None:
    lines = (full / "logs" / "embedding_finetuning.log").read_text().splitlines()
    assert lines
    assert all(
        re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - (INFO|WARNING|ERROR) - .+", line) for line in lines
    )


def test_scores_before_and_after_are_of_the_same_questions_with_an_interval(full: Path) -> None:
    told = standing.read_json(full / "scores.json")
    before, after = Scores.from_json(told["before"]), Scores.from_json(told["after"])
    assert (told["metric"], before.questions) == ("mrr@10", after.questions)
    assert told["difference"]["mean"] == pytest.approx(after.of("mrr@10") - before.of("mrr@10"))
    assert told["difference"]["low"] <= told["difference"]["mean"] <= told["difference"]["high"]


def test_lineage_tells_base_data_versions_and_seed(files: Files, full: Path) -> None:
    told = files.lineage("full")
    assert told["base"] == {"name": "base/tiny", "digest": weights_digest(Path(files.base))}
    assert told["data"][0]["file"] == "pairs.jsonl"
    assert {"torch", "sentence-transformers", "python", "dropgate"} <= set(told["versions"])
    assert told["seed"] == 42


@pytest.mark.parametrize("run", ["full", "lora"])
def test_the_final_model_is_whole_readable_and_has_the_length_of_its_base(
    run: str, files: Files, full: Path, lora: Path
) -> None:
    model = load(files.folder / run / "final_model")
    assert model.max_seq_length == load(files.base).max_seq_length > 16
    for path in (files.folder / run / "final_model").rglob("*"):
        if path.is_file():
            assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~_umask()


@pytest.mark.parametrize("run", ["full", "lora"])
def test_no_row_of_the_data_and_no_pickle_leaves_a_run(run: str, files: Files, full: Path, lora: Path) -> None:
    for folder in (files.folder / run / "final_model", files.folder / run / "adapter"):
        assert not [path for pattern in PICKLES for path in folder.rglob(pattern)]
        assert not [path for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def test_a_card_tells_people_what_the_model_is(full: Path) -> None:
    card = (full / "final_model" / "README.md").read_text()
    assert "base/tiny fine-tuned on" in card
    assert "| this model |" in card


def test_an_adapter_knows_its_base_by_name_and_digest(files: Files, lora: Path) -> None:
    told = standing.read_json(lora / "adapter" / "model_metadata.json")
    assert told["base_model"] == "base/tiny"
    assert told["base"]["digest"] == weights_digest(Path(files.base))


def test_a_merged_model_is_a_plain_one_that_answers_as_the_adapter_does(lora: Path, files: Files) -> None:
    from sentence_transformers import SentenceTransformer

    texts = ["light and sound", "water"]
    merged = load(lora / "final_model").encode(texts)
    adapted = SentenceTransformer(str(lora / "adapter"), device="cpu").encode(texts)
    assert not (lora / "final_model" / "adapter_config.json").exists()
    assert np.abs(merged - adapted).max() < 1e-6
    assert np.abs(merged - load(files.base).encode(texts)).max() > 1e-4


def test_prompts_go_with_the_model(lora: Path, full: Path) -> None:
    assert load(lora / "final_model").prompts["query"] == "Q: "
    assert not load(full / "final_model").prompts.get("query")


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(files: Files) -> None:
    for name, seed in (("a", "7"), ("b", "7"), ("c", "8")):
        assert files.run(name, "--seed", seed, "--split", "0") == 0
    one, other, third = (trainings.digest_of(files.folder / name / "final_model") for name in "abc")
    assert one == other
    assert one != third


def test_without_held_out_rows_the_last_weights_are_taken_and_there_are_no_scores(files: Files) -> None:
    assert files.run("blind", "--split", "0") == 0
    assert not (files.folder / "blind" / "scores.json").exists()
    assert files.progress("blind")["eval_examples"] == 0
    assert (files.folder / "blind" / "final_model" / "model.safetensors").exists()


def test_a_run_that_is_complete_is_not_run_again_unless_asked(
    files: Files, full: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (full / "training_progress.json").read_bytes()
    assert files.run("full") == 2
    assert "is complete" in capsys.readouterr().err
    assert (full / "training_progress.json").read_bytes() == before


def test_overwrite_begins_anew_and_leaves_what_is_not_the_runs(files: Files) -> None:
    assert files.run("anew", "--split", "0") == 0
    (files.folder / "anew" / "notes.txt").write_text("mine")
    assert files.run("anew", "--split", "0", "--overwrite", "--seed", "9") == 0
    assert files.lineage("anew")["seed"] == 9
    assert (files.folder / "anew" / "notes.txt").read_text() == "mine"


def test_a_directory_of_something_else_is_left_alone(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    (files.folder / "other").mkdir()
    (files.folder / "other" / "thesis.tex").write_text("\\begin")
    assert files.run("other") == 2
    assert "no run of ours" in capsys.readouterr().err
    assert [path.name for path in (files.folder / "other").iterdir()] == ["thesis.tex"]


def test_what_was_begun_otherwise_does_not_go_on_and_the_difference_is_named(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    assert files.run("begun", "--split", "0") == 0
    path = files.folder / "begun" / "training_progress.json"
    path.write_text(json.dumps({**standing.read_json(path), "status": "interrupted"}))
    changed = write(files.folder / "changed.jsonl", rows(ROWS, seed=2))
    assert files.run("begun", "--split", "0", "--lr", "1e-4", data=changed) == 2
    told = capsys.readouterr().err
    assert "learning_rate: 5e-05 then, 0.0001 now" in told
    assert "data: " in told
    assert files.run("begun", "--split", "0", "--resume", "never") == 2
    assert "--overwrite begins anew" in capsys.readouterr().err


def test_max_samples_and_eval_sample_size_bound_what_is_trained_on_and_asked(files: Files) -> None:
    assert files.run("bounded", "--max-samples", "12", "--eval-sample-size", "2", "--val-split", "0.3") == 0
    assert files.progress("bounded")["train_examples"] == 12
    told = standing.read_json(files.folder / "bounded" / "scores.json")
    assert told["before"]["queries"] == 2
    assert told["before"]["documents"] > 12  # what can be found stays


def test_accumulation_makes_fewer_steps_of_the_same_rows(files: Files) -> None:
    assert files.run("accumulated", "--gradient-accumulation", "2", "--split", "0") == 0
    assert files.progress("accumulated")["steps"] == 3  # 40 rows in batches of 8, by two


def test_a_run_that_stops_learning_is_ended_early(files: Files) -> None:
    flags = ("--lr", "1e-12", "--epochs", "20", "--eval-every", "1", "--early-stopping", "3")
    assert files.run("stalled", *flags) == 0
    told = files.progress("stalled")
    assert told["status"] == "completed"
    assert max(e["step"] for e in files.metrics("stalled")) < told["steps"]


def test_checkpoints_are_kept_as_many_as_asked(files: Files) -> None:
    assert files.run("kept", "--save-every", "1", "--keep-checkpoints", "2", "--split", "0") == 0
    found = sorted(path.name for path in (files.folder / "kept" / "checkpoints").glob("checkpoint-*"))
    assert found == ["checkpoint-4", "checkpoint-5"]


@pytest.mark.parametrize("loss", ["CosineSimilarityLoss", "OnlineContrastiveLoss", "TripletLoss"])
def test_a_loss_that_needs_negatives_gets_mined_ones_and_says_so(
    files: Files, loss: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert files.run(loss, "--loss", loss, "--split", "0") == 0
    assert f"{loss}: {ROWS} examples have no negative, so hard ones are mined" in capsys.readouterr().err


def test_mined_negatives_shorter_dimensions_and_the_cached_loss_go_together(files: Files) -> None:
    flags = ("--loss", "CachedMultipleNegativesRankingLoss", "--mine-negatives", "2", "--mini-batch-size", "4")
    assert files.run("together", *flags, "--matryoshka", "16", "--split", "0") == 0
    assert files.progress("together")["status"] == "completed"


def test_a_score_below_what_was_demanded_exits_3_and_keeps_the_model(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    volume = files.folder / "volume"
    volume.mkdir()
    flags = ("--fail-below", "0.999", "--publish", "finetuned/tiny", "--models-dir", str(volume))
    assert files.run("gated", *flags) == 3
    assert "0.999 was demanded" in capsys.readouterr().err
    assert (files.folder / "gated" / "final_model").is_dir()
    assert not list(volume.iterdir())


def test_a_score_cannot_be_demanded_where_nothing_is_held_out(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    assert files.run("unjudged", "--fail-below", "0.5", "--split", "0") == 2
    assert "nothing is held out" in capsys.readouterr().err
    assert not (files.folder / "unjudged" / "final_model").exists()


def test_a_finished_model_is_published_if_asked(files: Files) -> None:
    volume = files.folder / "published"
    volume.mkdir()
    assert files.run("public", "--publish", "finetuned/tiny", "--models-dir", str(volume)) == 0
    texts = ["light and sound"]
    published = load(volume / "finetuned" / "tiny").encode(texts)
    assert np.array_equal(published, load(files.folder / "public" / "final_model").encode(texts))


def test_broken_data_ends_the_run_as_failed_with_its_reason(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    broken = files.folder / "broken.jsonl"
    broken.write_text('{"question": "a"}\n')
    assert files.run("broken", data=broken) == 2
    assert "broken.jsonl:1" in capsys.readouterr().err
    told = files.progress("broken")
    assert (told["status"], told["training_completed"]) == ("failed", False)
    assert "broken.jsonl" in told["error"]


def test_a_disk_that_cannot_be_written_is_told_in_a_line(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    (files.folder / "full-disk").mkdir()
    (files.folder / "full-disk" / "training_metrics.jsonl").mkdir()  # nothing can be appended to a folder
    (files.folder / "full-disk" / "checkpoints").mkdir()
    assert files.run("full-disk") == 1
    told = capsys.readouterr().err
    assert "training_metrics.jsonl: Is a directory" in told
    assert "Traceback" not in told
    assert files.progress("full-disk")["status"] == "failed"


def test_a_directory_that_is_no_model_is_refused(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    assert files.run("nothing", "--base-model", str(files.folder)) == 2
    assert "no model" in capsys.readouterr().err


def test_tensorboard_gets_events_if_asked(files: Files) -> None:
    assert files.run("events", "--tensorboard", "--split", "0") == 0
    assert list((files.folder / "events" / "logs" / "tensorboard").glob("events.out.*"))


def test_test_only_trains_nothing_and_tells_shape_and_lengths(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    assert files.run("tested", "--test_only") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["shape"] == [3, 32]
    assert told["norms"] == pytest.approx([1, 1, 1], abs=1e-5)
    assert not (files.folder / "tested").exists()


def test_the_result_as_json_is_one_line(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    assert files.run("json", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["metric"] == "mrr@10"
    assert told["train_examples"] + told["eval_examples"] == ROWS


def test_a_difference_is_told_with_both_sides() -> None:
    assert differences({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == ["b: 2 then, 3 now", "c: None then, 4 now"]


def test_threads_are_those_that_a_run_was_begun_with(tmp_path: Path) -> None:
    (tmp_path / "lineage.json").write_text(json.dumps({"identity": {"threads": 3}}))
    assert standing.threads_before(Config(output=tmp_path)) == 3
    assert standing.threads_before(Config(output=tmp_path, overwrite=True)) is None


def test_two_processes_train_one_model_and_the_first_alone_writes(files: Files) -> None:
    output = files.folder / "two"
    flags = ["--epochs", "2", "--batch-size", "4", "--max-seq-length", "16", "--device", "cpu", "--lr", "1e-3"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "trainer"]
    given = ["finetune", "--data", str(files.data), "--base-model", files.base, "--output", str(output), *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *given], capture_output=True, text=True, check=False, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("model: ") == 1
    learned = [entry["step"] for entry in files.metrics("two") if "loss" in entry]
    assert learned == sorted(set(learned))
    assert files.lineage("two")["identity"]["processes"] == 2
    assert files.progress("two")["status"] == "completed"
    assert load(output / "final_model").encode(["light"]).shape == (1, 32)


def test_killed_runs_end_with_the_weights_of_undisturbed_ones() -> None:
    told = tortured("KILL", 4)
    assert (told["differing"], told["untrue"], told["statuses"]) == ([], [], [-9])
    assert told["while_saving"] >= 2  # another moment that was drawn may be one too


def test_a_signal_ends_the_step_saves_exits_4_and_the_run_goes_on_exactly() -> None:
    told = tortured("TERM", 2)
    assert (told["differing"], told["untrue"]) == ([], [])
    assert 4 in told["statuses"]
    assert set(told["statuses"]) <= {0, 4}  # 0: the signal came in the last step, and the run was complete


def tortured(how: str, kills: int, *kinds: str) -> dict[str, Any]:
    program = (
        "import sys, torch; from bench.drop import trainings; torch.set_num_threads(1); sys.exit(trainings.main(None))"
    )
    arguments = ["--kills", str(kills), "--signal", how, "--kinds", *(kinds or ("full", "lora"))]
    done = warm.run(program, *arguments, environment={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.stdout, done.stderr
    return dict(json.loads(done.stdout))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
