"""What waits on a device, counted in tokens, and how long it will take.

Each queue (one flow of one model) may hold as many tokens as are still free: the dynamic thresholds of Choudhury and
Hahne (1998). So n floods leave one part in n + 1 free, and who has nothing waiting finds room. A queue with room takes
a request of any size: single texts and large batches are refused alike, and none for ever.
"""

from __future__ import annotations

import math
from typing import Final

from gateway.errors import Overloaded

MEMORY_SECONDS: Final = 5.0  # busy time after which a measurement counts for a third
UNMEASURED_WAIT: Final = 1.0  # told while no rate is known
LEAST_WAIT: Final = 0.1


class Rate:
    """Tokens a second while there is work, the gaps between device calls included. The past fades with busy time."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        fading = math.exp(-seconds / MEMORY_SECONDS)
        self._tokens = self._tokens * fading + tokens
        self._seconds = self._seconds * fading + seconds

    @property
    def value(self) -> float:
        """0 before anything was measured."""
        return self._tokens / self._seconds if self._seconds else 0.0


class Waiting:
    """The tokens that wait for one model, by flow."""

    def __init__(self) -> None:
        self.weight = 1.0
        self.flows: dict[str, int] = {}

    def until(self, flow: str) -> int:
        """Tokens that the model computes until the flow has had all of its own: the others have as much each."""
        own = self.flows.get(flow, 0)
        return sum(min(tokens, own) for tokens in self.flows.values())


class Hold:
    """Tokens of a request that waits for its model or its tokenizer."""

    def __init__(self, backlog: Backlog, key: str, flow: str, tokens: int) -> None:
        self._backlog = backlog
        self._key = key
        self._flow = flow
        self._tokens = tokens

    def end(self) -> None:
        """Once counts."""
        tokens, self._tokens = self._tokens, 0
        if tokens:
            self._backlog.remove(self._key, self._flow, tokens)


class Backlog:
    """`most` tokens may wait, and then one request more."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._models: dict[str, Waiting] = {}
        self._rates: dict[str, Rate] = {}
        self._overall = Rate()
        self.tokens = 0
        self.underway = 0  # tokens that have been cut into calls and are not computed yet

    def of(self, key: str, flow: str) -> int:
        """Tokens that one flow has waiting for the model `key`."""
        model = self._models.get(key)
        return model.flows.get(flow, 0) if model else 0

    def refuse_if_full(self, key: str, flow: str) -> None:
        """Raises Overloaded, with the seconds until what waits there is computed."""
        if not self.tokens or self.of(key, flow) < self._most - self.tokens:
            return
        raise Overloaded(
            f"{self.tokens} tokens wait on the device already",
            retry_after=max(LEAST_WAIT, self.wait(key, flow)),
            queued=self.tokens,
        )

    def add(self, key: str, flow: str, tokens: int, weight: float = 1.0) -> None:
        """One token at least."""
        model = self._models.setdefault(key, Waiting())
        model.weight = weight
        model.flows[flow] = model.flows.get(flow, 0) + tokens
        self.tokens += tokens

    def remove(self, key: str, flow: str, tokens: int) -> None:
        flows = self._models[key].flows
        flows[flow] -= tokens
        self.tokens -= tokens
        if not flows[flow]:
            del flows[flow]
        if not flows:
            del self._models[key]

    def hold(self, key: str, flow: str, tokens: int, weight: float = 1.0) -> Hold:
        """Counts what is on its way to a queue, until it is there or its request has ended."""
        self.add(key, flow, tokens, weight)
        return Hold(self, key, flow, tokens)

    def measured(self, key: str, tokens: int, seconds: float) -> None:
        """A device call of the model took so long, counted from when the device was free for it."""
        self._overall.add(tokens, seconds)
        self._rates.setdefault(key, Rate()).add(tokens, seconds)

    def forget(self, keep: frozenset[str]) -> None:
        """Rates are kept of these models only."""
        self._rates = {key: rate for key, rate in self._rates.items() if key in keep}

    def wait(self, key: str, flow: str) -> float:
        """Seconds until all that the flow has waiting for the model is computed. Before it comes what is underway, and
        beside it every other model has as much by its weight, or all that it has waiting. With nothing there: until
        everything is computed."""
        if not self._overall.value:
            return UNMEASURED_WAIT
        model = self._models.get(key)
        own = model.until(flow) / model.weight if model else 0
        seconds = self.underway / self._overall.value
        for name, other in self._models.items():
            waiting = sum(other.flows.values())
            seconds += (min(waiting, own * other.weight) if own else waiting) / self._rate(name)
        return seconds

    @property
    def clearing(self) -> float:
        """Seconds until everything is computed; 0 before anything was measured."""
        return self.wait("", "") if self._overall.value else 0.0

    def _rate(self, key: str) -> float:
        rate = self._rates.get(key, self._overall).value
        return rate or self._overall.value
