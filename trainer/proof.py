"""Proof: a copy of a model is loaded in another process before anybody may have it, and answers what the model answered
when it was made.

Where no vectors were recorded, those of the copy are, so that what is served can be held to what was published.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from trainer import metadata, reload
from trainer.bases import find_base
from trainer.contents import model_directory, read_json
from trainer.errors import InvalidInput
from trainer.golden import TEXTS, Golden, check, compare
from trainer.language import golden

SPEAKING: Final = ("ForCausalLM", "LMHeadModel")
OTHER_KINDS: Final = ("ForSequenceClassification", *SPEAKING, "ForConditionalGeneration")


class Load(Protocol):
    def __call__(self, directory: Path, texts: Sequence[str], *, base: Path | None = None) -> reload.Matrix: ...


def describing(
    source: Path,
    given: Mapping[str, Any],
    *,
    base: Path | None = None,
    tell: Callable[[str], None] = lambda line: None,
    load: Load | None = None,
) -> Callable[[Path], dict[str, Any]]:
    """What `publish` asks of a staged copy: its metadata, `given` first, then the model's own, then the run's. Raises
    what `prove` does."""

    def describe(stage: Path) -> dict[str, Any]:
        own = metadata.read(stage)
        fields = metadata.of_run(_run_of(source)) | own | {key: value for key, value in given.items() if value}
        where = _base_of(stage, source, base) if _is_adapter(stage) else None
        if where is not None:
            fields |= _named_base(fields, where)
        if speaks(stage) and (where is not None or golden.KEY in own):
            spoken, told = golden.prove(stage, where, golden.Spoken.read(own))
            tell(f"trainer: {told}")
            return fields | {golden.KEY: spoken.to_json()}
        if not is_encoder(stage):
            tell("trainer: not an encoder: its files are whole, and what it answers was not tried")
            return fields
        vectors, told = prove(stage, Golden.read(own), base=where, load=load)
        tell(f"trainer: {told}")
        return fields | {"golden": vectors.to_json()}

    return describe


def prove(
    directory: Path, recorded: Golden | None, *, base: Path | None = None, load: Load | None = None
) -> tuple[Golden, str]:
    """The vectors that go with the model, and in a line what was found. Raises NotAModel when it does not load,
    QualityGate when it answers other than recorded, or what no model should."""
    texts = recorded.texts if recorded else TEXTS
    made = (load or reload.vectors)(directory, texts, base=base)
    check(made, texts)
    if recorded is None:
        return Golden(TEXTS, made), f"loaded anew, it answers {len(texts)} texts; their vectors go with it"
    lowest = compare(made, recorded)
    return recorded, f"loaded anew, it answers {len(texts)} texts as when it was made (lowest cosine {lowest:.6f})"


def is_encoder(directory: Path) -> bool:
    """Whether it makes vectors of texts: anything with modules.json, and what is no other kind by its architecture."""
    if (directory / "modules.json").is_file():
        return True
    if _is_adapter(directory):
        return bool(read_json(directory / "adapter_config.json").get("task_type") != "CAUSAL_LM")
    return not any(name.endswith(OTHER_KINDS) for name in _architectures(directory))


def speaks(directory: Path) -> bool:
    """Whether it is a causal language model, or an adapter of one."""
    if _is_adapter(directory):
        return bool(read_json(directory / "adapter_config.json").get("task_type") == "CAUSAL_LM")
    return any(name.endswith(SPEAKING) for name in _architectures(directory))


def _architectures(directory: Path) -> list[str]:
    named = read_json(directory / "config.json").get("architectures") if _has_config(directory) else None
    return [str(name) for name in named or []]


def _has_config(directory: Path) -> bool:
    return (directory / "config.json").is_file()


def _is_adapter(directory: Path) -> bool:
    return (directory / "adapter_config.json").is_file() and not _has_config(directory)


def _base_of(adapter: Path, source: Path, given: Path | None) -> Path:
    """The directory of an adapter's base: as given, as the adapter says where that is a directory, or where it is found
    from the place that the adapter was made in."""
    named = Path(str(read_json(adapter / "adapter_config.json").get("base_model_name_or_path") or ""))
    found = given or (named if named.is_absolute() and named.is_dir() else None)
    return model_directory(found or find_base(model_directory(source)))


def _named_base(fields: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """The base by a name that others know, and the digest of its weights. Raises InvalidInput for another base than
    the one that the adapter was trained on."""
    digest = metadata.weights_digest(base)
    told = fields.get("base") if isinstance(fields.get("base"), dict) else {}
    if told and told.get("digest") not in {None, digest}:
        raise InvalidInput(f"{base}: not the base that the adapter was made for: the digest of its weights differs")
    name = str(fields.get("base_model") or (told or {}).get("name") or base.name)
    return {"base_model": name, "base": {"name": name, "digest": digest}}


def _run_of(source: Path) -> Path:
    """The training run that `source` is, or is the final model of."""
    return source.parent if (source.parent / "training_progress.json").is_file() else source
