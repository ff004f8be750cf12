"""Events in, log lines out: one line for each event, and nothing else writes any."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import msgspec
import orjson

from gateway import events
from gateway.settings import Settings

PROBES: Final = frozenset({"/healthz", "/readyz", "/metrics"})
LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
EMPTY: Final = (None, (), "")  # what a line leaves out; 0 and false say something

Writer = Callable[[str, str, dict[str, Any]], None]  # takes level, name and fields


class Log:
    """One line for every event: JSON for machines, readable on a terminal. `lost` counts those that could not be
    written: a disk that is full, a reader that has gone. Nobody's request fails for that."""

    def __init__(self, settings: Settings) -> None:
        self.lost = 0
        console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
        self._lowest = LEVELS[settings.log_level]
        self._write = _console(sys.stderr) if console else _lines(sys.stderr)

    def __call__(self, event: events.Event) -> None:
        level = _level(event)
        if LEVELS[level] >= self._lowest:  # before anything is made of it: most device calls are nobody's news
            fields = {name: value for name, value in msgspec.to_builtins(event).items() if value not in EMPTY}
            try:
                self._write(level, event.name, fields)
            except OSError:
                self.lost += 1

    def failed(self, error: Exception) -> None:
        """What another subscriber raised: a bug, told in full."""
        try:
            self(events.Notice(code="subscriber_failed", message="".join(traceback.format_exception(error))))
        except Exception:  # the log itself is what is broken
            self.lost += 1


def _lines(stream: TextIO) -> Writer:
    """JSON, written at once: a process that is killed has told what it did."""

    def write(level: str, name: str, fields: dict[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
        stream.write(_json(fields | {"event": name, "level": level, "timestamp": now}) + "\n")
        stream.flush()

    return write


def _json(record: dict[str, Any]) -> str:
    """On one line, and in ASCII, whatever a client or a host has written."""
    try:
        line = orjson.dumps(record)
    except TypeError:  # half a surrogate pair, or a number that only Python has
        return json.dumps(record)
    return line.decode("ascii") if line.isascii() else json.dumps(record)


def _console(stream: TextIO) -> Writer:
    import structlog  # noqa: PLC0415  # megabytes that only a terminal needs

    logger = structlog.wrap_logger(
        structlog.PrintLogger(stream),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer(),
        ],
        wrapper_class=structlog.BoundLogger,
    )
    return lambda level, name, fields: getattr(logger, level)(name, **fields)


def _level(event: events.Event) -> str:
    """A bug is an error; a probe that found all well is nobody's news."""
    if isinstance(event, events.RequestFinished):
        if event.status == 500:
            return "error"
        if event.route in PROBES and event.status == 200:
            return "debug"
    if isinstance(event, events.ModelSwapped | events.ModelRolledBack) and event.breaking:
        return "warning"
    return event.level
