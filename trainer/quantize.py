"""Quantize: the same model in fewer bytes, measured before anybody may have it.

Save before any call, load in another process, measure there: how far vectors moved, what is still found, how large it
is and how fast. What moved too far is not kept, unless forced, and then the directory says so itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from trainer import bootstrap, drift, golden, metadata, reload
from trainer.contents import model_directory, model_files, read_json
from trainer.errors import InvalidInput, NotAModel, QualityGate
from trainer.evaluate import Vectors, evaluate
from trainer.forms import Form, named, write
from trainer.output import readable, staged
from trainer.questions import Questions
from trainer.sizes import Sizes, sizes
from trainer.texts import TEXTS

METRIC: Final = "mrr@10"
MOST_TEXTS: Final = 512  # of the questions, that vectors are compared on
SAME: Final = 0.9999  # cosine of a form to itself, loaded once more
ADAPTER: Final = "adapter_config.json"


class Answering(Protocol):
    def __call__(self, directory: Path, texts: Sequence[str], *, role: reload.Role = "") -> reload.Answer: ...


@dataclass(frozen=True, slots=True)
class Limits:
    least_cosine: float
    most_loss: float


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Scores of the metric, and after minus before with its 95% interval."""

    before: float
    after: float
    difference: bootstrap.Difference


@dataclass(frozen=True, slots=True)
class Measured:
    """`speed` in texts a second of one process, before and after; it decides nothing."""

    drift: drift.Drift
    retrieval: Retrieval | None
    sizes: Sizes
    speed: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"drift": self.drift.to_json(), "bytes": self.sizes.after}
        found |= {"bytes_before": self.sizes.before, "texts_per_second": round(self.speed[1], 1)}
        found |= {"texts_per_second_before": round(self.speed[0], 1)}
        if self.retrieval:
            found[METRIC] = asdict(self.retrieval)
        return found


@dataclass(frozen=True, slots=True)
class Quantized:
    """`faults` is what was wrong with it, which is empty unless it was forced."""

    path: Path
    form: Form
    measured: Measured
    faults: tuple[str, ...]


def quantize(
    model_dir: Path,
    out: Path,
    form: str | Form,
    questions: Questions | None = None,
    *,
    max_loss: float | None = None,
    force: bool = False,
    min_cosine: float | None = None,
    overwrite: bool = False,
    answered: Answering = reload.answered,
    tell: Callable[[str], None] = lambda line: None,
) -> Quantized:
    """Writes the model of `model_dir` to `out` in this form. Raises InvalidInput for what cannot be quantized,
    NotAModel when what was written does not load, QualityGate when it moved too far and is not forced; `out` is as
    before then."""
    chosen = named(form) if isinstance(form, str) else form
    source = model_directory(model_dir)
    _check(source)
    limits = Limits(
        chosen.least_cosine if min_cosine is None else min_cosine, chosen.most_loss if max_loss is None else max_loss
    )
    with staged(out, overwrite=overwrite) as stage:
        tell(f"writing {chosen.name}")
        write(chosen, source, stage)
        readable(stage)
        tell("loading it in another process, and measuring")
        measured = _measure(source, stage, questions, answered)
        faults = _faults(measured, limits)
        if faults and not force:
            raise QualityGate(f"{chosen.name} of {source}: {'; '.join(faults)}; --force keeps it all the same")
        _describe(source, stage, chosen, (measured, faults), answered)
    return Quantized(out, chosen, measured, faults)


def _check(source: Path) -> None:
    if (source / ADAPTER).is_file():
        raise InvalidInput(f"{source}: an adapter; `trainer merge` makes a model of it, which can be quantized")
    if not any(path.suffix == ".safetensors" for path in model_files(source)):
        raise NotAModel(f"{source}: no weights in safetensors")
    for config in (source / "config.json", source / "0_Transformer" / "config.json"):
        fields = read_json(config) if config.is_file() else {}
        if isinstance(fields, dict) and fields.get("quantization_config"):
            raise InvalidInput(f"{source}: quantized already; quantize the float32 model that it was made from")


def _measure(source: Path, stage: Path, questions: Questions | None, answered: Answering) -> Measured:
    texts = _texts(questions)
    before, after = answered(source, texts), answered(stage, texts)
    golden.check(after.vectors, texts)
    found = _retrieval(source, stage, questions, answered) if questions else None
    speed = (len(texts) / max(before.seconds, 1e-9), len(texts) / max(after.seconds, 1e-9))
    return Measured(drift.between(before.vectors, after.vectors), found, sizes(source, stage), speed)


def _texts(questions: Questions | None) -> tuple[str, ...]:
    if questions is None:
        return TEXTS
    half = MOST_TEXTS // 2
    return tuple(dict.fromkeys((*questions.queries[:half], *questions.corpus[:half], *TEXTS)))


class _Elsewhere:
    """A directory as `evaluate` wants a model: every call loads it anew, in a process of its own."""

    def __init__(self, directory: Path, answered: Answering, *, dot: bool) -> None:
        self._directory, self._answered, self.dot = directory, answered, dot

    def queries(self, texts: Sequence[str]) -> Vectors:
        return self._answered(self._directory, texts, role="query").vectors

    def documents(self, texts: Sequence[str]) -> Vectors:
        return self._answered(self._directory, texts, role="document").vectors


def _retrieval(source: Path, stage: Path, questions: Questions, answered: Answering) -> Retrieval:
    settings = source / "config_sentence_transformers.json"
    told = read_json(settings) if settings.is_file() else {}
    dot = isinstance(told, dict) and told.get("similarity_fn_name") in ("dot", "dot_product")
    before, after = (evaluate(_Elsewhere(each, answered, dot=dot), questions) for each in (source, stage))
    return Retrieval(before.of(METRIC), after.of(METRIC), bootstrap.paired(before, after, METRIC))


def _faults(measured: Measured, limits: Limits) -> tuple[str, ...]:
    found = []
    cosine = measured.drift.cosine
    if cosine is None:
        found.append("its vectors have another dimension")
    elif not cosine.mean >= limits.least_cosine:
        found.append(
            f"the mean cosine to the model before is {cosine.mean:.4f}, and {limits.least_cosine} is asked for"
        )
    if measured.retrieval and not -measured.retrieval.difference.mean <= limits.most_loss:
        lost = -measured.retrieval.difference.mean
        found.append(f"{METRIC} fell by {lost:.4f}, and {limits.most_loss} is allowed")
    return tuple(found)


def _describe(
    source: Path, stage: Path, form: Form, found: tuple[Measured, tuple[str, ...]], answered: Answering
) -> None:
    """Writes what is known of it, and proves once more that it loads to what was measured."""
    measured, faults = found
    recorded = golden.Golden(golden.TEXTS, answered(stage, golden.TEXTS).vectors)
    golden.compare(answered(stage, golden.TEXTS).vectors, recorded, SAME)
    own = metadata.read(source)
    quantization: dict[str, Any] = {"form": form.name, "bits": form.bits, "measured": measured.to_json()}
    if faults:
        quantization["forced"] = list(faults)
    name = own.get("display_name") or own.get("base_model") or metadata.logical_name(str(source.resolve()))
    fields = own | {"scores": None, "dtype": None, "runtime": None}  # of another form; these are not its own
    fields |= {
        "requirements": list(form.requirements) or None,
        "quantization": quantization,
        "base": {"name": name, "digest": metadata.weights_digest(source)},
        "golden": recorded.to_json(),
    }
    metadata.write(stage, fields)
