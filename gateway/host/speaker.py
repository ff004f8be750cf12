"""A loaded language model: its generator, its tokenizer, its template, and the answers that it is giving."""

from __future__ import annotations

import copy
import time
from collections.abc import Awaitable, Callable, Sequence

from gateway.errors import InputTooLong
from gateway.host import memory, wire
from gateway.host.causal import Manner
from gateway.host.chat import Template
from gateway.host.generator import Generator, Row
from gateway.host.likelihoods import Likelihoods
from gateway.host.prose import Prose
from gateway.host.sampling import Sampler
from gateway.host.stacks import Branches
from gateway.host.talk import Answer, Talk
from gateway.host.tokenize import Tokenizer
from gateway.host.wire import Numerics
from gateway.model import Generation

Came = list[tuple[int, int]]


class Voice:
    """An adapter of a language model that is loaded. It knows no network: what it changes is settled with each call."""

    def __init__(
        self, generation: Generation, branches: Branches, tokenizer: Tokenizer, template: Template, numerics: Numerics
    ) -> None:
        self.generation = generation
        self.branches = branches
        self.tokenizer = tokenizer
        self.template = template
        self.numerics = numerics

    @property
    def bytes(self) -> int:
        """Its own: nothing of the base is counted here."""
        return self.branches.bytes

    def place(self, device: str) -> None:
        """Raises memory.OutOfMemory."""
        with memory.guarded():
            self.branches.to(device)

    def close(self) -> None:
        self.branches.empty()


class Speaker:
    """`run` runs a device call; `room` in tokens of keys and values that its rows may have together."""

    def __init__(
        self,
        generation: Generation,
        numerics: Numerics,
        generator: Generator,
        *,
        tokenizer: Tokenizer,
        template: Template,
        manner: Manner,
        room: int,
        run: Callable[[Callable[[], Came], list[int]], Awaitable[Came]],
    ) -> None:
        self.generation = generation
        self.numerics = numerics
        self.encoder = generator
        self.tokenizer = tokenizer
        self.template = template
        self._branches: Branches | None = None
        self._manner = manner
        self._room = room
        self.talk = Talk(generator, run, manner.endings, room, time.monotonic)

    @property
    def bytes(self) -> int:
        return self.encoder.bytes

    def with_voice(self, voice: Voice) -> Speaker:
        """The same model with an adapter over it: its answers ride in the same calls."""
        found = copy.copy(self)
        found.generation, found.tokenizer, found.template = voice.generation, voice.tokenizer, voice.template
        found._branches = voice.branches
        return found

    def read(self, text: str, turns: Sequence[wire.Turn]) -> list[int]:
        """What is continued, as tokens. Raises InvalidInput, and InputTooLong where no token more would fit."""
        if turns:
            (tokens,) = self.tokenizer.bodies([self.template.render(turns)])
        else:
            tokens = self.tokenizer.framed(text)
        most = min(self._room, self.generation.manifest.max_tokens)
        if len(tokens) >= most:
            message = f"the conversation has {len(tokens)} tokens, and with its answer it may have {most}"
            raise InputTooLong(message, tokens=len(tokens), max_tokens=most)
        return tokens

    def answer(
        self, command: wire.Generate, prompt: Sequence[int], tell: Callable[[str, int, str], None], began: float
    ) -> Answer:
        """To be given to `talk`."""
        fits = min(self._room, self.generation.manifest.max_tokens) - len(prompt)
        asked = command.sampling
        sampler = Sampler(asked, self.encoder.device, self._manner.habits)
        return Answer(
            Row(command.id, prompt, sampler, self._branches),
            Prose(self.tokenizer.backend, asked.stop),
            min(asked.max_tokens or fits, fits),
            tell,
            flow=command.flow,
            deadline=None if command.deadline is None else began + command.deadline,
            alone=command.alone,
            likelihoods=Likelihoods(sampler, self.tokenizer.backend) if asked.logprobs is not None else None,
        )
