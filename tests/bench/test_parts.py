"""A tiny run of each part, on the real gateway with the real model. What is asserted holds at any speed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench import __main__ as command
from bench import (
    devices,
    directories,
    generating,
    goals,
    http,
    ingestion,
    inprocess,
    knowledge,
    limit,
    loads,
    memory,
    models,
    overload,
    pictures,
    tables,
    training,
)
from bench.environments import NotInstalled, demand
from bench.setting import Setting
from gateway.model import Accepted
from gateway.volume.manifest import judge
from tests import making


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path, tmp_path / "cache", quick=True, rounds=1, seconds=0.2)


def test_the_limit_of_the_machine_is_measured_with_every_kernel_that_it_has() -> None:
    found = limit.measured(0.01)
    assert set(found["gflops"]) | set(found["missing"]) == set(limit.KERNELS)
    assert "torch float32" in found["gflops"]
    assert min(found["gflops"].values()) > 0
    assert found["flops_per_token"] == 2 * 6 * (4 * 384 * 384 + 2 * 384 * 1536)
    assert found["memory"]["read"] > 0
    assert "GFLOP/s" in tables.limit(found)


def test_our_runtime_in_one_process_has_the_vectors_of_encode(setting: Setting) -> None:
    found = inprocess.run(setting)
    assert found["cosine"]["torch/float32"]["lowest"] > 0.999999
    assert set(found["cosine"]) | set(found["missing"]) == {inprocess.ENCODE, *inprocess.OURS}
    for cell in found["cells"].values():
        assert set(cell) == set(found["cosine"])
        assert all(figures["texts_per_second"] > 0 for side in cell.values() for figures in side)
    assert "torch/float32" in tables.inprocess(found)


def test_every_request_through_http_is_answered(setting: Setting) -> None:
    found = http.run(setting)
    assert list(found["cells"]) == [shape.name for shape in http.QUICK]
    for cell in found["cells"].values():
        assert [figures["refused"] + figures["broken"] for figures in cell[http.GATEWAY]] == [0]
    # of a machine that stood still in one of the cells, some ticks are told in the others
    assert any(cell[http.GATEWAY][0]["server_cores"] > 0 for cell in found["cells"].values())
    assert found["generator_headroom"] > 0
    assert [verdict.met for verdict in goals.verdicts({"parts": {"http": found}})[:5]].count(None) == 0
    assert "load generator" in tables.http(found)


def test_models_in_turn_are_all_answered(setting: Setting) -> None:
    found = models.run(setting)
    for cell in found["cells"].values():
        assert [figures["refused"] + figures["broken"] for figures in cell["many"]] == [0]
    assert "4 models" in tables.models(found)


def test_loads_come_from_where_they_are_said_to_come(setting: Setting) -> None:
    found = loads.run(setting)
    size = found["sizes"]["MiniLM"]
    assert size["from_page_cache"]["returned"] == 0
    assert size["from_host_memory"]["returned"] == len(size["from_host_memory"]["waited"]) == loads.ROUND_TRIPS
    assert found["swaps"]["with"]["refused"] + found["swaps"]["with"]["broken"] == 0
    assert found["swaps"]["swaps"] >= 1
    assert "MiniLM" in tables.loads(found)
    assert "with swaps" in tables.swaps(found)


def test_an_overload_refuses_and_says_when_to_come_back(setting: Setting) -> None:
    found = overload.run(setting)
    most = found["loads"]["4x"]
    assert most["accepted"] > 0
    assert most["refused"] > 0
    assert most["other"] == most["without_retry_after"] == 0
    assert "4x" in tables.overload(found)


def test_memory_is_read_of_the_gateway_and_of_its_host(setting: Setting) -> None:
    found = memory.run(setting)
    assert 0 < found["idle"]["first"] < found["idle"]["others"]
    assert all(model["counted"] >= 0.9 * found["file_bytes"] for model in found["models"])
    assert found["starts"][0]["listening"] <= found["starts"][0]["ready"]
    assert "MB" in tables.idle(found)


def test_a_knowledge_base_is_searched_as_it_grows(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knowledge, "QUICK", (1000, 2000))
    found = knowledge.run(setting)
    assert [row["chunks"] for row in found["rows"]] == [1000, 2000]
    for row in found["rows"]:
        assert row["recall"] >= 0.95
        assert row["filtered_short"] == 0
        assert row["disk"] > row["raw"]
        assert row["resident"] > row["resident_empty"]
        assert row["held_bytes"] > row["raw"]
    assert "2,000" in tables.knowledge(found)


def test_the_chunks_that_go_into_a_knowledge_base_are_embedded_alone_too(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingestion, "QUICK", 2)
    monkeypatch.setattr(ingestion, "SENTENCES", 15)
    found = ingestion.run(setting)
    assert len(found["rounds"]) == setting.rounds
    assert all(each["chunks"] >= 4 for each in found["rounds"])
    assert all(each[way]["seconds"] > 0 for each in found["rounds"] for way in ("ingest", "embed"))
    assert "2 documents" in tables.ingestion(found)


def test_the_trainers_loop_is_measured_beside_the_librarys(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = making.encoder(tmp_path / "tiny")
    monkeypatch.setattr(making, "minilm", lambda: base)
    monkeypatch.setattr(training, "PAIRS", {True: 32})
    monkeypatch.setattr(training, "SIZES", {True: (16, 32)})
    found = training.run(setting)
    assert len(found["ratios"]) == setting.rounds
    assert all(ratio > 0 for ratio in found["ratios"])
    assert [row["steps"] for row in found["sizes"]] == [1, 2]
    assert training.PLAIN in tables.training(found)
    assert any("training" in verdict.goal for verdict in goals.verdicts({"parts": {"training": found}}))


def test_language_models_are_continued_by_all_sides_and_through_http(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generating, "SHAPE", {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2})
    monkeypatch.setattr(generating, "TOKENS", {True: 3})
    monkeypatch.setattr(generating, "VOICES", {True: (2, 4)})
    monkeypatch.setattr(generating, "ROWS", {True: (2,)})
    found = generating.run(setting)
    for cell in found["cells"].values():
        assert all(figures["tokens_per_second"] > 0 for side in cell.values() for figures in side)
    assert found["missing"] == {}
    assert 0.9 < found["voice_bytes"] / found["voice_file_bytes"] < 1.1
    for figures in found["http"].values():
        assert figures["broken"] == 0
        assert 0 < figures["first_p50"] <= figures["first_p99"]
    assert "4 adapters" in tables.generating(found)
    assert [verdict.met for verdict in goals.verdicts({"parts": {"generating": found}})][-4:].count(None) == 0
    assert "number of adapters" in pictures.pictures({"parts": {"generating": found}})[pictures.ADAPTERS]


def test_a_report_is_printed_written_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "reports" / "bench.json"
    status = command.main(["--quick", "--seconds=0.1", "--parts=limit", f"--out={out}", f"--cache={tmp_path}"])
    report = json.loads(out.read_text(encoding="utf-8"))
    assert status == 0
    assert list(report["parts"]) == ["limit"]
    assert report["parts"]["limit"]["noise"]["seconds"] > 0
    assert report["machine"]["cores"] >= 1
    assert "oneDNN float32, packed" in capsys.readouterr().out


def test_a_part_that_is_not_there_is_an_error_of_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["--parts=htpt"])
    assert ended.value.code == 2
    assert "no such part: htpt" in capsys.readouterr().err


def test_a_peer_that_does_not_install_is_told_with_its_reason() -> None:
    with pytest.raises(NotInstalled, match="no such wheel"):
        demand(sys.executable, "-c", "import sys; sys.exit('no such wheel')")


def test_random_weights_of_a_larger_shape_are_a_model_that_the_gateway_accepts(tmp_path: Path) -> None:
    path = directories.publish_random(
        tmp_path, "bench/random", seed=1, hidden_size=96, num_hidden_layers=2, num_attention_heads=4, vocab_size=30522
    )
    verdict = judge(str(path))
    assert isinstance(verdict, Accepted), verdict
    assert verdict.manifest.dim == 96


def test_two_devices_and_two_bare_processes_are_held_against_one(setting: Setting) -> None:
    found = devices.run(setting)
    assert set(found["cells"]) == {devices.SHAPE.name, devices.CEILING}
    for cell in found["cells"].values():
        assert all(figures["texts_per_second"] > 0 for side in cell.values() for figures in side)
    assert {figures["broken"] for side in found["cells"][devices.SHAPE.name].values() for figures in side} == {0}
    (verdict,) = [each for each in goals.verdicts({"parts": {"devices": found}}) if "two devices" in each.goal]
    assert verdict.measured is not None
    assert devices.CEILING in tables.on_devices(found)
