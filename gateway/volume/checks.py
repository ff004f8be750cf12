"""The volume's evidence, with SHA256SUMS compared beside the looks: tens of gigabytes take minutes to hash, and hold up
no other directory meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.lane import Answer, Lane
from gateway.model import ModelId
from gateway.volume.directory import Directory
from gateway.volume.settle import Evidence
from gateway.volume.sums import Checked
from gateway.volume.writers import Writer

LARGE: Final = 1024**3  # bytes; what has more is hashed one after the other, and lets the others pass


class Checks:
    """`on_answer` is called, on any thread, when there is an answer for the next look. For the one lane that looks."""

    def __init__(self, evidence: Evidence, on_answer: Callable[[], None]) -> None:
        self._evidence = evidence
        self._on_answer = on_answer
        self._small, self._large = Lane("sums"), Lane("large sums")
        self._begun: dict[ModelId, tuple[str, Answer[Checked | None]]] = {}  # by fingerprint

    def begin(self) -> None:
        self._evidence.begin()

    def hole(self, directory: Directory) -> str | None:
        return self._evidence.hole(directory)

    def writer(self, directory: Directory, changed: float) -> Writer | None:
        return self._evidence.writer(directory, changed)

    def checked(self, directory: Directory) -> Checked | None:
        """None until it is known. One comparison a model at a time: that of an earlier state ends before the next."""
        fingerprint, found = self._begun.get(directory.model, ("", None))
        if found is not None and not found.done():
            return None
        if found is None or fingerprint != directory.fingerprint:
            lane = self._large if directory.bytes > LARGE else self._small
            found = lane.submit(self._evidence.checked, directory)
            self._begun[directory.model] = directory.fingerprint, found
            found.add_done_callback(lambda _: self._on_answer())
            return None
        del self._begun[directory.model]
        try:
            return found.result()
        except OSError:  # it proves nothing, and the other rules hold
            return Checked()

    def close(self) -> None:
        self._small.close(wait=False)
        self._large.close(wait=False)
