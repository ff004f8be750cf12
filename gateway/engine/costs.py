"""How long a device takes for what is asked, judged by what was told before: of the same generation, else of all of
them by their bytes."""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from gateway.engine.refusals import CHARACTERS, Inputs, size
from gateway.host import wire
from gateway.host.pace import Pace
from gateway.model import Generation

FULL: Final = 256  # tokens: a smaller call takes as long as its beginning and end, and says nothing of its tokens
FADES: Final = 0.9  # of what a generation's device calls weigh, with each that follows
ALL_FADE: Final = 0.99  # of all of them
FIRST_COST: Final = 1e-12  # seconds for a token and a byte of the model, before anything was computed: a CPU


class Cost:
    """Seconds for each unit of work, of which the last weighs most."""

    def __init__(self, fades: float, first: float = 0.0) -> None:
        self.value = first
        self._fades = fades
        self._seconds = 0.0
        self._work = 0.0

    def add(self, seconds: float, work: float) -> None:
        self._seconds = self._fades * self._seconds + seconds
        self._work = self._fades * self._work + work
        self.value = self._seconds / self._work


class Costs:
    """Of base models: an adapter computes as long as its base does, and is loaded in no time."""

    def __init__(self) -> None:
        self._own: dict[str, Cost] = {}
        self._all = Cost(ALL_FADE, FIRST_COST)
        self._asked: dict[str, tuple[str, int]] = {}  # the base of whatever was asked for, and the base's bytes
        self._pace = Pace()

    def computing(self, generation: Generation, predicted: int, inputs: Inputs) -> float:
        """Seconds of a device's time, as part of full calls. `predicted` are the bytes of the base model."""
        base = generation.base or generation
        if generation.digest not in self._asked:
            self._asked[generation.digest] = base.digest, predicted
        longest = len(inputs) * base.manifest.max_tokens  # what is longer is cut off, or refused
        own = self._own.get(base.digest)
        token = own.value if own is not None else self._all.value * predicted
        return min(size(inputs) / CHARACTERS, longest) * token

    def loading(self, base: Generation, predicted: int) -> float:
        """Seconds of a load."""
        return self._pace.seconds(base.digest, predicted)

    def called(self, call: wire.Batch) -> None:
        """A device call has ended."""
        known = self._asked.get(call.digest)
        if known is None or not call.tokens:
            return
        digest, predicted = known
        tokens = max(call.tokens, FULL)
        self._own.setdefault(digest, Cost(FADES)).add(call.seconds, tokens)
        self._all.add(call.seconds, tokens * predicted)

    def loaded(self, load: wire.Loaded) -> None:
        """A load has ended."""
        known = self._asked.get(load.digest)
        if known is not None and known[0] == load.digest and not load.returned:
            self._pace.loaded(load.digest, load.bytes, load.seconds)

    def keep(self, known: Container[str]) -> None:
        """Only these are remembered."""
        self._own = {digest: cost for digest, cost in self._own.items() if digest in known}
        self._asked = {digest: asked for digest, asked in self._asked.items() if digest in known}
