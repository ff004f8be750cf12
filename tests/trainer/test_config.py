"""Settings of a run: where each comes from, under every name that it ever had."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from trainer.cli import main, parser
from trainer.config import GROUPS, NAMES, Config, add_flags, older, resolve, resolve_options
from trainer.config_template import template
from trainer.errors import InvalidInput

DEFAULTS = Config()


def given(*arguments: str, environ: Mapping[str, str] | None = None) -> Config:
    """What a command line asks for."""
    made = argparse.ArgumentParser()
    add_flags(made)
    return resolve_options(made.parse_args(arguments), environ or {}).config


def in_file(path: Path, text: str) -> Config:
    path.write_text(text, encoding="utf-8")
    return resolve(path, {}, {}).config


def test_a_flag_wins_over_the_environment_that_over_the_file_and_that_over_the_default(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[training]\nepochs = 1\nseed = 1\nbatch_size = 1\n")
    resolved = resolve(file, {"TRAINER_EPOCHS": "2", "TRAINER_SEED": "2"}, {"epochs": 3})
    config = resolved.config
    assert (config.epochs, config.seed, config.batch_size, config.split) == (3, 2, 1, 0.1)
    assert {key: resolved.sources[key] for key in ("epochs", "seed", "batch_size", "split")} == {
        "epochs": "--epochs",
        "seed": "TRAINER_SEED",
        "batch_size": f"{file}: training.batch_size",
        "split": "default",
    }
    assert resolved.sources.keys() == Config.model_fields.keys()


EARLIER_FILE = {
    "_comments": {"base_model": "any model of the hub"},
    "input_jsonl": "data/qa_outputs/jsonl/questions_answers.jsonl",
    "output_dir": "models/fine_tuned_embeddings",
    "log_file": "logs/embedding_finetuning.log",
    "progress_file": "training_progress.json",
    "metrics_file": "training_metrics.jsonl",
    "base_model": "sentence-transformers/all-MiniLM-L6-v2",
    "max_seq_length": 384,
    "train_batch_size": 16,
    "eval_batch_size": 16,
    "num_epochs": 3,
    "warmup_steps": 500,
    "evaluation_steps": 1000,
    "save_steps": 1000,
    "learning_rate": 2e-5,
    "train_split": 0.9,
    "loss_function": "MultipleNegativesRankingLoss",
}


def test_the_earlier_trainers_file_works_with_every_key_and_its_comments(tmp_path: Path) -> None:
    config = in_file(tmp_path / "embedding_finetuner.json", json.dumps(EARLIER_FILE))
    assert config.model_dump(exclude_defaults=True, mode="json") == {
        "data": ["data/qa_outputs/jsonl/questions_answers.jsonl"],
        "output": "models/fine_tuned_embeddings",
        "base_model": "sentence-transformers/all-MiniLM-L6-v2",
        "max_seq_length": 384,
        "batch_size": 16,
        "eval_batch_size": 16,
        "warmup": 500.0,
        "eval_every": 1000,
        "save_every": 1000,
        "learning_rate": 2e-5,
    }
    assert (config.split, config.epochs) == (0.1, 3)


@pytest.mark.parametrize(
    ("arguments", "key", "value"),
    [
        # of the first earlier trainer, and of the script around it
        ("--input_jsonl f.jsonl", "data", (Path("f.jsonl"),)),
        ("--output_dir out", "output", Path("out")),
        ("--base_model m", "base_model", "m"),
        ("--epochs 5", "epochs", 5),
        ("--batch_size 32", "batch_size", 32),
        ("--input f.jsonl", "data", (Path("f.jsonl"),)),
        ("--output out", "output", Path("out")),
        ("--model m", "base_model", "m"),
        # of the second
        ("--data f.tsv", "data", (Path("f.tsv"),)),
        ("--base-model m", "base_model", "m"),
        ("--batch-size 128", "batch_size", 128),
        ("--lr 2e-5", "learning_rate", 2e-5),
        ("--warmup-ratio 0.06", "warmup", 0.06),
        ("--seed 7", "seed", 7),
        ("--use-lora", "lora", True),
        ("--lora-r 8", "lora_r", 8),
        ("--lora-alpha 16", "lora_alpha", 16),
        ("--lora-dropout 0.1", "lora_dropout", 0.1),
        ("--max-samples 100", "max_samples", 100),
        ("--val-split 0.05", "split", 0.05),
        ("--no-fp16", "precision", "float32"),
        ("--gradient-accumulation 4", "gradient_accumulation", 4),
        ("--save-every 10", "save_every", 10),
        ("--overwrite", "overwrite", True),
        ("--eval-sample-size 50", "eval_sample_size", 50),
        # and what only files had before
        ("--train-split 0.8", "split", 0.2),
        ("--num-epochs 2", "epochs", 2),
        ("--train_batch_size 4", "batch_size", 4),
        ("--loss-function TripletLoss", "loss", "TripletLoss"),
        ("--evaluation_steps 9", "eval_every", 9),
        ("--save_steps 9", "save_every", 9),
        ("--warmup_steps 9", "warmup", 9),
        # ours
        ("--no-lora", "lora", False),
        ("--matryoshka 128 64", "matryoshka", (128, 64)),
        ("--matryoshka 128,64", "matryoshka", (128, 64)),
        ("--data a.tsv b.tsv --data c.tsv", "data", (Path("a.tsv"), Path("b.tsv"), Path("c.tsv"))),
        ("--lora-targets query,key", "lora_targets", ("query", "key")),
    ],
)
def test_every_documented_flag_is_understood(arguments: str, key: str, value: Any) -> None:
    assert getattr(given(*arguments.split()), key) == value


def fitting(key: str) -> tuple[Any, Any]:
    """A value of a key, and the same as JSON has it."""
    value, kind = getattr(DEFAULTS, key), str(Config.model_fields[key].annotation)
    if value == ():
        return ((32,), [32]) if "int" in kind else ((Path("x"),) if "Path" in kind else ("x",), ["x"])
    if value is None:
        return (Path("x"), "x") if "Path" in kind else (0.5, 0.5) if "float" in kind else (1, 1)
    return value, json.loads(DEFAULTS.model_dump_json(include={key}))[key]


@pytest.mark.parametrize(
    "line",
    [
        "--config config/embedding_finetuner.json",
        "--config c.json --input_jsonl data/custom_qa.jsonl --output_dir models/custom_model"
        " --base_model sentence-transformers/all-mpnet-base-v2 --epochs 5 --batch_size 32",
        "--config config/embedding_finetuner.json --test_only",
        "--config c.json --input i --output o --model m --epochs 3 --batch_size 16",
        "--data data/finetune/pairs.tsv --base-model BAAI/bge-small-en-v1.5 --epochs 2 --batch-size 128 --lr 2e-5"
        " --output models/bge-small-finetuned --use-lora",
        "--data d --base-model b --output o --warmup-ratio 0.06 --seed 42 --lora-r 16 --lora-alpha 32"
        " --lora-dropout 0.05 --max-samples 9 --val-split 0.05 --no-fp16 --gradient-accumulation 2 --save-every 5"
        " --overwrite --eval-sample-size 7",
    ],
)
def test_every_documented_command_line_is_understood_by_finetune(line: str) -> None:
    options = parser(["finetune"]).parse_args(["finetune", *line.split()])
    options.config = None  # the file is not there
    words = [word for word in line.split() if word.startswith("--") and word not in {"--config", "--test_only"}]
    resolved = resolve_options(options, {})
    assert {source for source in resolved.sources.values() if source != "default"} == {
        word.replace("_", "-") for word in words
    }


@pytest.mark.parametrize("key", Config.model_fields)
def test_every_key_can_be_set_by_a_flag_a_variable_and_every_form_of_file(key: str, tmp_path: Path) -> None:
    value, simple = fitting(key)
    listed = ",".join(map(str, simple)) if isinstance(simple, list) else str(simple)
    written = {
        "json": json.dumps({key: simple}),
        "yaml": f"{key}: {json.dumps(simple)}\n",
        "toml": f"{key} = {json.dumps(simple)}\n",
    }
    for form, text in written.items():
        assert getattr(in_file(tmp_path / f"run.{form}", text), key) == value
    assert getattr(resolve(None, {f"TRAINER_{key.upper()}": listed}, {}).config, key) == value
    for name in (key, *older(key)):
        assert NAMES[name] == key
    flag = f"--{key.replace('_', '-')}"
    arguments = ([flag] if value else [f"--no-{flag[2:]}"]) if isinstance(value, bool) else [flag, listed]
    assert getattr(given(*arguments), key) == value


@pytest.mark.parametrize("form", ["toml", "yaml", "json"])
def test_a_file_of_config_init_explains_every_key_and_resolves_to_the_defaults(form: str, tmp_path: Path) -> None:
    text = template(form)
    config = in_file(tmp_path / f"run.{form}", text)
    assert config == DEFAULTS
    assert [key for key in Config.model_fields if key not in text] == []
    assert [field.description for field in Config.model_fields.values() if str(field.description) not in text] == []


@pytest.mark.parametrize("group", GROUPS)
def test_a_file_may_have_a_section_for_every_group(group: str, tmp_path: Path) -> None:
    assert in_file(tmp_path / "run.json", json.dumps({group: {"seed": 5, "_why": "no"}})).seed == 5


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run.json", '{"bach_size": 3}', r"run\.json: bach_size: unknown key; did you mean batch_size\?"),
        ("run.toml", "[training]\nepoch = 3", r"run\.toml: training\.epoch: unknown key; did you mean epochs\?"),
        ("run.json", '{"zzz": 3}', "unknown key; the keys are data, "),
        ("run.toml", "[trainning]\nepochs = 3", "unknown section trainning; the sections are data, model"),
        ("run.json", '{"epochs": "many"}', r"run\.json: epochs: expected a number, got 'many'"),
        ("run.json", '{"epochs": 0}', r"epochs: expected greater than 0, got '0'"),
        ("run.json", '{"epochs": true}', "epochs: expected a number, got true"),
        ("run.json", '{"epochs": NaN}', "epochs: expected"),
        ("run.json", '{"batch_size": 2.5}', "batch_size: expected a whole number, got '2.5'"),
        ("run.json", '{"lora": "perhaps"}', "lora: expected true or false, got 'perhaps'"),
        ("run.json", '{"base_model": 3}', "base_model: expected a text, got '3'"),
        ("run.json", '{"data": 3}', "data: expected a list, got '3'"),
        ("run.json", '{"loss": "Foo"}', "loss: expected one of MultipleNegativesRankingLoss, .*, got 'Foo'"),
        ("run.json", '{"train_split": "most"}', "train_split: expected a number, got 'most'"),
        ("run.json", '{"train_split": 0.0}', "train_split: expected less than 1, got '1.0'"),
        (
            "run.json",
            '{"epochs": 1, "num_epochs": 2}',
            "num_epochs and .*: epochs both set epochs, to different values",
        ),
        ("run.json", '{"epochs": 1', r"run\.json: not valid JSON: Expecting ',' delimiter: line 1 column 13"),
        ("run.toml", "epochs = ", r"run\.toml: not valid TOML"),
        ("run.yaml", "epochs: [1", r"run\.yaml: not valid YAML"),
        ("run.yaml", "- epochs", "expected keys with values, got list"),
        ("run.yaml", "3: 4", "expected keys with values"),
        ("run.ini", "[a]", r"expected a name that ends in \.json, \.toml, \.yaml, \.yml"),
    ],
)
def test_a_wrong_file_is_told_in_one_line_with_the_key(name: str, text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=message) as raised:
        in_file(tmp_path / name, text)
    assert "\n" not in str(raised.value)


def test_all_wrong_values_are_told_at_once_each_with_where_it_was_given(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"split": 2}')
    with pytest.raises(InvalidInput) as raised:
        resolve(tmp_path / "run.json", {"TRAINER_EPOCHS": "many"}, {"--lr": "fast"})
    assert sorted(line.partition(": expected")[0] for line in str(raised.value).splitlines()) == [
        "--lr",
        f"{tmp_path / 'run.json'}: split",
        "TRAINER_EPOCHS",
    ]


def test_a_missing_file_is_told_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"absent\.json: there is no such file"):
        resolve(tmp_path / "absent.json", {}, {})


def test_a_misspelt_variable_is_an_error_and_what_kubernetes_sets_is_not() -> None:
    with pytest.raises(InvalidInput, match="TRAINER_EPOCS: unknown key; did you mean epochs"):
        resolve(None, {"TRAINER_EPOCS": "3"}, {})
    service = {"TRAINER_PORT": "tcp://10.0.0.1:80", "TRAINER_SERVICE_HOST": "10.0.0.1", "TRAINER_SEED": ""}
    assert resolve(None, service, {}).config == DEFAULTS


def test_paths_in_a_variable_stand_as_in_PATH_and_other_lists_between_commas() -> None:
    config = resolve(None, {"TRAINER_DATA": "a,b.tsv:c.tsv", "TRAINER_MATRYOSHKA": "64,32"}, {}).config
    assert config.data == (Path("a,b.tsv"), Path("c.tsv"))
    assert config.matryoshka == (64, 32)


def test_config_init_writes_a_new_file_and_replaces_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run.yaml"
    assert main(["config", "init", "--format", "yaml", "--out", str(out)]) == 0
    assert resolve(out, {}, {}).config == DEFAULTS
    assert main(["config", "init", "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_config_show_tells_each_value_with_its_source(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRAINER_SEED", "7")
    assert main(["config", "show", "--json", "--use_lora"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["seed"] == {"value": 7, "source": "TRAINER_SEED"}
    assert shown["lora"] == {"value": True, "source": "--use-lora"}
    assert shown["epochs"] == {"value": 3.0, "source": "default"}
