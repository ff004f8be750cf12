"""Proof: what fails its check is never published, and what passes takes its vectors along."""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gateway.catalog import golden as gateway_golden
from gateway.volume.metadata import read_metadata
from tests import making
from trainer import metadata, reload
from trainer.cli import main
from trainer.errors import InvalidInput, NotAModel, QualityGate
from trainer.golden import TEXTS, Golden
from trainer.proof import describing, is_encoder
from trainer.publish import publish
from trainer.verbs.publishing import check, publish_if_asked


def here(directory: Path, texts: Sequence[str], *, base: Path | None = None) -> reload.Matrix:
    """As `reload.vectors`, without a process of its own; what does not load is told as there."""
    try:
        return reload.embed(directory, texts, base=base)
    except Exception as error:
        raise NotAModel(f"{directory}: does not load: {error}") from error


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """As a training verb leaves it: with the vectors that it had in memory."""
    directory = Path(making.encoder(tmp_path / "model"))
    metadata.write(directory, {"golden": Golden(TEXTS, reload.embed(directory, TEXTS)).to_json(), "base_model": "tiny"})
    return directory


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume"


def publish_proven(model: Path, volume: Path, **given: str) -> Path:
    return publish(model, "finetuned/x", volume, describe=describing(model, given, load=here)).path


def test_the_vectors_that_go_with_a_model_are_those_that_the_gateway_reads(model: Path, volume: Path) -> None:
    published = publish_proven(model, volume, display_name="Tiny", description="of a test")
    told, warning = read_metadata(str(published), str(volume))
    found, wrong = gateway_golden.read(told)
    assert (warning, wrong) == (None, None)
    assert found is not None
    assert np.allclose(np.array(found.vectors), reload.embed(published, found.texts), atol=1e-6)
    assert (told["display_name"], told["description"], told["base_model"]) == ("Tiny", "of a test", "tiny")


def test_a_model_without_recorded_vectors_gets_those_of_its_copy(tmp_path: Path, volume: Path) -> None:
    model = Path(making.encoder(tmp_path / "model"))
    published = publish_proven(model, volume)
    golden = Golden.read(metadata.read(published))
    assert golden is not None
    assert golden.texts == TEXTS
    assert np.allclose(golden.vectors, reload.embed(model, TEXTS), atol=1e-6)
    assert not (model / metadata.FILE).exists()


def test_the_metadata_is_in_the_sums(model: Path, volume: Path) -> None:
    published = publish_proven(model, volume, display_name="Tiny")
    lines = (published / "SHA256SUMS").read_text().splitlines()
    digest = hashlib.sha256((published / metadata.FILE).read_bytes()).hexdigest()
    assert f"{digest}  {metadata.FILE}" in lines


def corrupt_weights(model: Path) -> None:
    """A byte in the middle of a tensor: the file is whole and opens."""
    path = model / "model.safetensors"
    content = bytearray(path.read_bytes())
    for at in range(len(content) // 2, len(content) // 2 + 4096, 4):
        content[at + 3] ^= 0x41  # the exponent
    path.write_bytes(content)


def swap_tokenizer(model: Path) -> None:
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    names = sorted(name for name in vocabulary if not name.startswith("["))
    numbers = [vocabulary[name] for name in names]
    vocabulary.update(dict(zip(names, numbers[1:] + numbers[:1], strict=True)))
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))


def plant_nan(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    name = next(name for name in tensors if "word_embeddings" in name)
    tensors[name][:] = np.nan
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


def another_model(model: Path) -> None:
    told = metadata.read(model)
    making.encoder(model, seed=1)
    metadata.write(model, told)


def change_dimension(model: Path) -> None:
    told = metadata.read(model)
    told["golden"]["vectors"] = [row[:-1] for row in told["golden"]["vectors"]]
    metadata.write(model, told)


def remove_vocabulary(model: Path) -> None:
    (model / "config.json").write_text('{"model_type": "nothing-that-there-is"}')


@pytest.mark.parametrize(
    ("plant", "failure", "message"),
    [
        (corrupt_weights, QualityGate, "does not answer as it did|not finite"),
        (swap_tokenizer, QualityGate, "does not answer as it did"),
        (plant_nan, QualityGate, "not finite"),
        (another_model, QualityGate, "does not answer as it did"),
        (change_dimension, QualityGate, "makes 32 numbers, and made 31 before"),
        (remove_vocabulary, NotAModel, "does not load"),
    ],
)
def test_what_does_not_answer_as_it_did_when_it_was_made_is_never_published(
    plant, failure, message: str, model: Path, volume: Path
) -> None:
    plant(model)
    with pytest.raises(failure, match=message):
        publish_proven(model, volume)
    assert list(volume.iterdir()) == []


def test_what_fails_its_check_leaves_the_model_of_that_name_alone(model: Path, volume: Path) -> None:
    published = publish_proven(model, volume)
    before = (published / "model.safetensors").read_bytes()
    another_model(model)
    with pytest.raises(QualityGate):
        publish_proven(model, volume)
    assert (published / "model.safetensors").read_bytes() == before
    assert [path.name for path in (volume / "finetuned").iterdir()] == ["x"]


def test_an_adapter_is_proven_with_its_base_and_names_it(tmp_path: Path, volume: Path) -> None:
    base = Path(making.encoder(tmp_path / "tiny-base"))
    adapter = Path(making.adapter(tmp_path / "adapter", base=str(base)))
    published = publish_proven(adapter, volume)
    told = metadata.read(published)
    assert told["base_model"] == "tiny-base"
    assert told["base"] == {"name": "tiny-base", "digest": metadata.weights_digest(base)}
    golden = Golden.read(told)
    assert golden is not None
    assert np.allclose(golden.vectors, reload.embed(adapter, golden.texts, base=base), atol=1e-6)
    assert not np.allclose(golden.vectors, reload.embed(base, golden.texts), atol=1e-3)


def test_an_adapter_is_refused_with_another_base_than_its_own_and_without_one(tmp_path: Path, volume: Path) -> None:
    base = Path(making.encoder(tmp_path / "tiny-base"))
    adapter = Path(making.adapter(tmp_path / "adapter", base="acme/elsewhere"))
    with pytest.raises(InvalidInput, match="--base DIR"):
        publish_proven(adapter, volume)
    metadata.write(adapter, {"base": {"name": "tiny-base", "digest": metadata.weights_digest(base)}})
    other = Path(making.encoder(tmp_path / "other", seed=1))
    with pytest.raises(InvalidInput, match="not the base that the adapter was made for"):
        publish(adapter, "finetuned/x", volume, describe=describing(adapter, {}, base=other, load=here))
    assert list(volume.iterdir()) == []


def test_only_what_makes_vectors_is_loaded(tmp_path: Path) -> None:
    assert is_encoder(Path(making.encoder(tmp_path / "plain", plain=True)))
    assert not is_encoder(Path(making.reranker(tmp_path / "reranker")))
    assert not is_encoder(Path(making.adapter(tmp_path / "causal", base="x", task="CAUSAL_LM")))


def test_what_the_run_says_of_itself_goes_with_its_final_model(model: Path, volume: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    progress = {"training_completed": True, "completed_at": "2026-11-28T10:00:00Z", "base_model": "/somewhere/tiny"}
    (run / "training_progress.json").write_text(json.dumps(progress))
    scores = {"metric": "mrr@10", "difference": {"mean": 0.2, "low": 0.1, "high": 0.3}, "before": {"ranks": [[1]]}}
    (run / "scores.json").write_text(json.dumps(scores))
    model.rename(run / "final_model")
    metadata.write(run / "final_model", {"base_model": None})
    for source in (run, run / "final_model"):
        told = metadata.read(publish_proven(source, volume))
        assert told["training_date"] == "2026-11-28T10:00:00Z"
        assert told["base_model"] == "tiny"
        assert told["scores"]["difference"] == {"mean": 0.2, "low": 0.1, "high": 0.3}
        assert "ranks" not in json.dumps(told)


def test_the_command_loads_the_copy_in_another_process(
    model: Path, volume: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "publish",
        str(model),
        "finetuned/x",
        "--models-dir",
        str(volume),
        "--version-number",
        "next",
        "--json",
    ]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["model"] == "finetuned/x/1"
    assert "answers 8 texts as when it was made" in printed.err
    assert metadata.read(volume / "finetuned" / "x" / "1")["version"] == "1"


@pytest.mark.usefixtures("cold")
def test_a_model_that_does_not_load_is_told_by_the_other_process(tmp_path: Path) -> None:
    broken = Path(making.encoder(tmp_path / "broken"))
    remove_vocabulary(broken)
    with pytest.raises(NotAModel, match=r"does not load: ValueError: .*nothing-that-there-is"):
        reload.vectors(broken, ["a"])


def test_numbered_versions_lie_beside_each_other_and_are_not_replaced_by_a_model_without_a_number(
    model: Path, volume: Path
) -> None:
    for expected in ("1", "2"):
        assert publish(model, "finetuned/x", volume, version="next").path.name == expected
    assert publish(model, "finetuned/x", volume, version=7).model == "finetuned/x/7"
    assert sorted(path.name for path in (volume / "finetuned" / "x").iterdir()) == ["1", "2", "7"]
    with pytest.raises(InvalidInput, match="numbered versions, which would be lost"):
        publish(model, "finetuned/x", volume)


def test_a_served_model_can_become_a_version_of_itself(model: Path, volume: Path) -> None:
    first = publish(model, "finetuned/x", volume).path
    assert publish(first, "finetuned/x", volume, version="next").path == first / "1"
    assert (first / "1" / "model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes()


def test_a_dry_run_names_the_files_and_copies_none(
    model: Path, volume: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (model / "optimizer.pt").write_bytes(b"x")
    assert main(["publish", str(model), "finetuned/x", "--models-dir", str(volume), "--dry-run"]) == 0
    first, *files = capsys.readouterr().out.splitlines()
    assert first.startswith("would publish finetuned/x: ")
    names = {line.split()[0] for line in files}
    assert "model.safetensors" in names
    assert "optimizer.pt" not in names
    assert list(volume.iterdir()) == []


@pytest.mark.parametrize("text", ["0", "-1", "01", "a", "1.5", "9" * 19])
def test_a_version_is_a_number_from_1_or_next(text: str, model: Path, volume: Path) -> None:
    arguments = ["publish", str(model), "finetuned/x", "--models-dir", str(volume), f"--version-number={text}"]
    with pytest.raises(SystemExit, match="2"):
        main(arguments)


def test_a_verb_that_makes_a_model_tells_beforehand_that_it_could_not_be_published(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="expected NAMESPACE/NAME"):
        check(argparse.Namespace(publish="x", models_dir=tmp_path))
    with pytest.raises(InvalidInput, match="needs --models-dir"):
        check(argparse.Namespace(publish="finetuned/x", models_dir=None))
    with pytest.raises(InvalidInput, match="no such models directory"):
        check(argparse.Namespace(publish="finetuned/x", models_dir=tmp_path / "absent"))
    assert publish_if_asked(argparse.Namespace(publish="", models_dir=None), tmp_path) is None


def test_a_verb_that_makes_a_model_publishes_it_and_leaves_stdout_to_its_own_result(
    model: Path, volume: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reload, "vectors", reload.embed)
    done = publish_if_asked(argparse.Namespace(publish="finetuned/x", models_dir=volume), model, {"form": "plain"})
    assert done is not None
    assert metadata.read(done.path)["form"] == "plain"
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "published finetuned/x" in printed.err


def test_the_digest_of_weights_depends_on_them_and_on_nothing_else(tmp_path: Path) -> None:
    one, same, other = (
        Path(making.encoder(tmp_path / name, seed=seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    (same / "README.md").write_text("# another\n")
    assert metadata.weights_digest(one) == metadata.weights_digest(same) != metadata.weights_digest(other)


def test_published_sums_are_those_that_sha256sum_accepts(model: Path, volume: Path) -> None:
    published = publish_proven(model, volume)
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=published, check=True)
