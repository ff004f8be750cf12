"""The GPU's benchmark measures what it says, leaves out what it cannot, and says so."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bench import gpu, gpu_limits, gpu_models
from gateway.host import encoder, flash, forms, launcher
from tests.host.test_launcher import Laid, NearBus, Taping, each

TINY = gpu_models.Shape(
    "bert", {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
)
TINY_QWEN = gpu_models.Shape("qwen3", TINY.config | {"num_key_value_heads": 1, "head_dim": 32, "vocab_size": 32_000})


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_models, "SHAPES", {"tiny": TINY, "tiny-qwen": TINY_QWEN})
    monkeypatch.setattr(gpu, "SHAPES", gpu_models.SHAPES)
    monkeypatch.setattr(gpu, "SECONDS", 0.01)


@pytest.mark.usefixtures("tiny")
def test_on_a_cpu_what_it_can_do_is_measured_and_the_rest_is_listed_with_its_reason() -> None:
    report = gpu.run("cpu", ["tiny", "tiny-qwen"], quick=True)
    assert set(report["models"]) == {f"{name} {dtype}" for name in gpu.SHAPES for dtype in ("bfloat16", "float32")}
    for model in report["models"].values():
        assert set(model["skipped"]) == {"padded", "graphs", "packed", "overlapped", "swap"}
        for cell in model["cells"].values():
            assert cell["embed"]["tokens_per_second"] > 0
            assert cell["embed"]["cosine"] == pytest.approx(1)
    assert set(report["skipped"]) == {"bus", "http"}
    assert "skipped: bus: cpu is no CUDA device" in gpu.table(report)
    assert json.loads(json.dumps(report)) == report


def stand_in(loaded: encoder.Encoder, monkeypatch: pytest.MonkeyPatch) -> gpu.Ways:
    """The ways of a GPU on this device: copies are done at once, and graphs are replays in Python."""

    def on_device(
        form: forms.Form, longest: int, device: str, tell: Callable[[str], None], graph_bytes: int = 1 << 30
    ) -> launcher.Launcher:
        return launcher.Launcher(form, longest, NearBus(), Taping(), graph_bytes=graph_bytes, tell=tell)

    monkeypatch.setattr(flash, "_varlen", lambda: each)
    monkeypatch.setattr(launcher, "on_device", on_device)
    loaded.launcher = on_device(Laid(loaded._network, loaded._tail, loaded.pooling, "cpu"), 512, "cpu", print)
    return gpu.Ways(loaded, "cpu")


@pytest.mark.usefixtures("tiny")
def test_every_way_of_a_gpu_gives_the_same_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = encoder.load(gpu_models.generation("tiny", tmp_path), "cpu")

    ways = stand_in(loaded, monkeypatch)
    assert set(ways.calls) == {"padded", "graphs", "packed", "overlapped"}
    for batch, tokens in gpu.cells(quick=True):
        for figures in gpu.measure(ways, TINY, gpu.texts(batch, tokens), 0.001).values():
            assert figures["cosine"] > 0.99999
            assert figures["texts_per_second"] == pytest.approx(1000 * batch / figures["milliseconds"])


@pytest.mark.usefixtures("tiny")
def test_a_batch_that_is_never_captured_is_not_measured_as_if_it_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = encoder.load(gpu_models.generation("tiny", tmp_path), "cpu")
    ways = stand_in(loaded, monkeypatch)
    assert "graphs" in gpu.measure(ways, TINY, gpu.texts(2, 16), 0.001)
    assert "graphs" not in gpu.measure(ways, TINY, gpu.texts(70, 16), 0.001)


def test_operations_are_counted_from_the_shape() -> None:
    # two for each weight of a linear layer, and four for each pair of tokens and number of a vector
    assert TINY.flop(1) == 2 * (2 * (4 * 64 * 64 + 2 * 64 * 128) + 4 * 64)
    assert TINY_QWEN.flop(1) == 2 * (2 * (64 * 32 * 6 + 3 * 64 * 128) + 4 * 64)
    assert 20e6 < gpu_models.SHAPES["minilm"].flop(16) / 16 < 22e6


def test_mixed_lengths_lie_between_the_ends_they_are_named_by() -> None:
    lengths = [len(ids) for ids in gpu.texts(200, gpu.MIXED)]
    assert 16 <= min(lengths) < 64
    assert 450 < max(lengths) <= 512
    assert all(np.array_equal(a, b) for a, b in zip(gpu.texts(3, 8), gpu.texts(3, 8), strict=True))


def test_a_product_is_measured_in_operations_a_second() -> None:
    found = gpu_limits.products("cpu", quick=True)
    assert set(found) == {f"{name} {dtype}" for name in ("square", "bge-base") for dtype in ("bfloat16", "float32")}
    assert all(rate > 0 for rate in found.values())


def test_without_a_gpu_the_command_says_so_in_a_line() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    done = subprocess.run([sys.executable, "-m", "bench.gpu"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("there is no CUDA device here")
    assert "Traceback" not in done.stderr
