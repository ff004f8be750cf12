"""The head of a reranker: one label, and the activation that makes a score of it. All else is as for an encoder.

The rules are those of sentence_transformers/cross_encoder/model.py (6.2), reproduced without loading anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from gateway.volume.documents import Document, shown
from gateway.volume.files import Folder
from gateway.volume.modules import ACTIVATIONS
from gateway.volume.prompts import PROMPTS
from gateway.volume.reasons import Findings, unfit
from gateway.volume.weights import Weights

DEFAULT: Final = "Sigmoid"
UNNAMED_LABELS: Final = 2  # what transformers takes a configuration for that says nothing
PACKAGES: Final = ("torch.nn.modules.activation", "torch.nn.modules.linear", "torch.nn")
LAST: Final = re.compile(r"classifier(?:\.[a-z_]+)?\.weight")  # of the whole model; a body has a prefix of its own


@dataclass(frozen=True, slots=True)
class Head:
    """`activation` is a class name of torch.nn."""

    activation: str


def read_head(folder: Folder, path: str, findings: Findings) -> Head:
    """Of the config.json in the sub-folder `path`, and of what sentence-transformers says beside it. Raises Unfit
    (config_invalid, classifier, activation_not_supported)."""
    config = Document.read(folder, f"{path}/config.json" if path else "config.json", "config_invalid")
    labels = _labels(config)
    if labels != 1:
        message = f"{config.name} has {labels} labels: a classifier, and no reranker, which has one"
        raise unfit("classifier", message, config.name)
    spelling, name = next(_activations(folder, config), (None, config.name))
    return Head(DEFAULT if spelling is None else _activation(spelling, name, findings))


def check_head(weights: Weights) -> None:
    """The weights have a head, and it has one label. Raises Unfit (weights_mismatch)."""
    if weights.shapes is None:
        return
    last = [shape for name, shape in weights.shapes.items() if LAST.fullmatch(name)]
    if not any(shape[:1] == (1,) for shape in last):
        file = weights.index or weights.files[0]
        raise unfit("weights_mismatch", f"{file} has no classifier with one label, which every reranker has", file)


def _labels(config: Document) -> int:
    """As transformers counts them."""
    named = len(config.inner("id2label").fields) if config.given("id2label") else None
    counted = config.count("num_labels") if config.given("num_labels") else None
    if named is not None and counted is not None and named != counted:
        raise config.fault(f"num_labels is {counted}, and id2label has {named}")
    return named or counted or UNNAMED_LABELS


def _activations(folder: Folder, config: Document) -> Iterator[tuple[str, str]]:
    """What is said of it, the best first, and by which file."""
    if folder.has(PROMPTS):
        settings = Document.read(folder, PROMPTS, "modules_invalid")
        if settings.given("activation_fn"):
            yield settings.text("activation_fn"), PROMPTS
    ours = config.inner("sentence_transformers")
    if ours.given("activation_fn"):
        yield ours.text("activation_fn"), config.name
    elif config.given("sbert_ce_default_activation_function"):  # as it was called before 4.0
        yield config.text("sbert_ce_default_activation_function"), config.name


def _activation(spelling: str, file: str, findings: Findings) -> str:
    package, _, name = spelling.rpartition(".")
    if package in PACKAGES and (name in ACTIVATIONS or name == "Identity"):
        return name
    if spelling.startswith("torch."):
        message = f"{file}: the activation function {shown(spelling)} is not served"
        raise unfit("activation_not_supported", message, file)
    findings.warn(f"{file}: the activation function {shown(spelling)} is code of its own; a sigmoid is used instead")
    return DEFAULT
