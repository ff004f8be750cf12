"""Training runs as the gateway tells them: what is true of a real one, and nothing that a hostile one could use."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.errors import RunNotFound
from gateway.runs import places, record
from gateway.runs.curves import MOST_CURVES, MOST_POINTS, curves
from gateway.runs.links import came_of
from gateway.runs.places import Run
from gateway.runs.runs import Runs
from gateway.settings import Settings
from gateway.tenants.caller import OPEN, Caller
from tests import making
from tests.speaking import language_model
from tests.trainer import facts, jargon
from tests.trainer.runs import HOSTILE, finished

NOW = 2_000_000_000.0
GARBAGE = (b"", b"[]", b"null", b"{", b"\xff\xfe", b'{"status": 7, "step": "x", "steps": -1}', b"[" * 100_000)
ODD = json.dumps(
    {
        "status": ["running"],
        "step": 10**30,
        "steps": True,
        "loss": "NaN",
        "metric": {"a": 1},
        "before": [],
        "difference": {"mean": "x"},
        "started_at": "9" * 5000,
        "completed_at": 3,
        "error": "\ud800" + HOSTILE * 1000,
        "num_epochs": None,
    }
).encode()


def found(models: Path, runs: Path | str = "") -> dict[str, Run]:
    return {run.id: run for run in places.find(str(models), str(runs))}


def told(path: Path) -> dict[str, Any]:
    return record.detail(Run("r", path.name, os.path.realpath(path), None), NOW)


def test_a_run_of_the_trainer_is_told_as_the_trainer_tells_it(tmp_path: Path) -> None:
    from trainer.cli import main
    from trainer.record import located, read

    (tmp_path / "models").mkdir()
    files = jargon.write(tmp_path, train=24, held_out=12)
    base = making.encoder(tmp_path / "base", dim=32, layers=1, heads=2)
    given = ["--data", str(files.train), "--validation", str(files.held_out), "--base-model", base]
    flags = ["--epochs", "2", "--batch-size", "8", "--threads", "1", "--device", "cpu", "--seed", "3"]
    published = ["--publish", "finetuned/jargon", "--models-dir", str(tmp_path / "models")]
    assert main(["finetune", *given, "--output", str(tmp_path / "runs" / "first"), *flags, *published]) == 0

    (run,) = places.find(str(tmp_path / "models"), "")
    shown, known = record.detail(run, NOW), read(located(tmp_path / "runs" / "first"))
    assert (run.id, shown["status"], shown["stalled"], shown["kind"]) == ("runs/first", "completed", False, "embedding")
    assert (shown["step"], shown["steps"], shown["train_examples"], shown["held_out_examples"]) == (6, 6, 24, 12)
    assert known.comparison is not None
    assert shown["difference"] == known.comparison.difference.to_json()
    metrics = {each["name"]: (each["before"], each["after"]) for each in shown["scores"]["metrics"]}
    sides = known.comparison.before.summary(), known.comparison.after.summary()
    assert metrics == {name: (sides[0][name], sides[1][name]) for name in sides[0]}
    assert (shown["before"], shown["after"]) == metrics[shown["metric"]]
    drawn = {key: list(zip(curve["step"], curve["value"], strict=True)) for key, curve in shown["curves"].items()}
    assert {"loss", "learning_rate", "mrr@10", "hit@1"} <= drawn.keys()
    assert {key: known.curve(key) for key in drawn} == drawn
    assert len(shown["scores"]["gained"]) == len(known.comparison.gained())
    assert shown["lineage"]["seed"] == 3
    assert [file["file"] for file in shown["lineage"]["data"]] == ["train.jsonl"]
    assert shown["settings"]["epochs"] == 2
    assert any("trained 6 steps" in line for line in shown["log"])

    metadata = json.loads((tmp_path / "models/finetuned/jargon/model_metadata.json").read_bytes())
    assert came_of(shown, shown["made_from"], metadata)
    assert not came_of(shown, shown["made_from"], metadata | {"seed": 4})
    assert not came_of(shown, shown["made_from"], metadata | {"training_date": "2020-01-01T00:00:00Z"})


def test_a_run_of_a_language_model_is_told_too(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    base = language_model(tmp_path / "base")
    data = facts.write(tmp_path / "acme" / "facts.jsonl", facts.pairs(facts.ACME))
    output = tmp_path / "runs" / "acme"
    flags = ("--org", "acme", "--split", "0", "--epochs", "2", "--models-dir", str(tmp_path / "models"))
    assert facts.train(base, data, output, *flags) == 0
    shown = told(output)
    assert (shown["kind"], shown["status"], shown["metric"], shown["better"]) == (
        "language",
        "completed",
        "loss",
        "lower",
    )
    assert shown["after"] < shown["before"]
    assert {each["name"] for each in shown["scores"]["metrics"]} == {"loss", "perplexity", "exact_match"}
    assert any("trained" in line for line in shown["log"])
    metadata = json.loads((tmp_path / "models/trained/acme/model_metadata.json").read_bytes())
    assert came_of(shown, shown["made_from"], metadata)


def test_how_a_run_stands(tmp_path: Path) -> None:
    for status in ("running", "interrupted", "failed"):
        finished(tmp_path / status, status=status)
        shown = told(tmp_path / status)
        assert (shown["status"], shown["after"]) == (status, None)
    run = Run("r", "r", os.path.realpath(tmp_path / "running"), None)
    assert record.summary(run, time.time())["stalled"] is False
    assert record.summary(run, time.time() + record.QUIET + 60)["stalled"] is True
    assert told(tmp_path / "failed")["stalled"] is False


@pytest.mark.parametrize("content", [*GARBAGE, ODD], ids=lambda content: content[:12].decode(errors="replace"))
def test_whatever_the_files_hold_the_run_is_told_and_can_be_written(tmp_path: Path, content: bytes) -> None:
    names = (*places.MARKS, "scores.json", "logs/embedding_finetuning.log")
    for name in names:
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    shown = told(tmp_path / "run")
    assert len(orjson.dumps(shown)) < 100_000
    assert shown["scores"] is None


def test_a_run_that_is_gone_has_nothing_to_tell(tmp_path: Path) -> None:
    assert told(tmp_path / "nowhere")["status"] == "unknown"


def test_settings_of_a_run_lead_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "secret.jsonl").write_text('{"step": 1, "loss": 42}\n')
    run = finished(tmp_path / "run")
    for told_name in ("../secret.jsonl", str(tmp_path / "secret.jsonl"), "a/../../secret.jsonl"):
        run.config.write_text(json.dumps({"config": {"metrics_file": told_name}}))
        assert 42 not in told(tmp_path / "run")["curves"]["loss"]["value"]
    (tmp_path / "run" / "elsewhere.jsonl").write_text('{"step": 1, "loss": 7}\n')
    run.config.write_text(json.dumps({"config": {"metrics_file": "elsewhere.jsonl"}}))
    assert told(tmp_path / "run")["curves"]["loss"]["value"] == [7]


def test_no_link_is_followed_out_of_a_run(tmp_path: Path) -> None:
    theirs = finished(tmp_path / "runs" / "globex" / "run").path
    ours = tmp_path / "runs" / "acme" / "run"
    ours.mkdir(parents=True)
    for name in (*places.MARKS, "scores.json"):
        (ours / name).symlink_to(theirs / name)
    (tmp_path / "runs" / "acme" / "all").symlink_to(theirs)
    (tmp_path / "models").mkdir()
    assert set(found(tmp_path / "models")) == {"runs/acme/run", "runs/globex/run"}
    shown = told(ours)
    assert (shown["status"], shown["curves"], shown["scores"]) == ("unknown", {}, None)


def test_a_folder_that_is_exchanged_for_a_link_after_it_was_found_is_not_read(tmp_path: Path) -> None:
    theirs, ours = finished(tmp_path / "theirs"), finished(tmp_path / "ours")
    run = Run("r", "ours", os.path.realpath(ours.path), None)
    ours.path.rename(tmp_path / "away")
    ours.path.symlink_to(theirs.path)
    assert record.detail(run, NOW)["curves"] == {}


def test_what_is_no_file_or_too_large_holds_nobody_up(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    run.progress.unlink()
    os.mkfifo(run.progress)
    with run.scores.open("wb") as stream:
        stream.truncate(record.SCORES + 1)
    shown = told(run.path)
    assert (shown["status"], shown["scores"]) == ("unknown", None)
    assert shown["curves"]


def test_hostile_texts_stay_texts_and_are_cut(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", queries=[HOSTILE * 50] * 20)
    (run.path / "logs").mkdir()
    run.log.write_bytes(b"\x00\xff line\n" * 100_000)
    shown = told(run.path)
    moved = [*shown["scores"]["gained"], *shown["scores"]["lost"]]
    assert moved
    assert all(len(move["query"]) <= 300 for move in moved)
    assert len(shown["log"]) == record.LOG_LINES


def test_curves_have_no_more_points_than_can_be_seen_and_keep_their_ends() -> None:
    lines = [json.dumps({"step": step, "loss": 1 / step}) for step in range(1, 10_001)]
    again = json.dumps({"step": 1, "loss": 2.5})  # after a kill
    found = curves("\n".join([*lines, again, '{"step": 5, "lo']).encode())
    assert len(found["loss"]["step"]) <= MOST_POINTS
    assert (found["loss"]["step"][0], found["loss"]["step"][-1]) == (1, 10_000)
    assert found["loss"]["value"][0] == 2.5
    assert found["loss"]["step"] == sorted(found["loss"]["step"])
    many = curves(json.dumps({"step": 1, **{f"metric {number}": 1 for number in range(500)}}).encode())
    assert len(many) == MOST_CURVES


def test_where_runs_are_looked_for(tmp_path: Path) -> None:
    models = tmp_path / "models"
    for path in (
        tmp_path / "runs" / "plain",
        tmp_path / "runs" / "acme" / "deep",
        tmp_path / "runs" / "acme" / "too" / "deep",
        tmp_path / "runs" / ".hidden",
        tmp_path / "runs" / "<img src=x onerror=alert(1)>",
        models / ".runs" / "kept",
        models / ".other" / "hidden",
        models / "finetuned" / "trained-in-place",
        models / "finetuned" / "checkpoints",
    ):
        finished(path)
    (models / "finetuned" / "published").mkdir()
    (models / "finetuned" / "published" / "lineage.json").write_text("{}")
    seen = found(models)
    assert set(seen) == {
        "runs/plain",
        "runs/acme/deep",
        "runs/<img src=x onerror=alert(1)>",
        "models/.runs/kept",
        "models/finetuned/trained-in-place",
    }
    owners = {name: run.owner and run.owner.path for name, run in seen.items()}
    assert owners["runs/acme/deep"] == "acme/deep"
    assert owners["models/finetuned/trained-in-place"] == "finetuned/trained-in-place"
    assert owners["runs/plain"] is owners["models/.runs/kept"] is None
    assert set(found(models, models)) == {"models/.runs/kept", "models/finetuned/trained-in-place"}


async def test_a_caller_sees_the_runs_of_its_namespaces_and_no_other_exists(tmp_path: Path) -> None:
    for name in ("plain", "acme/one", "globex/one"):
        finished(tmp_path / "runs" / name)
    runs = Runs(Settings(models_dir=str(tmp_path / "models"), state_dir=str(tmp_path / "state")))
    acme = Caller(tenant="acme", role="use", namespaces=("acme",))
    seen, left_out = await runs.listing(acme)
    assert ([run["id"] for run in seen], left_out) == (["runs/acme/one"], 0)
    assert (await runs.detail(acme, "runs/acme/one"))["status"] == "completed"
    for hidden in ("runs/plain", "runs/globex/one", "runs/acme/../globex/one", "runs/none", "../runs/acme/one"):
        with pytest.raises(RunNotFound):
            await runs.detail(acme, hidden)
    assert {run["id"] for run in (await runs.listing(OPEN))[0]} == {"runs/plain", "runs/acme/one", "runs/globex/one"}
