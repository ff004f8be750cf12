"""How likely the tokens of an answer were, told with the text that they make, and spelled as bytes: a character may be
made of several tokens."""

from __future__ import annotations

import re
from typing import Any, Final

from gateway.host.sampling import Sampler
from gateway.host.wire import Likely, Logprob

BYTE: Final = re.compile(r"<0x([0-9A-F]{2})>")  # of a SentencePiece vocabulary with byte fallback
SPACE: Final = "\u2581"


def _byte_letters() -> dict[str, int]:
    """The letters that byte-level BPE writes bytes with (GPT-2's `bytes_to_unicode`): printable ones are themselves,
    and the others follow behind 255."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("\xa1"), ord("\xac") + 1), *range(ord("\xae"), ord("\xff") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}


LETTERS: Final = _byte_letters()


class Spelling:
    """Tokens of one vocabulary to bytes."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._byte_level = "ByteLevel" in repr(backend.decoder)
        self._added = {token: added.content for token, added in backend.get_added_tokens_decoder().items()}

    def spell(self, token: int) -> bytes:
        if token in self._added:
            return str(self._added[token]).encode()
        piece = str(self._backend.id_to_token(token) or "")
        if self._byte_level and all(letter in LETTERS for letter in piece):
            return bytes(LETTERS[letter] for letter in piece)
        if found := BYTE.fullmatch(piece):
            return bytes([int(found[1], 16)])
        return piece.replace(SPACE, " ").encode()

    def likely(self, token: int, logprob: float) -> Likely:
        spelled = self.spell(token)
        return Likely(spelled.decode(errors="replace"), list(spelled), logprob)


class Likelihoods:
    """Of one answer. Each token is told no sooner than the text that it ends in; those of a stop sequence are not."""

    def __init__(self, sampler: Sampler, backend: Any) -> None:
        self._sampler = sampler
        self._spelling = Spelling(backend)
        self._waiting: list[tuple[Logprob, int, int]] = []
        self._told = 0  # characters

    def add(self, token: int, begin: int, end: int) -> None:
        """It was chosen just now, and is these characters of the answer; a character of several tokens is its last
        one's."""
        chosen, top = self._sampler.likely[-1]
        found = Logprob(self._spelling.likely(token, chosen), [self._spelling.likely(*each) for each in top])
        self._waiting.append((found, begin, end))

    def told(self, text: str, *, finished: bool, stopped: bool) -> list[Logprob]:
        """Those that belong to this text, which comes next."""
        self._told += len(text)
        if finished:
            found = [each for each, begin, _ in self._waiting if not stopped or begin < self._told]
            self._waiting.clear()
            return found
        found = [each for each, _, end in self._waiting if end <= self._told]
        self._waiting = self._waiting[len(found) :]
        return found
