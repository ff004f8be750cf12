"""A file as numbered lines of text, in bounded memory: gzip or not, with or without a byte order mark, CRLF or LF.

A line that cannot be read is a fault in its place; the lines behind it are read all the same.
"""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, cast

from trainer.console import Advance
from trainer.data.fault import Broken

LONGEST: Final = 8 << 20  # bytes; a row with hundreds of negatives has less
GZIP: Final = b"\x1f\x8b"
BOM: Final = "\ufeff"
WIDE: Final = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")  # marks of UTF-16 and UTF-32
EVERY: Final = 1000  # lines between two reports of progress

Line = tuple[int, "str | Broken", bool]  # number, text without its end, whether the file's last and unended


@contextmanager
def opened(path: Path, progress: Advance | None = None) -> Iterator[Iterator[Line]]:
    """The lines of a file. Raises Broken where the file as a whole is at fault, also while the lines are read."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a directory" if stat.S_ISDIR(mode) else "no regular file"
            raise Broken("not_a_file", f"it is {kind}; name the files of examples")
        with path.open("rb") as raw:
            yield _lines(path, raw, progress or _nobody)
    except FileNotFoundError as error:
        raise Broken("missing_file", "there is no such file") from error
    except OSError as error:
        raise Broken("unreadable_file", error.strerror or str(error)) from error


def _nobody(done: int, total: int) -> None:
    pass


def _lines(path: Path, raw: IO[bytes], progress: Advance) -> Iterator[Line]:
    total = os.fstat(raw.fileno()).st_size
    stream = _unpacked(path, raw)
    for number, line in enumerate(_cut(stream), 1):
        if number % EVERY == 0:
            progress(raw.tell(), total)
        yield number, _decoded(line, number), not isinstance(line, Broken) and not line.endswith(b"\n")
    progress(total, total)


def _unpacked(path: Path, raw: IO[bytes]) -> IO[bytes]:
    head = raw.read(4)
    raw.seek(0)
    if head[:2] == GZIP:
        return cast(IO[bytes], gzip.GzipFile(fileobj=raw))
    if path.suffix == ".gz":
        raise Broken("broken_gzip", "it does not begin as gzip does")
    if not head:
        raise Broken("empty_file", "it is empty")
    if head.startswith(WIDE):
        raise Broken("utf16", "it is UTF-16 or UTF-32: convert it, as with `iconv -t UTF-8`")
    return raw


def _cut(stream: IO[bytes]) -> Iterator[bytes | Broken]:
    """Lines with their ends. One that is too long is passed over, and never in memory as a whole."""
    number = 0
    try:
        while line := stream.readline(LONGEST):
            number += 1
            if len(line) < LONGEST or line.endswith(b"\n"):
                yield line
                continue
            while line and not line.endswith(b"\n"):
                line = stream.readline(LONGEST)
            yield Broken("line_too_long", f"a line of more than {LONGEST >> 20} MiB", number)
    except EOFError as error:
        raise Broken("cut_gzip", "its compressed bytes end too early: copy it again", number + 1) from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise Broken("broken_gzip", f"its compressed bytes are damaged: {error}", number + 1) from error


def _decoded(line: bytes | Broken, number: int) -> str | Broken:
    if isinstance(line, Broken):
        return line
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        reason = f"byte {error.start + 1} of the line, 0x{line[error.start]:02x}, is no UTF-8"
        return Broken("not_utf8", reason, number)
    text = text.removesuffix("\n").removesuffix("\r")
    if number == 1:
        text = text.removeprefix(BOM)
    if BOM in text:
        return Broken("stray_bom", f"a byte order mark at character {text.index(BOM) + 1}", number)
    if "\0" in text:
        return Broken("nul", f"a NUL at character {text.index(chr(0)) + 1}", number)
    return text
