"""The process that reads and cuts documents: it may be killed at any time, and takes nothing with it.

    python -m gateway.ask.parse      reads orders, writes answers; this is how a gateway reads documents

Every message is its length in four bytes and MessagePack behind it. A library that crashes, hangs or eats memory does
so here.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from typing import BinaryIO, Final

import msgspec

from gateway.ask.chunks import Chunking, Splitter, headings
from gateway.ask.formats import PageSpan, read
from gateway.errors import DocumentTooLarge, DocumentUnreadable, Internal, leaves

LENGTH: Final = 4
MOST_MEMORY: Final = 2 * 1024**3  # bytes of address space, libraries included
SPLITTERS: Final = 4  # tokenizers that are kept
PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


class Read(msgspec.Struct, frozen=True, tag=True):
    """The text of a file. `media` is what its sender says it is, perhaps nothing."""

    name: str
    content: bytes
    media: str
    most_characters: int


class Cut(msgspec.Struct, frozen=True, tag=True):
    """Where the chunks of a text lie."""

    text: str
    markdown: bool
    chunking: Chunking


class Text(msgspec.Struct, frozen=True, tag=True):
    text: str
    pages: list[PageSpan]


class Pieces(msgspec.Struct, frozen=True, tag=True):
    """For each chunk where it lies, and the heading that it stands under."""

    spans: list[tuple[int, int]]
    headings: list[str]


class Refused(msgspec.Struct, frozen=True, tag=True):
    """`code` is an error's."""

    code: str
    message: str

    def error(self) -> DocumentUnreadable | DocumentTooLarge | Internal:
        kind = leaves().get(self.code, Internal)
        return kind(self.message)  # type: ignore[return-value]  # of the three that are sent


Order = Read | Cut
Answer = Text | Pieces | Refused

_orders: Final[msgspec.msgpack.Decoder[Order]] = msgspec.msgpack.Decoder(Order)
_splitters: dict[Chunking, Splitter] = {}


def answer(order: Order) -> Answer:
    """Never raises: what a document can do to a library is not this process's end."""
    try:
        if isinstance(order, Read):
            return Text(*read(order.name, order.content, order.media, most_characters=order.most_characters))
        return _cut(order)
    except (DocumentUnreadable, DocumentTooLarge) as error:
        return Refused(error.code, error.message)
    except MemoryError:
        return Refused(DocumentUnreadable.code, "reading it takes more memory than a document may")
    except RecursionError:
        return Refused(DocumentUnreadable.code, "it is nested too deep")
    except Exception as error:  # a library's own, of which nothing better can be said
        return Refused(DocumentUnreadable.code, f"it cannot be read: {type(error).__name__}: {error}"[:500])


def _cut(order: Cut) -> Pieces:
    splitter = _splitters.pop(order.chunking, None) or Splitter(order.chunking)
    _splitters[order.chunking] = splitter  # the one used last
    while len(_splitters) > SPLITTERS:
        del _splitters[next(iter(_splitters))]
    spans = splitter.spans(order.text, markdown=order.markdown)
    return Pieces(spans, headings(order.text, spans) if order.markdown else [""] * len(spans))


def main() -> None:
    _confine(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    orders, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    while (raw := _message(orders)) is not None:
        encoded = msgspec.msgpack.encode(answer(_orders.decode(raw)))
        answers.write(len(encoded).to_bytes(LENGTH, "big") + encoded)
        answers.flush()


def _message(stream: BinaryIO) -> bytes | None:
    head = stream.read(LENGTH)
    return stream.read(int.from_bytes(head, "big")) if len(head) == LENGTH else None


def _confine(parent: int) -> None:
    """Ends with its gateway, leaves no core file, and takes only so much memory."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent and os.getppid() != parent:
        sys.exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the gateway ends it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))


if __name__ == "__main__":
    main()
