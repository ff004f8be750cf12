"""OpenVINO makes torch's vectors, is converted once, and computes with the numbers that were asked for."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from gateway.host import encoder, openvino_runtime, runtimes, shelf
from gateway.host.tokenize import Tokenizer
from gateway.model import Generation, ModelId
from gateway.volume.generations import Store
from gateway.volume.source import scan
from gateway.wish import LEAST_COSINE, Wish
from tests import making

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="pip install openvino: an extra, and nothing else needs it"
)
needs_nncf = pytest.mark.skipif(
    importlib.util.find_spec("nncf") is None, reason="pip install nncf: it quantizes to int8"
)
TEXTS = ("the beam is in the storage ring", "laser", "photon " * 60, "", "x-ray light source")
PARITY = 1e-5  # of float32, as between two kernels of torch


def stored(base: Path, **options: Any) -> Generation:
    """In a store, as a host finds it."""
    making.encoder(base / "models/finetuned/m", **options)
    root = str(base / "models")
    return Store(str(base / "state")).accept(scan(root).directories[ModelId("finetuned", "m")], root)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("made")
    stored(base, dense=16, prompts={"query": "laser beam: "}, include_prompt=False)
    return base


@pytest.fixture
def generation(made: Path, tmp_path: Path) -> Generation:
    shutil.copytree(made / "models", tmp_path / "models")
    root = str(tmp_path / "models")
    return Store(str(tmp_path / "state")).accept(scan(root).directories[ModelId("finetuned", "m")], root)


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet", "modernbert", "t5", "qwen3"])
def test_float32_makes_the_vectors_of_torch(family: str, tmp_path: Path) -> None:
    generation = stored(tmp_path, family=family, dense=16)
    rows = Tokenizer(generation).encode(TEXTS)
    loaded = openvino_runtime.load(generation, "float32")
    exact = encoder.load(generation, "cpu")
    np.testing.assert_allclose(loaded.embed(rows), exact.embed(rows), rtol=0, atol=PARITY)
    alone = np.concatenate([loaded.embed([row]) for row in rows])
    np.testing.assert_allclose(alone, loaded.embed(rows), rtol=0, atol=PARITY)


def test_the_real_model_keeps_to_the_tolerances(minilm: str) -> None:
    generation = making.generation(minilm)
    rows = Tokenizer(generation).encode(TEXTS)
    exact = encoder.load(generation, "cpu").embed(rows)
    assert cosines(openvino_runtime.load(generation, "float32").embed(rows), exact).min() >= 0.999999
    chosen = runtimes.load(generation, Wish("openvino", "bfloat16"), "cpu")
    if chosen.numerics.runtime == "torch":
        pytest.skip(chosen.numerics.fell_back)  # a processor without bfloat16
    assert chosen.runtime.bytes <= runtimes.predict(generation, Wish("openvino", "bfloat16"), "cpu")
    found = cosines(chosen.runtime.embed(rows), exact)
    assert LEAST_COSINE["bfloat16"] <= found.min() < 0.9999999, "bfloat16 is not float32"


def test_prompts_are_left_out_of_the_pooling_where_the_model_says_so(generation: Generation) -> None:
    tokenizer = Tokenizer(generation)
    prompt = generation.manifest.prompts["query"]
    rows, count = tokenizer.encode(TEXTS, prompt=prompt), tokenizer.prompt_tokens(prompt)
    loaded, exact = openvino_runtime.load(generation, "float32"), encoder.load(generation, "cpu")
    counts = [count] * len(rows)
    np.testing.assert_allclose(loaded.embed(rows, counts), exact.embed(rows, counts), rtol=0, atol=PARITY)
    assert np.abs(loaded.embed(rows, counts) - loaded.embed(rows)).max() > 100 * PARITY


def test_no_texts_have_no_vectors_and_the_true_dimension(generation: Generation) -> None:
    assert openvino_runtime.load(generation, "float32").embed([]).shape == (0, 16)


def test_a_network_is_converted_once_for_a_generation(generation: Generation, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Tokenizer(generation).encode(TEXTS)
    first = openvino_runtime.load(generation, "float32")
    assert first.bytes > generation.manifest.parameters * 4
    before = first.embed(rows)
    first.close()
    assert first.bytes == 0
    monkeypatch.setattr(openvino_runtime, "_converted", None)  # a second time would fail
    np.testing.assert_array_equal(openvino_runtime.load(generation, "float32").embed(rows), before)
    assert shelf.names(generation) == [f"openvino-{openvino_runtime.version()}-float32"]


@pytest.mark.parametrize("harm", ["truncated", "removed"])
def test_a_kept_network_that_was_damaged_is_made_anew(generation: Generation, harm: str) -> None:
    rows = Tokenizer(generation).encode(TEXTS)
    before = openvino_runtime.load(generation, "float32").embed(rows)
    (name,) = shelf.names(generation)
    path = Path(shelf.find(generation, name) or "", "network.xml")
    path.write_text(path.read_text()[:200]) if harm == "truncated" else path.unlink()
    np.testing.assert_array_equal(openvino_runtime.load(generation, "float32").embed(rows), before)
    assert "</net>" in path.read_text()


def test_what_an_older_version_made_goes_when_the_new_one_is_kept(generation: Generation) -> None:
    for name in ("openvino-2024.1.0-float32", "openvino-2024.1.0-int8", "precision-openvino-2024.1.0-float32"):
        shelf.keep(generation, name, lambda folder: None)
    openvino_runtime.load(generation, "float32")
    kept = [name for name in shelf.names(generation) if name.startswith("openvino-")]
    assert kept == ["openvino-2024.1.0-int8", f"openvino-{openvino_runtime.version()}-float32"]


def test_a_model_that_is_served_in_place_is_converted_and_nothing_is_kept(tmp_path: Path) -> None:
    making.encoder(tmp_path / "models/finetuned/m")
    root = str(tmp_path / "models")
    store = Store(str(tmp_path / "state"), copy_budget=1)
    generation = store.accept(scan(root).directories[ModelId("finetuned", "m")], root)
    chosen = runtimes.load(generation, Wish("openvino", "float32"), "cpu")
    rows = Tokenizer(generation).encode(TEXTS)
    assert chosen.numerics.runtime == "openvino"
    exact = encoder.load(generation, "cpu").embed(rows)
    np.testing.assert_allclose(chosen.runtime.embed(rows), exact, rtol=0, atol=PARITY)
    assert list(tmp_path.rglob("network.*")) == []


def test_nobody_is_told_of_a_conversion_over_the_network(generation: Generation) -> None:
    program = (
        "import sys, msgspec\n"
        "from gateway.host import openvino_runtime\n"
        "from gateway.model import Generation\n"
        "openvino_runtime.load(msgspec.json.decode(sys.stdin.buffer.read(), type=Generation), 'float32')\n"
        "assert sys.modules['openvino_telemetry'] is None\n"
    )  # in a process of its own: other tests import that package, as nncf does
    subprocess.run([sys.executable, "-c", program], input=msgspec.json.encode(generation), check=True, timeout=300)


def test_a_network_that_does_not_convert_falls_back(generation: Generation, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: openvino_runtime.Tokens, input_ids: Any, attention_mask: Any) -> Any:
        raise RuntimeError("an operation that cannot be traced")

    monkeypatch.setattr(openvino_runtime.Tokens, "forward", forward)
    chosen = runtimes.load(generation, Wish("openvino", "float32"), "cpu")
    assert (chosen.numerics.runtime, chosen.numerics.dtype) == ("torch", "float32")
    assert chosen.numerics.fell_back


@needs_nncf
def test_int8_is_calibrated_measured_and_kept(minilm: str, tmp_path: Path) -> None:
    shutil.copytree(minilm, tmp_path / "models/finetuned/m")
    root = str(tmp_path / "models")
    generation = Store(str(tmp_path / "state")).accept(scan(root).directories[ModelId("finetuned", "m")], root)
    chosen = runtimes.load(generation, Wish("auto", "int8"), "cpu")
    measured = chosen.numerics.precision
    assert (chosen.numerics.runtime, chosen.numerics.dtype) == ("openvino", "int8")
    assert measured is not None
    assert LEAST_COSINE["int8"] <= measured.lowest_cosine < 0.9999
    assert measured.top1_agreement >= 0.7
    assert chosen.runtime.bytes <= runtimes.predict(generation, Wish("auto", "int8"), "cpu")
    again = runtimes.load(generation, Wish("auto", "int8"), "cpu")
    rows = Tokenizer(generation).encode(TEXTS)
    np.testing.assert_allclose(again.runtime.embed(rows), chosen.runtime.embed(rows), rtol=0, atol=1e-6)


def test_token_vectors_are_those_of_torch(generation: Generation) -> None:
    rows = Tokenizer(generation).encode(TEXTS)
    found = openvino_runtime.load(generation, "float32").token_vectors(rows)
    for vectors, wanted in zip(found, encoder.load(generation, "cpu").token_vectors(rows), strict=True):
        assert vectors.shape == wanted.shape
        np.testing.assert_allclose(vectors, wanted, rtol=0, atol=PARITY)
