"""What a run writes down while it goes: how far it is, a line for each log, and the same in words.

`training_progress.json` tells the truth at every moment: running, completed, interrupted or failed. Of several
processes the first alone writes.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

from trainer.console import say
from trainer.errors import Interrupted, TrainerError
from trainer.run import RunDirectory, append_json, now, write_json

LINE: Final = "%(asctime)s - %(levelname)s - %(message)s"
EVERY_SECONDS: Final = 2.0  # between two writes of how far it is; what it is doing is written at once
FLAGS: Final[Mapping[str, dict[str, Any]]] = {
    "queued": {"training_completed": False},
    "running": {"training_completed": False},
    "completed": {"training_completed": True},
    "interrupted": {"training_completed": False, "interrupted": True},
    "failed": {"training_completed": False},
}


def plain(status: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's progress says."""
    return {"status": status, **FLAGS[status], **facts}


class Journal:
    """Writes nothing before `begin` or `queue`. `told` is what the progress says at a status, of the facts."""

    def __init__(
        self, run: RunDirectory, writes: bool = True, told: Callable[[str, Mapping[str, Any]], dict[str, Any]] = plain
    ) -> None:
        self._run, self.writes, self._told = run, writes, told
        self._facts: dict[str, Any] = {}
        self._log: logging.Logger | None = None
        self._written = self._since = time.monotonic()

    def queue(self, **facts: Any) -> None:
        """The run is wanted, and has not begun; `facts` stay in its progress to the end."""
        self._open()
        self._facts = dict(facts)
        self._write("queued")

    def begin(self, **facts: Any) -> None:
        """The run is about to work; `facts` stay in its progress to the end."""
        self._open()
        self._since = time.monotonic()
        self._facts = {"started_at": now(), **self._facts, **facts}
        self._write("running")

    def _open(self) -> None:
        if self.writes and self._log is None:
            self._log = _logger(self._run)

    @contextmanager
    def ending(self) -> Iterator[None]:
        """However it ends, the progress says how; what the machine lacks is told in a line."""
        try:
            yield
        except (Interrupted, KeyboardInterrupt):
            self.end("interrupted")
            raise
        except BaseException as error:
            told = _of_the_machine(error)
            with suppress(OSError):  # a full disk: the error itself says so
                self.note(f"{type(error).__name__}: {error}", logging.ERROR)
                self.end("failed", error=str(told or error) or type(error).__name__)
            if told:
                raise told from error
            raise

    def learn(self, **facts: Any) -> None:
        """What became known on the way."""
        self._facts |= facts
        self._write("running")

    def step(self, **place: Any) -> None:
        """How far it is: written now and then."""
        self._facts |= place
        if time.monotonic() - self._written >= EVERY_SECONDS:
            self._write("running")

    def measure(self, **values: Any) -> None:
        """One line of metrics."""
        if self.writes:
            append_json(self._run.metrics, {"timestamp": now(), **values})

    def forget_after(self, step: int) -> None:
        """A resumed run does these steps again: what the killed one wrote of them is taken back."""
        if self.writes and self._run.metrics.exists():
            kept = [line for line in self._run.metrics.read_bytes().splitlines() if _step(line) <= step]
            draft = self._run.metrics.with_name(f".{self._run.metrics.name}")
            draft.write_bytes(b"".join(line + b"\n" for line in kept))
            draft.replace(self._run.metrics)

    def tell(self, line: str, level: int = logging.INFO) -> None:
        """One line for whoever watches, and for the log."""
        if self.writes:
            say(line)
            self.note(line, level)

    def note(self, line: str, level: int = logging.INFO) -> None:
        """One line for the log alone."""
        if self._log:
            self._log.log(level, line)

    def end(self, status: str, **facts: Any) -> None:
        self._facts |= facts
        self._facts["duration_seconds"] = round(time.monotonic() - self._since, 3)
        if status == "completed":
            self._facts["completed_at"] = now()
        self._write(status)
        if self._log:
            for handler in list(self._log.handlers):
                self._log.removeHandler(handler)
                handler.close()
            self._log = None

    def _write(self, status: str) -> None:
        self._written = time.monotonic()
        if self.writes:
            write_json(self._run.progress, {**self._told(status, self._facts), "updated_at": now()})


def _logger(run: RunDirectory) -> logging.Logger:
    run.log.parent.mkdir(parents=True, exist_ok=True)
    logger = logging.Logger("trainer")  # of this run alone: two runs of one program do not write into each other's
    handler = logging.FileHandler(run.log, encoding="utf-8")
    handler.setFormatter(logging.Formatter(LINE))
    logger.addHandler(handler)
    return logger


def _step(line: bytes) -> float:
    """The step of a line of metrics; beyond all steps for one that was cut."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _of_the_machine(error: BaseException) -> TrainerError | None:
    from torch import OutOfMemoryError  # noqa: PLC0415  heavy

    if isinstance(error, OSError):
        return TrainerError(f"{error.filename or 'the disk'}: {error.strerror or error}; the same command goes on")
    if isinstance(error, OutOfMemoryError | MemoryError):
        return TrainerError(
            "out of memory: a smaller --batch-size; for pairs also the cached loss with a --mini-batch-size"
        )
    return None
