"""What a run learns from and is judged by: rows read, cleaned, split, and the held-out ones made into questions."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trainer.config import Config
from trainer.console import progress
from trainer.data.duplicates import without_duplicates
from trainer.data.example import Example
from trainer.data.read import read
from trainer.data.split import split
from trainer.errors import InvalidInput
from trainer.losses import answered, kind
from trainer.questions import Questions, from_examples

MOST_DISTRACTORS: Final = 5_000  # answers of training rows that are found beside the held-out ones
FEW: Final = 100  # rows from which a held-out score begins to mean something
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Material:
    """`questions` is None where nothing is held out."""

    train: list[Example]
    held_out: list[Example]
    questions: Questions | None


def gather(config: Config, tell: Tell) -> Material:
    """Raises InvalidInput for broken data, and where nothing is left to learn from."""
    if not config.data:
        raise InvalidInput("no data; name files of examples: --data pairs.jsonl")
    train, held_out = _sides(config, tell)
    if config.max_samples is not None and len(train) > config.max_samples:
        tell(f"{config.max_samples} of {len(train)} examples are trained on, as max_samples says")
        train = _some(train, config.max_samples, config.seed)
    if not train:
        raise InvalidInput("nothing to train on: all examples are held out; a smaller --split leaves some")
    if len(train) < FEW:
        tell(f"only {len(train)} examples to train on: expect little, and believe scores even less")
    return Material(train, held_out, _questions(config, train, held_out, tell))


def _sides(config: Config, tell: Tell) -> tuple[list[Example], list[Example]]:
    examples = _clean(config, config.data, tell)
    if config.validation:
        return examples, _clean(config, config.validation, tell)
    if not config.split:
        return examples, []
    return split(examples, config.split)


def _clean(config: Config, files: Sequence[Path], tell: Tell) -> list[Example]:
    with progress("reading", "bytes") as advance:
        reading = read(files, skip_broken=config.skip_broken, progress=advance)
    if reading.broken:
        tell(f"{reading.broken} broken rows are left out; the first: {reading.faults[0]}")
    examples = reading.examples
    if kind(config.loss).wants != "labels":  # these losses read scores themselves
        examples = answered(examples)
        if len(examples) < len(reading.examples):
            tell(f"{len(reading.examples) - len(examples)} rows with a low score are negatives of their queries")
    kept, removed = without_duplicates(examples, config.dedupe)
    without = f"{removed.exact} equal, {removed.near} nearly equal, {removed.merged} merged"
    tell(f"read {len(reading.examples)} rows, kept {len(kept)} examples ({without})")
    return kept


def _some(examples: list[Example], count: int, seed: int) -> list[Example]:
    chosen = sorted(random.Random(seed).sample(range(len(examples)), count))
    return [examples[place] for place in chosen]


def _questions(config: Config, train: list[Example], held_out: list[Example], tell: Tell) -> Questions | None:
    """The answers of training rows are found too: among held-out answers alone every model looks good."""
    good = answered(held_out)
    if not good:
        tell("nothing is held out: no scores, and the last weights are taken")
        return None
    size = config.eval_sample_size
    asked = good if size is None or size >= len(good) else _some(good, size, config.seed)
    others = [text for example in good for text in example.positives]
    others += [text for example in train for text in example.positives]
    others = list(dict.fromkeys(others))
    if len(others) > MOST_DISTRACTORS:
        others = random.Random(config.seed).sample(others, MOST_DISTRACTORS)
    return from_examples(asked, distractors=others)
