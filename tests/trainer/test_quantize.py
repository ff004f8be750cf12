"""Quantize: what is kept was measured as it loads elsewhere; what is damaged, does not load or moved too far is not."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import families, making
from trainer import golden, metadata, reload
from trainer.cli import main
from trainer.contents import model_files
from trainer.errors import InvalidInput, NotAModel, QualityGate, TrainerError
from trainer.forms import FORMS, Form, named
from trainer.quantize import quantize
from trainer.questions import Questions
from trainer.verbs.quantize import FORMS as SPELLED
from trainer.verbs.quantize import table

WORDS = families.WORDS
QUESTIONS = Questions(
    tuple(f"{WORDS[n]} {WORDS[n + 1]}" for n in range(10, 30)),
    tuple(f"{WORDS[n]} {WORDS[n + 1]} {WORDS[n + 2]}" for n in range(10, 30)),
    tuple(frozenset({n}) for n in range(20)),
)


def here(directory: Path, texts: Sequence[str], *, role: reload.Role = "") -> reload.Answer:
    """As `reload.answered`, without a process of its own; what does not load is told as there."""
    try:
        return reload.Answer(reload.encode(reload.load(directory), texts, role), 0.1)
    except Exception as error:
        raise NotAModel(f"{directory}: does not load: {error}") from error


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = Path(making.encoder(tmp_path_factory.mktemp("model") / "tiny", dim=64))
    metadata.write(path, {"display_name": "Tiny", "scores": {"metric": "mrr@10"}, "dtype": "float32"})
    return path


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_kept_with_what_was_measured(form: str, model: Path, tmp_path: Path) -> None:
    done = quantize(model, tmp_path / "made", form, QUESTIONS, answered=here, min_cosine=0.9, max_loss=0.5)
    assert done.measured.drift.cosine is not None
    assert 0.9 < done.measured.drift.cosine.mean < 1.00001
    assert done.measured.retrieval is not None
    assert done.measured.sizes.after < done.measured.sizes.before
    told = metadata.read(done.path)
    assert told["quantization"]["form"] == form
    assert told["quantization"]["measured"]["mrr@10"]["after"] == done.measured.retrieval.after
    assert told.get("requirements", []) == list(FORMS[form].requirements)
    assert told["base"]["digest"] == metadata.weights_digest(model)
    assert (told["display_name"], "scores" in told, "dtype" in told) == ("Tiny", False, False)
    recorded = golden.Golden.read(told)
    assert recorded is not None
    assert golden.compare(reload.embed(done.path, recorded.texts), recorded) > 0.9999
    assert not [path for path in done.path.rglob("*") if path.is_file() and not path.stat().st_mode & 0o044]
    weights = [path for path in model_files(done.path) if path.suffix in {".safetensors", ".bin"}]
    assert weights, "publishing finds them"


def test_the_verb_measures_in_another_process(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data.jsonl"
    rows = [{"question": q, "answer": a} for q, a in zip(QUESTIONS.queries, QUESTIONS.corpus, strict=True)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    place = tmp_path / "made"
    arguments = ["--model-path", str(model), "--output", str(place), "--form", "bf16", "--data", str(data)]
    assert main(["quantize", *arguments]) == 0
    shown = capsys.readouterr()
    assert "mrr@10" in shown.out
    assert shown.err.splitlines() == ["writing bf16", "loading it in another process, and measuring"]
    assert main(["quantize", *arguments]) == InvalidInput.exit_status, "it is there already"


def spoiled(form: str, spoil: Callable[[Path], None]) -> Form:
    """The form, and something happens to its files after they were saved."""
    plain = named(form)

    def write(source: Path, target: Path) -> None:
        plain.write(source, target)
        spoil(target)

    return replace(plain, write=write)


def cut(target: Path) -> None:
    path = target / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def scramble(target: Path) -> None:
    tensors = load_file(target / "model.safetensors")
    torch.manual_seed(0)
    save_file(
        {name: torch.randn_like(tensor) for name, tensor in tensors.items()},
        target / "model.safetensors",
        metadata={"format": "pt"},
    )


def empty(target: Path) -> None:
    tensors = load_file(target / "model.safetensors")
    name = next(name for name in tensors if name.endswith("word_embeddings.weight"))
    tensors[name] = torch.full_like(tensors[name], float("nan"))
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})


def no_tokenizer(target: Path) -> None:
    (target / "tokenizer.json").unlink()
    (target / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("spoil", "error"),
    [(cut, NotAModel), (scramble, QualityGate), (empty, TrainerError), (no_tokenizer, NotAModel)],
)
def test_what_is_damaged_after_it_was_saved_is_never_kept(
    spoil: Callable[[Path], None], error: type[Exception], model: Path, tmp_path: Path
) -> None:
    with pytest.raises(error):
        quantize(model, tmp_path / "out/made", spoiled("bf16", spoil), answered=here)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.usefixtures("cold")
def test_a_loader_that_dies_in_the_other_process_keeps_nothing(model: Path, tmp_path: Path) -> None:
    def answered(directory: Path, texts: Sequence[str], *, role: reload.Role = "") -> reload.Answer:
        made = here if directory == model else reload.answered
        return made(directory, texts, role=role)

    with pytest.raises(NotAModel, match="does not load"):
        quantize(model, tmp_path / "out/made", spoiled("bf16", cut), answered=answered)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.fixture
def brittle(model: Path, tmp_path: Path) -> Path:
    """One number in each row of the linear layers is so large that 8 bits leave nothing of the others."""
    import shutil

    place = tmp_path / "brittle"
    shutil.copytree(model, place)
    tensors = load_file(place / "model.safetensors")
    for name, tensor in tensors.items():
        if tensor.ndim == 2 and "embeddings" not in name:
            tensor[:, 0] = 300 * tensor.abs().max()
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    return place


def test_a_model_that_quantizes_badly_is_refused_unless_it_is_forced(brittle: Path, tmp_path: Path) -> None:
    place = tmp_path / "out/made"
    with pytest.raises(QualityGate, match="the mean cosine"):
        quantize(brittle, place, "torchao-int8", answered=here)
    assert list(place.parent.iterdir()) == []
    done = quantize(brittle, place, "torchao-int8", answered=here, force=True)
    assert done.faults
    assert metadata.read(place)["quantization"]["forced"] == list(done.faults)
    assert any(line.startswith("kept by force") for line in table(done))


def test_what_is_found_less_is_refused(model: Path, tmp_path: Path) -> None:
    def worse(directory: Path, texts: Sequence[str], *, role: reload.Role = "") -> reload.Answer:
        answer = here(directory, texts, role=role)
        return answer if directory == model or role != "query" else answer._replace(vectors=answer.vectors[::-1].copy())

    with pytest.raises(QualityGate, match="mrr@10 fell by"):
        quantize(model, tmp_path / "out/made", "bf16", QUESTIONS, answered=worse)
    assert list((tmp_path / "out").iterdir()) == []


def test_what_loads_to_something_else_the_second_time_is_refused(model: Path, tmp_path: Path) -> None:
    loads: list[Path] = []

    def fickle(directory: Path, texts: Sequence[str], *, role: reload.Role = "") -> reload.Answer:
        loads.append(directory)
        answer = here(directory, texts, role=role)
        return answer._replace(vectors=np.roll(answer.vectors, 1, axis=1)) if len(loads) == 4 else answer

    with pytest.raises(QualityGate, match="does not answer as it did"):
        quantize(model, tmp_path / "out/made", "bf16", answered=fickle)


def test_only_a_plain_model_is_quantized(model: Path, tmp_path: Path) -> None:
    adapter = Path(making.adapter(tmp_path / "adapter", base=str(model)))
    with pytest.raises(InvalidInput, match="trainer merge"):
        quantize(adapter, tmp_path / "made", "bf16", answered=here)
    twice = Path(making.encoder(tmp_path / "twice", config={"quantization_config": {"quant_method": "bitsandbytes"}}))
    with pytest.raises(InvalidInput, match="quantized already"):
        quantize(twice, tmp_path / "made", "bf16", answered=here)


@pytest.mark.parametrize(("form", "library"), [("bnb-int8", "bitsandbytes"), ("openvino-int8", "nncf")])
def test_a_library_that_is_not_there_is_named(
    form: str, library: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InvalidInput, match=f"needs {library}, not installed here: pip install"):
        quantize(model, tmp_path / "made", form, answered=here)


def test_the_older_names_of_forms_and_flags_are_understood(model: Path, tmp_path: Path) -> None:
    assert (named("int8").name, named("int4").name) == ("bnb-int8", "bnb-nf4")
    assert tuple(FORMS) == SPELLED
    with pytest.raises(InvalidInput, match="no form 'int2'"):
        named("int2")


def test_four_bits_are_always_quantized_twice(model: Path, tmp_path: Path) -> None:
    FORMS["bnb-nf4"].write(model, tmp_path)
    told: dict[str, Any] = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert (told["bnb_4bit_use_double_quant"], told["bnb_4bit_quant_type"]) == (True, "nf4")
