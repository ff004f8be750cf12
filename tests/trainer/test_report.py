"""The page and the table of runs: what they show, that they are safe, and that they are right while a run goes on."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.trainer.runs import HOSTILE, finished
from trainer import charts
from trainer.cli import main
from trainer.errors import InvalidInput
from trainer.record import read
from trainer.report import write_report
from trainer.run import RunDirectory, append_json, write_json


class Reader(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def report(run: RunDirectory) -> str:
    return write_report(run).read_text(encoding="utf-8")


def test_a_page_shows_scores_curves_queries_settings_and_lineage(tmp_path: Path) -> None:
    page = report(finished(tmp_path / "first"))
    text = Reader(page).text
    found = read(RunDirectory(tmp_path / "first")).comparison
    assert found is not None
    assert f"{found.before.of('mrr@10'):.3f} → {found.after.of('mrr@10'):.3f}" in re.sub(r"\s+", " ", text)
    for shown in ("Loss", "Learning rate", "Steps per second", "Scores at each evaluation", "best mrr@10", "Lost most"):
        assert shown in text
    assert found.worst()[0].query in text
    assert "run.toml" in text  # where a setting came from
    assert "data.0.sha256" in text
    assert "sha256:53aa51172d142c89" in text


def test_the_page_needs_nothing_else_and_runs_nothing(tmp_path: Path) -> None:
    page = Reader(report(finished(tmp_path / "first")))
    assert page.links == []
    assert not {"script", "iframe", "img", "link", "object"} & set(page.tags)
    assert "url(" not in page.text


def test_hostile_texts_are_shown_and_do_nothing(tmp_path: Path) -> None:
    run = finished(tmp_path / "<u>run", queries=[HOSTILE] * 20)
    told = json.loads(run.progress.read_text())
    write_json(run.progress, told | {"status": HOSTILE, "error": HOSTILE, "base_model": HOSTILE})
    write_json(run.config, {"config": {HOSTILE: HOSTILE}, "sources": {HOSTILE: HOSTILE}})
    write_json(run.lineage, {HOSTILE: [HOSTILE]})
    page = report(run)
    read_back = Reader(page)
    assert "script" not in read_back.tags
    assert "u" not in read_back.tags
    assert "<script>alert(1)</script>" in read_back.text
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_every_picture_is_well_formed_and_inside_its_frame(tmp_path: Path) -> None:
    page = report(finished(tmp_path / "first", steps=2000))
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) == 6
    for picture in pictures:
        drawn = ElementTree.fromstring(picture)
        width, height = (float(part) for part in drawn.attrib["viewBox"].split()[2:])
        for line in drawn.iter("polyline"):
            places = [tuple(map(float, place.split(","))) for place in line.attrib["points"].split()]
            assert len(places) <= charts.MOST_POINTS + 1
            assert all(0 <= x <= width and 0 <= y <= height for x, y in places)


def test_a_run_that_goes_on_reloads_its_page_and_one_that_ended_does_not(tmp_path: Path) -> None:
    running = report(finished(tmp_path / "a", status="running"))
    assert 'http-equiv="refresh"' in running
    assert "Scores at each evaluation" in running
    assert 'http-equiv="refresh"' not in report(finished(tmp_path / "b"))


def test_a_run_that_has_only_begun_has_a_page(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    write_json(run.progress, {"status": "running", "base_model": "base"})
    assert "running" in Reader(report(run)).text


def test_broken_files_of_a_run_spoil_only_what_they_hold(tmp_path: Path) -> None:
    run = finished(tmp_path / "first")
    run.scores.write_text("{")
    run.lineage.write_bytes(b"\xff")
    with run.metrics.open("ab") as stream:
        stream.write(b'{"step": 7, "loss": "x"}\n{"step": [1], "mrr@10": 1}\n{"step": 5, "lo')
    append_json(run.metrics, {"step": 500, "loss": 0.25})
    assert read(run).curve("loss")[-1] == (500, 0.25)
    text = Reader(report(run)).text
    assert "Loss" in text
    assert "Before and after" not in text


def test_what_is_no_run_has_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidInput, match="not a training run"):
        write_report(RunDirectory(tmp_path))
    assert main(["report", str(tmp_path / "missing")]) == 2
    assert list(tmp_path.iterdir()) == []
    assert "no such directory" in capsys.readouterr().err


def test_a_step_that_was_done_again_counts_once(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for step, loss in ((1, 3.0), (2, 2.0), (2, 2.5), (3, 1.0)):
        append_json(run.metrics, {"step": step, "loss": loss})
    assert read(run).curve("loss") == [(1, 3.0), (2, 2.5), (3, 1.0)]


def test_a_smoothed_curve_keeps_a_line_and_halves_noise() -> None:
    line = [(step, 2.0 - step / 100) for step in range(100)]
    assert charts.smoothed(line)[4:-4] == [(step, pytest.approx(value)) for step, value in line[4:-4]]
    noise = [(step, float(step % 2)) for step in range(100)]
    assert max(abs(value - 0.5) for _, value in charts.smoothed(noise)[10:90]) < 0.15


def test_axes_have_round_numbers() -> None:
    assert charts.ticks(0, 1) == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert charts.ticks(0, 117) == pytest.approx([0, 50, 100])
    assert [charts.number(value) for value in (0, 0.25, 5e-5, 12_000, 2_500_000)] == [
        "0",
        "0.25",
        "5e-5",
        "12k",
        "2.5M",
    ]


def test_a_flat_curve_and_a_single_point_are_drawn() -> None:
    flat = charts.lines("flat", [charts.Curve("flat", [(1, 0.0), (2, 0.0)], "main")])
    point = charts.lines("point", [charts.Curve("point", [(3, 0.5)], "main")])
    assert "nan" not in flat + point
    assert "<polyline" in flat
    assert "<circle" in point
    assert charts.lines("none", [charts.Curve("none", [], "main")]) == ""


def test_runs_lists_the_newest_first_with_their_gains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")  # what the table is as wide as, whoever runs the tests
    older, newer = finished(tmp_path / "older"), finished(tmp_path / "newer", status="failed")
    told = json.loads(newer.progress.read_text())
    write_json(newer.progress, told | {"started_at": "2026-11-29T00:00:00.000000Z"})
    (tmp_path / "no run").mkdir()
    assert main(["runs", str(tmp_path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["status"]) for row in rows] == [("newer", "failed"), ("older", "completed")]
    scored = read(older).comparison
    assert scored is not None
    assert rows[1]["after"] == scored.after.of("mrr@10")
    assert rows[1]["difference"]["mean"] == pytest.approx(rows[1]["after"] - rows[1]["before"])
    assert (rows[1]["examples"], rows[1]["base"]) == (500, "sentence-transformers/all-MiniLM-L6-v2")
    assert main(["runs", str(tmp_path)]) == 0
    assert re.search(r"older +completed +sentence-transformers/all-MiniLM-L6-v2 +500 +mrr@10", capsys.readouterr().out)


def test_a_folder_without_runs_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(tmp_path)]) == 0
    assert "no runs" in capsys.readouterr().out
    assert main(["runs", str(tmp_path / "missing")]) == 2


def test_the_files_of_a_run_are_found_where_its_settings_put_them(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path, metrics_file=Path("logs/m.jsonl"))
    write_json(run.config, {"config": {"metrics_file": "logs/m.jsonl"}, "sources": {}})
    append_json(run.metrics, {"step": 1, "loss": 1.5})
    assert main(["report", str(tmp_path)]) == 0
    assert "Loss" in run.report.read_text()


def test_curves_are_drawn_as_a_png(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    finished(tmp_path / "$first$")
    assert main(["report", str(tmp_path / "$first$"), "--png", str(tmp_path / "curves.png")]) == 0
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.split() == [str(tmp_path / "$first$" / "report.html"), str(tmp_path / "curves.png")]
