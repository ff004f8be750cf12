"""A loaded language model: its generator, its tokenizer, its template, and the answers that it is giving."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence

from gateway.errors import InputTooLong
from gateway.host import wire
from gateway.host.causal import Manner
from gateway.host.chat import Template
from gateway.host.generator import Generator, Row
from gateway.host.prose import Prose
from gateway.host.sampling import Sampler
from gateway.host.talk import Answer, Talk
from gateway.host.tokenize import Tokenizer
from gateway.host.wire import Numerics
from gateway.model import Generation

Came = list[tuple[int, int]]


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
        self._template = template
        self._manner = manner
        self._room = room
        self.talk = Talk(generator, run, manner.endings, room, time.monotonic)

    @property
    def bytes(self) -> int:
        return self.encoder.bytes

    def read(self, text: str, turns: Sequence[wire.Turn]) -> list[int]:
        """What is continued, as tokens. Raises InvalidInput, and InputTooLong where no token more would fit."""
        if turns:
            (tokens,) = self.tokenizer.bodies([self._template.render(turns)])
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
        sampler = Sampler(command.sampling, self.encoder.device, self._manner.habits)
        return Answer(
            Row(command.id, prompt, sampler),
            Prose(self.tokenizer.backend, command.sampling.stop),
            min(command.sampling.max_tokens or fits, fits),
            tell,
            flow=command.flow,
            deadline=None if command.deadline is None else began + command.deadline,
            alone=command.alone,
        )
