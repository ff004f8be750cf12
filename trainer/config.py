"""Every setting of a training run, one record: its flags, its environment, its file and its page in the docs are made
from this table.

A flag wins over the environment (`TRAINER_` and the key in capitals), which wins over the file (JSON, TOML or YAML),
which wins over the default. The older names of a key are understood everywhere. Unknown keys are errors.
"""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError
from pydantic.fields import FieldInfo

from trainer.config_file import read_settings
from trainer.errors import InvalidInput

ENV_PREFIX: Final = "TRAINER_"

Loss = Literal[
    "MultipleNegativesRankingLoss",
    "CachedMultipleNegativesRankingLoss",
    "TripletLoss",
    "CosineSimilarityLoss",
    "ContrastiveLoss",
    "OnlineContrastiveLoss",
]
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Amount = Annotated[float, Field(ge=0)]


def _key(default: Any, help: str, *older: str, group: str, flag: str = "") -> Any:
    """A setting: its older names, the part of the docs it belongs to, and its flag where that is not `--key`."""
    extra: dict[str, Any] = {"older": list(older), "group": group, "flag": flag}
    return Field(default, description=help, json_schema_extra=extra)


class Config(BaseModel):
    """What `trainer finetune` is told. None means: chosen from the data and the machine, and said."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    # data
    data: tuple[Path, ...] = _key((), "files of examples", "input_jsonl", "input", group="data")
    validation: tuple[Path, ...] = _key((), "files to evaluate on, in place of a split", group="data")
    split: Share = _key(0.1, "the share of groups held out", "val_split", group="data")
    dedupe: Literal["none", "exact", "near"] = _key("exact", "which repeated rows are left out", group="data")
    max_samples: PositiveInt | None = _key(None, "train on so many examples at most", group="data")
    skip_broken: bool = _key(False, "leave broken rows out and say so, in place of stopping", group="data")
    # model
    base_model: str = _key(
        "", "the model to start from: a directory, or a name of the hub", "base", "model", group="model"
    )
    output: Path | None = _key(None, "the run's directory", "output_dir", group="model")
    max_seq_length: PositiveInt | None = _key(None, "tokens of a text in training; else from the data", group="model")
    serve_seq_length: PositiveInt | None = _key(None, "tokens of a text when served; else the base's", group="model")
    query_prompt: str = _key("", "put before every query", group="model")
    document_prompt: str = _key("", "put before every document", group="model")
    # LoRA
    lora: bool = _key(False, "train an adapter in place of all weights", "use_lora", group="lora")
    lora_r: PositiveInt = _key(16, "the adapter's rank", group="lora")
    lora_alpha: PositiveInt = _key(32, "the adapter's scale is alpha / r", group="lora")
    lora_dropout: Share = _key(0.05, "dropout before the adapter", group="lora")
    lora_targets: tuple[str, ...] = _key((), "modules to adapt; else all linear layers of the encoder", group="lora")
    # training
    loss: Loss = _key("MultipleNegativesRankingLoss", "what is minimised", "loss_function", group="training")
    matryoshka: tuple[PositiveInt, ...] = _key((), "also train these shorter dimensions", group="training")
    mine_negatives: NonNegativeInt = _key(0, "hard negatives to mine for each query before training", group="training")
    epochs: Positive = _key(3, "how often each example is seen", "num_epochs", group="training")
    batch_size: PositiveInt | None = _key(None, "examples of a step", "train_batch_size", group="training")
    mini_batch_size: PositiveInt | None = _key(None, "texts in memory at once, for the cached loss", group="training")
    gradient_accumulation: PositiveInt = _key(1, "steps added up before the weights change", group="training")
    learning_rate: Positive | None = _key(None, "the peak; else 5e-5, and 5e-4 with LoRA", "lr", group="training")
    warmup: Amount = _key(
        0.1, "steps of warm-up, or a share of all when below 1", "warmup_steps", "warmup_ratio", group="training"
    )
    weight_decay: Amount = _key(0.0, "decay of the weights", group="training")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = _key(
        "auto", "mixed precision; auto: where the device has it", group="training"
    )
    seed: NonNegativeInt = _key(42, "of everything that is random", group="training")
    device: str = _key("auto", "auto, cpu, cuda, cuda:N", group="training")
    threads: PositiveInt | None = _key(None, "threads that compute on a CPU; else its cores", group="training")
    # evaluation, checkpoints
    eval_batch_size: PositiveInt | None = _key(None, "texts of a batch when evaluating", group="evaluation")
    eval_every: PositiveInt | None = _key(
        None, "steps between evaluations; else about ten in a run", "evaluation_steps", group="evaluation"
    )
    eval_sample_size: PositiveInt | None = _key(None, "evaluate on so many queries at most", group="evaluation")
    best_by: Literal["mrr@10", "ndcg@10", "last"] = _key(
        "mrr@10", "which checkpoint becomes the final model", group="evaluation"
    )
    early_stopping: NonNegativeInt = _key(
        0, "stop after so many evaluations without a gain; 0 never", group="evaluation"
    )
    save_every: PositiveInt | None = _key(
        None, "steps between checkpoints; else as evaluations", "save_steps", group="evaluation"
    )
    keep_checkpoints: PositiveInt = _key(3, "how many are kept beside the best", group="evaluation")
    fail_below: Share | None = _key(None, "exit 3 when the final score is lower", group="evaluation")
    # the run
    resume: Literal["auto", "never"] = _key("auto", "go on from the newest whole checkpoint, or refuse", group="run")
    overwrite: bool = _key(False, "begin anew in a run's directory that has one", group="run")
    tensorboard: bool = _key(False, "write events for TensorBoard too", group="run")
    publish: str = _key("", "NAMESPACE/NAME to publish the final model as", group="run")
    models_dir: Path | None = _key(None, "the volume that the gateway watches", group="run")
    log_file: Path = _key(Path("logs/embedding_finetuning.log"), "below the run's directory", group="run")
    progress_file: Path = _key(Path("training_progress.json"), "below the run's directory", group="run")
    metrics_file: Path = _key(Path("training_metrics.jsonl"), "below the run's directory", group="run")


# Older names that say the same in another way: the key, and what their value means for it.
CONVERTED: Final[dict[str, tuple[str, Callable[[Any], Any]]]] = {
    "train_split": ("split", lambda value: round(1 - float(value), 10)),
    "no_fp16": ("precision", lambda value: "float32" if _is_true(value) else "auto"),
}
CLOSE: Final = 0.85  # from which similarity a variable of ours is taken for misspelt


def group(key: str) -> str:
    """The part of the docs, of the help and of a file that a key belongs to."""
    return str(_extra(key)["group"])


def older(key: str) -> list[str]:
    """The older names of a key, those that are converted among them."""
    return [*_extra(key)["older"], *(name for name, (target, _) in CONVERTED.items() if target == key)]


def _extra(key: str) -> dict[str, Any]:
    extra = Config.model_fields[key].json_schema_extra
    assert isinstance(extra, dict)  # `_key` gives every one
    return extra


GROUPS: Final = tuple(dict.fromkeys(group(key) for key in Config.model_fields))
NAMES: Final = {name: key for key in Config.model_fields for name in (key, *older(key))}


@dataclass(frozen=True, slots=True)
class Resolved:
    """The settings of a run, and for each key where its value came from."""

    config: Config
    sources: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Given:
    """A value as it was given, and where, in words for a message."""

    key: str
    value: Any
    source: str


def resolve(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> Resolved:
    """The settings: flags before the environment, that before the file, that before the defaults.

    Raises InvalidInput with one line for each value that is wrong, saying where it was given.
    """
    layers = (_from_file(file), _from_environment(environ), _from_flags(flags))
    given: dict[str, _Given] = {}
    for layer in layers:
        given |= _once(layer)
    try:
        config = Config(**{key: one.value for key, one in given.items()})
    except ValidationError as error:
        raise InvalidInput("\n".join(dict.fromkeys(_told(each, given) for each in error.errors()))) from error
    return Resolved(config, {key: given[key].source if key in given else "default" for key in Config.model_fields})


def _from_file(file: Path | None) -> Iterator[_Given]:
    if file is None:
        return
    for spelled, value in read_settings(file, GROUPS):
        key = _key_of(spelled.rpartition(".")[2], f"{file}: {spelled}")
        yield _given(key, spelled.rpartition(".")[2], value, f"{file}: {spelled}")


def _from_environment(environ: Mapping[str, str]) -> Iterator[_Given]:
    """Variables that are like no key are other people's: Kubernetes sets TRAINER_PORT for a service `trainer`."""
    for variable, text in sorted(environ.items()):
        if not variable.startswith(ENV_PREFIX) or not text:
            continue
        name = variable.removeprefix(ENV_PREFIX).lower()
        if name in NAMES or difflib.get_close_matches(name, NAMES, 1, CLOSE):
            yield _given(_key_of(name, variable), name, text, variable)


def _from_flags(flags: Mapping[str, Any]) -> Iterator[_Given]:
    for spelled, value in flags.items():
        name = _name(spelled)
        yield _given(_key_of(name, spelled), name, value, f"--{name.replace('_', '-')}")


def _name(spelled: str) -> str:
    return spelled.lstrip("-").replace("-", "_").lower()


def _key_of(spelled: str, where: str) -> str:
    name = _name(spelled)
    if name in NAMES:
        return NAMES[name]
    close = difflib.get_close_matches(name, NAMES, 1)
    hint = f"; did you mean {close[0]}?" if close else f"; the keys are {', '.join(Config.model_fields)}"
    raise InvalidInput(f"{where}: unknown key{hint}")


def _given(key: str, spelled: str, value: Any, source: str) -> _Given:
    converted = CONVERTED.get(_name(spelled))
    if converted:
        try:
            value = converted[1](value)
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"{source}: expected a number, got {value!r}") from error
    return _Given(key, _plain(key, value, source), source)


def _plain(key: str, value: Any, source: str) -> Any:
    """A list where the key is a list; nothing that pydantic would take for something else."""
    field = Config.model_fields[key]
    if isinstance(value, bool) and field.annotation is not bool:
        raise InvalidInput(f"{source}: expected {_expected(field)}, got {str(value).lower()}")
    if not _is_list(field):
        return value
    mark = os.pathsep if _is_paths(field) else ","
    if isinstance(value, str):
        value = value.split(mark)
    elif mark == "," and isinstance(value, list):  # `--matryoshka 64,32` as well as `--matryoshka 64 32`
        value = [part for each in value for part in (each.split(mark) if isinstance(each, str) else [each])]
    return [part for part in value if part != ""] if isinstance(value, list) else value


def _once(layer: Iterable[_Given]) -> dict[str, _Given]:
    found: dict[str, _Given] = {}
    for one in layer:
        other = found.setdefault(one.key, one)
        if other is not one and other.value != one.value:
            raise InvalidInput(f"{one.source} and {other.source} both set {one.key}, to different values")
    return found


def _told(error: Any, given: Mapping[str, _Given]) -> str:
    """One line: where, what was expected, what was there."""
    key = str(error["loc"][0])
    field = Config.model_fields[key]
    if error["type"].startswith(("greater_than", "less_than", "finite")):
        expected = str(error["msg"]).removeprefix("Input should be ")
    else:
        expected = _expected(field)
    return f"{given[key].source}: expected {expected}, got {str(error['input'])!r}"


def _expected(field: FieldInfo) -> str:
    choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)]
    if choices:
        return "one of " + ", ".join(choices)
    text = str(field.annotation)
    kinds = (("tuple", "a list"), ("bool", "true or false"), ("int", "a whole number"), ("float", "a number"))
    return next((told for kind, told in kinds if kind in text), "a text")


def _is_list(field: FieldInfo) -> bool:
    return "tuple" in str(field.annotation)


def _is_paths(field: FieldInfo) -> bool:
    return _is_list(field) and "Path" in str(field.annotation)


def _is_true(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() in {"1", "true", "yes", "on", "0", "false", "no", "off"}:
        return str(value).lower() in {"1", "true", "yes", "on"}
    raise ValueError(value)


# flags


def add_flags(parser: argparse.ArgumentParser, groups: Sequence[str] = GROUPS) -> None:
    """`--config`, and a flag for every key of these groups; older names, and underscores, are understood too."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings as JSON, TOML or YAML")
    parser.set_defaults(flags={})
    for name in groups:
        shown = parser.add_argument_group(name)
        for key in (key for key in Config.model_fields if group(key) == name):
            _add(shown, key)


def resolve_options(options: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> Resolved:
    """The settings that a command line with `add_flags` asks for."""
    return resolve(options.config, environ, options.flags)


def _add(shown: argparse._ArgumentGroup, key: str) -> None:
    field = Config.model_fields[key]
    is_bool = field.annotation is bool
    options: dict[str, Any] = {"action": _Keep, "dest": "flags", "default": argparse.SUPPRESS}
    options |= {"nargs": 0} if is_bool else {"nargs": "+" if _is_list(field) else None, "metavar": _metavar(field)}
    shown.add_argument(*_spellings(key), help=field.description, **options)
    hidden = [name for name in older(key) if name not in CONVERTED]
    for name in hidden:
        shown.add_argument(*_spellings(name), help=argparse.SUPPRESS, **options)
    for name in (key, *hidden) if is_bool else ():
        shown.add_argument(*_spellings(f"no-{name}"), help=argparse.SUPPRESS, **options)
    for name in set(older(key)) - set(hidden):
        arguments = {**options, "nargs": 0 if name.startswith("no_") else None}
        shown.add_argument(*_spellings(name), help=argparse.SUPPRESS, **arguments)


def _spellings(name: str) -> list[str]:
    return list(dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name.replace('-', '_')}")))


def _metavar(field: FieldInfo) -> str:
    choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)]
    kinds = {"Path": "PATH", "int": "N", "float": "X"}
    text = str(field.annotation)
    return "|".join(choices) if choices else next((told for kind, told in kinds.items() if kind in text), "TEXT")


class _Keep(argparse.Action):
    """Keeps a flag under the name that it was given by, so that a message can say it; lists go on."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        name = _name(str(option))
        flags = dict(namespace.flags)
        if self.nargs == 0:
            negated = name not in NAMES
            flags[name.removeprefix("no_") if negated else name] = not negated
        else:
            flags[name] = [*flags.get(name, []), *values] if isinstance(values, list) else values
        namespace.flags = flags
