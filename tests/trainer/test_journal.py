"""What a run writes down is true at every moment, and once only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer.journal import Journal
from trainer.run import RunDirectory


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


def steps(run: RunDirectory) -> list[int]:
    return [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()]


def test_progress_has_a_status_from_the_first_moment(run: RunDirectory) -> None:
    journal = Journal(run)
    journal.begin(base_model="m")
    told = json.loads(run.progress.read_text())
    assert (told["status"], told["training_completed"], told["base_model"]) == ("running", False, "m")
    journal.end("interrupted")
    told = json.loads(run.progress.read_text())
    assert (told["status"], told["interrupted"], told["training_completed"]) == ("interrupted", True, False)


def test_a_resumed_run_takes_back_what_the_killed_one_wrote_of_later_steps(run: RunDirectory) -> None:
    journal = Journal(run)
    for step in (0, 5, 10, 12):
        journal.measure(step=step)
    with run.metrics.open("a") as stream:
        stream.write('{"step": 13, "lo')  # cut by the kill
    journal.forget_after(10)
    assert steps(run) == [0, 5, 10]
    journal.measure(step=11)
    assert steps(run) == [0, 5, 10, 11]


def test_of_several_processes_the_others_write_nothing(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    journal = Journal(run, writes=False)
    journal.begin()
    journal.tell("a line")
    journal.measure(step=1)
    journal.end("completed")
    assert not run.path.exists()
    assert capsys.readouterr().err == ""


def test_two_runs_of_one_program_have_a_log_each(tmp_path: Path) -> None:
    journals = [Journal(RunDirectory(tmp_path / name)) for name in ("a", "b")]
    for journal, line in zip(journals, ("first", "second"), strict=True):
        journal.begin()
        journal.tell(line)
    for journal in journals:
        journal.end("completed")
    assert [
        path.read_text().endswith(f"{line}\n")
        for path, line in [
            (tmp_path / "a/logs/embedding_finetuning.log", "first"),
            (tmp_path / "b/logs/embedding_finetuning.log", "second"),
        ]
    ] == [True, True]
