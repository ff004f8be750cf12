"""Tokens to text, as they come: whole characters only, and nothing that a stop sequence may still take away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers.decoders import DecodeStream


class Prose:
    """The text of one answer. `stopped` once a stop sequence has come up; what stands before it is all there is.
    `length` in characters that the tokens make so far, told or held back."""

    def __init__(self, backend: Any, stop: Sequence[str] = ()) -> None:
        self._backend = backend
        self._stream = DecodeStream(skip_special_tokens=True)
        self._stop = [each for each in stop if each]
        self._held = ""
        self.stopped = False
        self.length = 0

    def add(self, token: int) -> str:
        """What can be told now, often nothing."""
        more = self._stream.step(self._backend, token) or ""
        self.length += len(more)
        self._held += more
        return self._told()

    def end(self) -> str:
        """The rest, when no more tokens come. Bytes that make no whole character are not told."""
        rest, self._held = self._held, ""
        return rest

    def _told(self) -> str:
        begins = [place for each in self._stop if (place := self._held.find(each)) >= 0]
        if begins:
            told, self._held, self.stopped = self._held[: min(begins)], "", True
            return told
        keep = max((_overlap(self._held, each) for each in self._stop), default=0)
        told, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return told


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` with which `stop` may begin."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-size:])), 0)
