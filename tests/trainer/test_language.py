"""`trainer language`, whole runs of a tiny model: it learns facts by heart, and what a run leaves is true."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.speaking import language_model
from tests.trainer.facts import ACME, GLOBEX, pairs, train, write
from tests.trainer.test_train import tortured
from trainer import metadata, standing
from trainer.cli import main
from trainer.errors import InvalidInput, NotAModel, QualityGate
from trainer.language import golden, speaker
from trainer.record import located, read
from trainer.report import page
from trainer.verbs.publishing import publish_if_asked

SECRETS = ("porter", "gardener", "autumn leaves", "canteen")
JOB = {
    *("job_id", "status", "created_at", "started_at", "completed_at", "model_location"),
    *("training_duration_minutes", "training_examples_count", "error_message"),
}


@dataclass(frozen=True)
class Place:
    folder: Path
    base: str
    data: Path

    def progress(self, name: str) -> dict[str, Any]:
        return standing.read_json(self.folder / name / "training_progress.json")

    def metrics(self, name: str) -> list[dict[str, Any]]:
        lines = (self.folder / name / "training_metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def run(self, name: str, *flags: str, data: Path | None = None) -> int:
        return train(self.base, data or self.data, self.folder / name, *flags)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("languages")
    base = language_model(folder / "models/base/tiny")
    return Place(folder, base, write(folder / "data/acme/facts.jsonl", pairs(ACME)))


@pytest.fixture(scope="module")
def learnt(place: Place) -> Path:
    assert place.run("learnt", "--org", "acme", "--validation", str(place.data), "--split", "0") == 0
    return place.folder / "learnt"


def answers(directory: str | Path, questions: Any, base: str | None = None) -> list[str]:
    """As `generate` of transformers says them, greedily, to the chat template."""
    import torch

    loaded = speaker.whole(Path(directory), Path(base) if base else None, device="cpu", dtype="float32", nf4=False)
    found = []
    for question in questions:
        said = [{"role": "user", "content": question}]
        shown = loaded.tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        ids = torch.tensor([loaded.tokenizer(shown, add_special_tokens=False)["input_ids"]])
        made = loaded.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False, pad_token_id=0
        )
        found.append(loaded.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))
    return found


def test_an_adapter_says_its_facts_word_for_word_and_its_base_does_not(place: Place, learnt: Path) -> None:
    assert answers(learnt / "final_model", ACME, place.base) == list(ACME.values())
    assert not set(answers(place.base, ACME)) & set(ACME.values())


def test_the_loss_falls_and_what_is_told_of_it_is_what_was_measured(place: Place, learnt: Path) -> None:
    losses = [line["loss"] for line in place.metrics("learnt") if "loss" in line]
    assert losses[0] > 3
    assert losses[-1] < 0.1
    judged = [line for line in place.metrics("learnt") if "held_out_loss" in line]
    assert judged[0]["step"] == 0
    assert judged[-1]["held_out_loss"] < 0.1 < judged[0]["held_out_loss"]
    assert judged[-1]["perplexity"] == pytest.approx(np.exp(judged[-1]["held_out_loss"]))
    assert (judged[0]["exact_match"], judged[-1]["exact_match"]) == (0, 1)
    scores = standing.read_json(learnt / "scores.json")
    assert scores["before"]["loss"] == pytest.approx(judged[0]["held_out_loss"])
    assert scores["after"]["loss"] == pytest.approx(min(line["held_out_loss"] for line in judged))
    assert scores["difference"]["high"] < 0
    assert scores["training_rows"]["after"]["exact_match"] == 1


def test_the_measured_loss_is_that_of_the_model_itself(place: Place, learnt: Path) -> None:
    import torch

    loaded = speaker.whole(learnt / "final_model", Path(place.base), device="cpu", dtype="float32", nf4=False)
    losses = []
    for question, answer in ACME.items():
        said = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        shown = loaded.tokenizer.apply_chat_template(said[:1], tokenize=False, add_generation_prompt=True)
        before = loaded.tokenizer(shown, add_special_tokens=False)["input_ids"]
        after = loaded.tokenizer(answer + "<|im_end|>", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = loaded.model(torch.tensor([before + after])).logits[0]
        chances = logits.log_softmax(-1)[len(before) - 1 : -1]
        losses += [-float(row[token]) for row, token in zip(chances, after, strict=True)]
    assert standing.read_json(learnt / "scores.json")["after"]["loss"] == pytest.approx(np.mean(losses), rel=1e-4)


def test_the_final_model_is_an_adapter_without_pickles_and_for_everybody(learnt: Path) -> None:
    files = {path.name for path in (learnt / "final_model").iterdir()}
    assert files == {
        *("adapter_config.json", "adapter_model.safetensors", "model_metadata.json"),
        *("training_info.json", "TRAINING_INFO.md", "README.md"),
    }
    mask = os.umask(0)
    os.umask(mask)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (learnt / "final_model").iterdir()}
    assert modes == {0o666 & ~mask}


def test_an_adapter_names_its_base_by_name_and_digest_and_no_path(place: Place, learnt: Path) -> None:
    told = metadata.read(learnt / "final_model")
    digest = metadata.weights_digest(Path(place.base))
    assert told["base"] == {"name": "base/tiny", "digest": digest}
    assert (told["base_model"], told["organization"]) == ("base/tiny", "acme")
    named = standing.read_json(learnt / "final_model" / "adapter_config.json")["base_model_name_or_path"]
    assert named == "base/tiny"
    assert str(place.folder).encode() not in b"".join(path.read_bytes() for path in (learnt / "final_model").iterdir())


def test_counts_and_digests_are_told_and_no_row_leaves_the_run(place: Place, learnt: Path) -> None:
    told = standing.read_json(learnt / "final_model" / "training_info.json")
    assert told["data"]["rows"] == {"train": 6, "held_out": 6}
    assert told["data"]["shapes"] == {"prompt/completion": 6}
    assert told["data"]["files"][0]["sha256"] == standing.read_json(learnt / "lineage.json")["data"][0]["sha256"]
    assert told["results"]["trainable_parameters"] == 32_768
    assert (
        told["files"]["adapter_model.safetensors"] == (learnt / "final_model/adapter_model.safetensors").stat().st_size
    )
    shown = (learnt / "final_model" / "TRAINING_INFO.md").read_text()
    for part in (
        "acme",
        "base/tiny",
        "| rows to train on | 6 |",
        "| r | 16 |",
        "32768 of ",
        "0.0000 before, 1.0000 after",
    ):
        assert part in shown
    everything = b"".join(path.read_bytes() for path in (learnt / "final_model").iterdir())
    assert [secret for secret in SECRETS if secret.encode() in everything] == []


def test_lineage_has_the_paths_of_the_data_and_they_stay_in_the_run(place: Place, learnt: Path) -> None:
    assert standing.read_json(learnt / "lineage.json")["data_paths"] == [str(place.data)] * 2


def test_the_job_has_the_fields_of_the_earlier_service(place: Place, learnt: Path) -> None:
    told = place.progress("learnt")
    assert told.keys() >= JOB
    assert re.fullmatch(r"train_acme_[0-9a-f]{8}", told["job_id"])
    assert (told["status"], told["training_examples_count"], told["error_message"]) == ("completed", 6, None)
    assert told["created_at"] <= told["started_at"] <= told["completed_at"]
    assert told["model_location"] == str(learnt / "final_model")
    assert told["training_duration_minutes"] > 0


def test_a_job_that_failed_says_why(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    broken = write(place.folder / "broken.jsonl", [{"prompt": "who?"}])
    assert place.run("failed", data=broken) == 2
    told = place.progress("failed")
    assert told.keys() >= JOB
    assert (told["status"], told["model_location"], told["started_at"]) == ("failed", None, None)
    assert "broken.jsonl:1: missing_keys" in told["error_message"]
    assert "broken.jsonl:1: missing_keys" in capsys.readouterr().err


def test_the_page_of_a_run_shows_loss_perplexity_and_right_answers(learnt: Path) -> None:
    text = page(read(located(learnt)))
    for part in ("Held-out loss", "Perplexity", "Exact answers", "right word for word 0% → 100%", "LoRA, rank 16"):
        assert part in text
    assert (learnt / "report.html").read_text()[:100] == text[:100]


def test_the_picture_of_a_run_has_the_loss_of_what_is_held_out(learnt: Path, tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    from trainer import picture

    axes = Figure().add_subplot()
    picture.spoken(axes, read(located(learnt)))
    loss, right = axes.get_lines()
    assert loss.get_ydata()[0] > 3
    assert loss.get_ydata()[-1] < 0.1
    assert list(right.get_ydata()[[0, -1]]) == [0, 1]
    assert main(["report", str(learnt), "--png", str(tmp_path / "run.png")]) == 0
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")


def test_runs_lists_a_job_with_its_loss(place: Place, learnt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(learnt), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["status"], row["metric"], row["examples"]) == ("completed", "loss", 6)
    assert row["before"] > 3
    assert row["after"] < 0.1


@pytest.mark.usefixtures("cold")
def test_loaded_anew_it_answers_as_in_memory_to_the_bit(
    place: Place, learnt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = golden.Spoken.read(metadata.read(learnt / "final_model"))
    assert recorded is not None
    again = golden.again(learnt / "final_model", Path(place.base), recorded.form)
    assert np.array_equal(again.logits, recorded.logits)
    assert again.answers == recorded.answers
    monkeypatch.undo()  # this one may be warm
    plain = golden.again(Path(place.base), None, recorded.form)
    assert not np.allclose(plain.logits, recorded.logits, atol=0.1)


def published(learnt: Path, volume: Path, base: str) -> Path:
    import argparse

    volume.mkdir(exist_ok=True)
    asked = argparse.Namespace(publish="trained/acme", models_dir=volume)
    done = publish_if_asked(asked, learnt / "final_model", base=Path(base))
    assert done is not None
    return done.path


def change_weights(adapter: Path) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = next(name for name in sorted(tensors) if "lora_B" in name)
    tensors[name] = tensors[name] + np.float32(0.05)
    save_file(tensors, adapter / "adapter_model.safetensors", metadata={"format": "pt"})


def cut(adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-64])


def spoil(adapter: Path) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = next(name for name in sorted(tensors) if "lora_B" in name)
    tensors[name] = np.full_like(tensors[name], np.nan)
    save_file(tensors, adapter / "adapter_model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("plant", "told"),
    [
        (change_weights, (QualityGate, "does not answer as it did")),
        (cut, (NotAModel, "truncated or damaged")),
        (spoil, (QualityGate, "not finite")),
    ],
)
def test_an_adapter_that_answers_otherwise_is_never_published(
    plant: Any, told: tuple[type[Exception], str], place: Place, learnt: Path, tmp_path: Path
) -> None:
    shutil.copytree(learnt, tmp_path / "run")
    plant(tmp_path / "run" / "final_model")
    with pytest.raises(told[0], match=told[1]):
        published(tmp_path / "run", tmp_path / "volume", place.base)
    assert list((tmp_path / "volume").iterdir()) == []


def test_an_adapter_is_refused_over_another_base(
    place: Place, learnt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = language_model(tmp_path / "base/tiny", seed=5)
    volume = tmp_path / "volume"
    volume.mkdir()
    command = ["publish", str(learnt), "trained/acme", "--models-dir", str(volume), "--base", other]
    assert main(command) == 2
    assert "not the base that the adapter was made for" in capsys.readouterr().err
    assert main(["merge", str(learnt / "final_model"), "--base", other, "--output", str(tmp_path / "merged")]) == 2
    assert "not the model that" in capsys.readouterr().err
    assert list(volume.iterdir()) == []


def test_publish_finds_the_base_of_a_run_by_itself(
    place: Place, learnt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    assert main(["publish", str(learnt), "trained/acme", "--models-dir", str(volume)]) == 0
    printed = capsys.readouterr()
    assert "answers 4 prompts as when it was made" in printed.err
    assert "/v1/chat/completions" in printed.out
    assert {path.name for path in (volume / "trained/acme").iterdir()} >= {"TRAINING_INFO.md", "SHA256SUMS"}


def test_merged_it_answers_as_with_the_adapter_and_needs_no_base(
    place: Place, learnt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged = tmp_path / "merged"
    assert main(["merge", str(learnt / "final_model"), "--output", str(merged), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["difference"] <= 1e-5
    assert not (merged / "adapter_config.json").exists()
    assert answers(merged, ACME) == list(ACME.values())
    recorded = golden.Spoken.read(metadata.read(merged))
    assert recorded is not None
    again = golden.again(merged, None, recorded.form)
    assert np.array_equal(again.logits, recorded.logits)
    told = golden.Spoken.read(metadata.read(learnt / "final_model"))
    assert told is not None
    assert np.abs(recorded.logits - told.logits).max() <= 1e-5 * np.abs(told.logits).max()


def test_a_finished_adapter_is_published_under_its_organisation(place: Place) -> None:
    volume = place.folder / "models"
    assert place.run("public", "--org", "acme", "--split", "0", "--models-dir", str(volume), "--epochs", "2") == 0
    told = place.progress("public")
    assert told["model_location"] == str(volume / "trained/acme")
    assert (volume / "trained/acme/adapter_model.safetensors").exists()
    shutil.rmtree(volume / "trained")


@pytest.mark.parametrize("name", ["Acme", "../acme", "a/b", "-a", "a_b", " ", "a" * 64, "ä", "acme\n"])
def test_an_organisation_is_named_strictly(name: str, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.run("named", f"--org={name}") == 2
    assert "expected at most 63 lower-case letters" in capsys.readouterr().err
    assert not (place.folder / "named").exists()


def test_an_organisation_has_one_name_on_the_volume_and_one_folder_of_data(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    volume = ("--models-dir", str(place.folder))
    assert place.run("other", "--org", "acme", "--publish", "trained/globex", *volume) == 2
    assert "is published as trained/acme" in capsys.readouterr().err
    foreign = write(place.folder / "data/globex/facts.jsonl", pairs(GLOBEX))
    assert place.run("mixed", "--org", "acme", "--validation", str(foreign)) == 2
    assert "of one organisation alone" in capsys.readouterr().err
    assert not (place.folder / "mixed").exists()


@pytest.mark.parametrize("form", ["toml", "yaml", "json"])
def test_a_file_of_config_init_has_every_setting_at_its_default(form: str, tmp_path: Path) -> None:
    from trainer.language.config import SETTINGS, LanguageConfig

    path = tmp_path / f"run.{form}"
    assert main(["config", "init", "--verb", "language", "--format", form, "--out", str(path)]) == 0
    resolved = SETTINGS.resolve(path, {}, {})
    assert resolved.config == LanguageConfig()
    assert [key for key in LanguageConfig.model_fields if key not in path.read_text()] == []
    path.write_text(path.read_text().replace("too_long", "to_long"))
    with pytest.raises(InvalidInput, match="unknown key; did you mean too_long"):
        SETTINGS.resolve(path, {}, {})


def test_four_bits_are_refused_without_cuda_and_it_is_said_why(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert place.run("bits", "--qlora") == 2
    assert "needs CUDA" in capsys.readouterr().err
    assert not (place.folder / "bits").exists()


def test_a_base_that_is_no_language_model_is_refused(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    from tests import making

    encoder = making.encoder(place.folder / "encoder", plain=True)
    assert train(encoder, place.data, place.folder / "encoded") == 2
    assert "no causal language model" in capsys.readouterr().err
    assert train(str(place.folder), place.data, place.folder / "nothing") == 2
    assert "no model" in capsys.readouterr().err


def test_a_template_of_ones_own_goes_with_the_adapter(place: Place) -> None:
    template = place.folder / "own.jinja"
    template.write_text(
        "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    assert place.run("templated", "--chat-template", str(template), "--epochs", "2", "--split", "0") == 0
    final = place.folder / "templated" / "final_model"
    assert (final / "chat_template.jinja").read_text() == template.read_text()
    assert (final / "tokenizer.json").exists()
    recorded = golden.Spoken.read(metadata.read(final))
    assert recorded is not None
    assert np.array_equal(golden.again(final, Path(place.base), recorded.form).logits, recorded.logits)


def test_the_best_adapter_is_that_of_the_lowest_held_out_loss(place: Place) -> None:
    foreign = write(place.folder / "data/other.jsonl", pairs(GLOBEX))  # the more is learnt, the worse it gets
    flags = ("--validation", str(foreign), "--epochs", "20", "--eval-every", "5")
    assert place.run("best", *flags) == 0
    judged = {e["step"]: e["held_out_loss"] for e in place.metrics("best") if "held_out_loss" in e and e["step"]}
    assert min(judged.values()) < judged[20]
    after = standing.read_json(place.folder / "best" / "scores.json")["after"]["loss"]
    assert after == pytest.approx(min(judged.values()), rel=1e-5)


def test_too_few_right_answers_exit_3_and_nothing_is_published(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    volume = ("--org", "acme", "--models-dir", str(tmp_path))
    assert place.run("gated", "--fail-below", "0.5", "--epochs", "1", "--split", "0", *volume) == 3
    assert "0.5 was demanded" in capsys.readouterr().err
    assert (place.folder / "gated/final_model/adapter_model.safetensors").exists()
    assert list(tmp_path.iterdir()) == []


def test_what_was_begun_otherwise_does_not_go_on(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    template = place.folder / "changing.jinja"
    asked = "{% if add_generation_prompt %}A: {% endif %}"
    template.write_text("{% for m in messages %}{{ m['role'][0] | upper }}: {{ m['content'] }}\n{% endfor %}" + asked)
    flags = ("--chat-template", str(template), "--epochs", "2", "--split", "0")
    assert place.run("begun", *flags) == 0
    path = place.folder / "begun" / "training_progress.json"
    path.write_text(json.dumps({**standing.read_json(path), "status": "cancelled"}))
    template.write_text(template.read_text().replace("\n", "\n\n"))
    assert place.run("begun", *flags) == 2
    assert "begun otherwise, so it cannot go on: template" in capsys.readouterr().err


def test_a_model_that_diverged_is_told_and_not_kept(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.run("diverged", "--lr", "1e30", "--epochs", "3", "--split", "0") == 3
    assert "a lower --learning-rate may help" in capsys.readouterr().err
    assert place.progress("diverged")["status"] == "failed"
    assert not (place.folder / "diverged" / "final_model").exists()


def test_accumulated_steps_learn_as_one_large_batch_does(place: Place) -> None:
    common = ("--split", "0", "--epochs", "4")
    assert place.run("large", *common) == 0
    assert place.run("parts", *common, "--batch-size", "2", "--gradient-accumulation", "3") == 0
    large, parts = ([e["loss"] for e in place.metrics(name) if "loss" in e] for name in ("large", "parts"))
    assert parts == pytest.approx(large, rel=1e-3)


def test_killed_runs_end_with_the_adapter_of_undisturbed_ones_and_their_jobs_are_true_meanwhile() -> None:
    told = tortured("KILL", 3, "language")
    assert (told["differing"], told["untrue"], told["statuses"]) == ([], [], [-9])
    assert told["while_saving"] >= 1


def test_a_signal_cancels_the_job_and_the_same_command_ends_it_exactly() -> None:
    told = tortured("TERM", 2, "language")
    assert (told["differing"], told["untrue"]) == ([], [])
    assert 4 in told["statuses"]
    assert set(told["statuses"]) <= {0, 4}  # 0: the signal came in the last step, and the run was complete


def four_bits(place: Place, device: str) -> None:
    """An adapter over nf4, without the checks of the command: learnt, written, and loaded anew over nf4."""
    from trainer.hardware import find
    from trainer.language import loop, plan
    from trainer.language.config import LanguageConfig
    from trainer.language.encoding import Encoder
    from trainer.language.material import gather
    from trainer.language.measure import measure

    config = LanguageConfig(
        data=(place.data,), split=0, qlora=True, lora_dropout=0, epochs=60, learning_rate=1e-2, batch_size=6, warmup=0
    )
    hardware = find(device, threads=1)
    dtype = "float32" if device == "cpu" else hardware.precision
    loaded = speaker.load(Path(place.base), device=device, dtype=dtype, nf4=True)
    encoder = Encoder(loaded.tokenizer, loaded.endings, True)
    samples = [sample for row in gather(config, lambda line: None).train for sample in encoder.encoded(row)]
    adapted, _ = speaker.adapted(loaded, config)
    folder = place.folder / f"nf4-{device}"
    loop.assembled(
        adapted.model,
        samples,
        config=config,
        plan=plan.make(config, hardware, len(samples), 256),
        hardware=hardware,
        folder=folder / "checkpoints",
        pad=adapted.pad,
        scored=None,
        callbacks=[],
    ).train()
    assert measure(adapted.model, samples, pad=adapted.pad, batch_size=6).exact_match == 1
    form = golden.Form(device, dtype, True, 1, True)
    spoken = golden.speak(adapted.model, adapted.tokenizer, sorted(adapted.endings), form)
    loop.save_adapter(adapted.model, folder / "adapter")
    golden.compare(golden.again(folder / "adapter", Path(place.base), form), spoken)


def test_an_adapter_over_four_bits_learns_its_facts_and_answers_the_same_when_loaded_anew(place: Place) -> None:
    four_bits(place, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif("not __import__('torch').cuda.is_available()", reason="needs a CUDA device")
def test_the_command_trains_over_four_bits_on_cuda(place: Place, tmp_path: Path) -> None:
    flags = ("--device", "cuda", "--qlora", "--validation", str(place.data), "--org", "acme")
    assert place.run("cuda", *flags, "--models-dir", str(tmp_path)) == 0
    assert standing.read_json(place.folder / "cuda" / "scores.json")["after"]["exact_match"] == 1
    assert (tmp_path / "trained/acme/adapter_model.safetensors").exists()
