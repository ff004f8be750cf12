"""How well a language model says what it should: the loss of the answers' tokens, their perplexity, and how many
answers are right word for word.

An answer is right when each of its tokens, the one that ends it among them, is the likeliest one behind those before
it: then, and only then, greedy decoding says just that answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from trainer.language.encoding import UNLEARNT, Sample

LARGEST: Final = 700.0  # of which exp is still a number


@dataclass(frozen=True, slots=True)
class Measured:
    """`loss` is the mean over `tokens`, in nats; `losses` has the mean of each row, `exact` whether it is right."""

    tokens: int
    loss: float
    losses: tuple[float, ...]
    exact: tuple[bool, ...]

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, LARGEST))

    @property
    def exact_match(self) -> float:
        return sum(self.exact) / max(1, len(self.exact))

    def summary(self) -> dict[str, Any]:
        told = {"loss": self.loss, "perplexity": self.perplexity, "exact_match": self.exact_match}
        return {**told, "rows": len(self.losses), "tokens": self.tokens}

    def to_json(self) -> dict[str, Any]:
        """Nothing of it is text: what was asked stays where it was."""
        return {**self.summary(), "losses": list(self.losses), "exact": list(self.exact)}

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Measured:
        return cls(int(told["tokens"]), float(told["loss"]), tuple(told["losses"]), tuple(told["exact"]))


def measure(
    model: Any,
    samples: Sequence[Sample],
    *,
    pad: int,
    batch_size: int,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Measured:
    """Of the model as it is now; it is left in the mode that it was in."""
    import torch  # noqa: PLC0415  heavy

    order = sorted(range(len(samples)), key=lambda place: -len(samples[place].ids))
    sums, counts, exact = [0.0] * len(samples), [0] * len(samples), [False] * len(samples)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(order), batch_size):
                places = order[start : start + batch_size]
                found = _rows(model, padded([samples[place] for place in places], pad))
                for place, (total, count, right) in zip(places, found, strict=True):
                    sums[place], counts[place], exact[place] = total, count, right
                advance(min(start + batch_size, len(order)), len(order))
    finally:
        model.train(was_training)
    each = tuple(total / max(1, count) for total, count in zip(sums, counts, strict=True))
    return Measured(sum(counts), sum(sums) / max(1, sum(counts)), each, tuple(exact))


def _rows(model: Any, batch: dict[str, Any]) -> Iterator[tuple[float, int, bool]]:
    """Of each row: the sum of its losses, over how many tokens, and whether all of them are the likeliest."""
    from torch.nn.functional import cross_entropy  # noqa: PLC0415  heavy

    inputs = {key: value.to(model.device) for key, value in batch.items()}
    labels = inputs.pop("labels")[:, 1:]
    logits = model(**inputs, use_cache=False).logits[:, :-1]
    for row, wanted in zip(logits, labels, strict=True):
        learnt = wanted != UNLEARNT
        said, target = row[learnt].float(), wanted[learnt]
        right = bool((said.argmax(-1) == target).all())
        yield float(cross_entropy(said, target, reduction="sum")), int(learnt.sum()), right


def padded(samples: Sequence[Sample], pad: int) -> dict[str, Any]:
    """A batch, filled up on the right."""
    import torch  # noqa: PLC0415  heavy

    longest = max(len(sample.ids) for sample in samples)
    ids = torch.full((len(samples), longest), pad)
    labels = torch.full((len(samples), longest), UNLEARNT)
    seen = torch.zeros((len(samples), longest), dtype=torch.long)
    for row, sample in enumerate(samples):
        length = len(sample.ids)
        ids[row, :length], labels[row, :length] = torch.tensor(sample.ids), torch.tensor(sample.labels)
        seen[row, :length] = 1
    return {"input_ids": ids, "attention_mask": seen, "labels": labels}
