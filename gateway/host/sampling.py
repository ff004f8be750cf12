"""The next token of each row, from its logits.

Greedy is the largest logit, as `generate` of transformers takes it. Otherwise every row draws with a generator of its
own, so that a seed gives one answer whatever the row is computed beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from gateway.host.wire import Sampling

LARGEST_SEED: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Habits:
    """How a model speaks when nobody says how: what its generation_config.json has, or greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0


class Sampler:
    """Chooses for one row. `tokens` are those that it has chosen, and `likely`, where that is asked for, the logarithms
    of the probability of each and of the likeliest in its place."""

    def __init__(self, sampling: Sampling, device: torch.device, habits: Habits = Habits()) -> None:
        self._frequency = sampling.frequency_penalty
        self._presence = sampling.presence_penalty
        self._temperature = habits.temperature if sampling.temperature is None else sampling.temperature
        self._top_p = habits.top_p if sampling.top_p is None else sampling.top_p
        self._top_k = habits.top_k if sampling.top_k is None else sampling.top_k
        self.tokens: list[int] = []
        self.likely: list[tuple[float, list[tuple[int, float]]]] = []
        self._wanted = sampling.logprobs
        self._random = torch.Generator(device)
        if sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(sampling.seed % LARGEST_SEED)

    def choose(self, logits: Tensor) -> int:
        """[words] in float32 -> a token."""
        token = int(self._chosen(self._penalised(logits)))
        self.take(token, logits)
        return token

    def take(self, token: int, logits: Tensor) -> None:
        """It was chosen from these."""
        self.tokens.append(token)
        if self._wanted is None:
            return
        logprobs = torch.log_softmax(logits, dim=-1)
        top: list[tuple[int, float]] = []
        if self._wanted:
            values, places = torch.topk(logprobs, min(self._wanted, len(logprobs)))
            top = list(zip(places.tolist(), values.tolist(), strict=True))
        self.likely.append((float(logprobs[token]), top))

    @property
    def plain(self) -> bool:
        """The largest logit is the token."""
        return not (self._temperature or self._frequency or self._presence)

    def _chosen(self, logits: Tensor) -> Tensor:
        if not self._temperature:
            return logits.argmax()
        logits = logits / self._temperature
        if 0 < self._top_k < len(logits):
            least = torch.topk(logits, self._top_k).values[-1]
            logits = logits.masked_fill(logits < least, -torch.inf)
        shares = torch.softmax(logits, dim=-1)
        if self._top_p < 1:
            shares = _nucleus(shares, self._top_p)
        return torch.multinomial(shares, 1, generator=self._random)

    def _penalised(self, logits: Tensor) -> Tensor:
        """As OpenAI's API describes its two penalties."""
        if not self.tokens or not (self._frequency or self._presence):
            return logits
        counts = torch.bincount(torch.tensor(self.tokens, device=logits.device), minlength=len(logits))
        return logits - counts * self._frequency - (counts > 0) * self._presence


def choose(samplers: Sequence[Sampler], logits: Tensor) -> list[int]:
    """[rows, words] -> a token for each row."""
    logits = logits.float()
    if not all(sampler.plain for sampler in samplers):
        return [sampler.choose(row) for sampler, row in zip(samplers, logits, strict=True)]
    tokens: list[int] = logits.argmax(dim=-1).tolist()
    for sampler, token, row in zip(samplers, tokens, logits, strict=True):
        sampler.take(token, row)
    return tokens


def _nucleus(shares: Tensor, top_p: float) -> Tensor:
    """The fewest tokens that have so much of the probability together (Holtzman et al. 2020); one at least."""
    ordered, places = shares.sort(descending=True)
    beyond = ordered.cumsum(-1) - ordered >= top_p
    return shares.index_fill(0, places[beyond], 0.0)
