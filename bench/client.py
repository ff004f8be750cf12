"""Our own load generator, in a process of its own: it waits for what is in flight, and reads what refusals say.

Closed (`--connections`): each connection sends its next request when the last is answered. Open (`--rate`): requests
begin at their time whether or not others were answered, so that a slow server is not spared. It speaks just enough
HTTP/1.1 to cost some ten microseconds a request.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Final, cast
from urllib.parse import urlsplit

import uvloop

PATIENCE: Final = 60.0  # seconds that one request may take
HEAD_END: Final = b"\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"


class Answer:
    """One request. Times in seconds since the run began; `retry_after` as the body says it, `header` as the header."""

    __slots__ = ("began", "ended", "header", "retry_after", "status")

    def __init__(self, began: float) -> None:
        self.began = began
        self.ended = 0.0
        self.status = 0  # no answer at all
        self.retry_after: float | None = None
        self.header: float | None = None

    def row(self) -> list[float | None]:
        return [self.began, self.ended, self.status, self.retry_after, self.header]


class Connection(asyncio.Protocol):
    """One connection, with one request on it at a time."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._waiting: asyncio.Future[bytes] | None = None
        self.closed = False

    async def exchange(self, request: bytes) -> bytes:
        """The whole answer. Raises ConnectionError when the server hangs up, TimeoutError when it does not answer."""
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        async with asyncio.timeout(PATIENCE):
            return await self._waiting

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._waiting is not None and not self._waiting.done() and whole(self._buffer):
            self._waiting.set_result(bytes(self._buffer))
            self._buffer.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionResetError("the server hung up"))

    def close(self) -> None:
        self._transport.close()


def whole(buffer: bytearray) -> bool:
    """Whether `buffer` is a head with all of its body, be it counted or in chunks."""
    head = buffer.find(HEAD_END)
    if head < 0:
        return False
    names = buffer[:head].lower()
    _, found, length = names.partition(b"\r\ncontent-length:")
    if found:
        return len(buffer) >= head + len(HEAD_END) + int(length.partition(b"\r\n")[0])
    return b"\r\ntransfer-encoding: chunked" in names and buffer.endswith(LAST_CHUNK)


def read(answer: Answer, raw: bytes) -> None:
    """The status, and when to come back, into `answer`."""
    answer.status = int(raw[9:12])
    if answer.status == 200:
        return
    head, _, body = raw.partition(HEAD_END)
    header = head.lower().partition(b"\r\nretry-after:")[2].partition(b"\r\n")[0].strip()
    answer.header = float(header) if header else None
    try:
        answer.retry_after = float(json.loads(body)["error"]["retry_after"])
    except (ValueError, KeyError, TypeError):
        answer.retry_after = None


class Client:
    """Sends the bodies in turn and keeps every answer."""

    def __init__(self, url: str, bodies: list[bytes], accept: str = "") -> None:
        split = urlsplit(url)
        assert split.hostname is not None
        self._address = split.hostname, split.port or 80
        head = f"POST {split.path or '/'} HTTP/1.1\r\nHost: {split.netloc}\r\nContent-Type: application/json\r\n"
        head += f"Accept: {accept}\r\n" if accept else ""
        self._requests = [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]
        self._idle: list[Connection] = []
        self.answers: list[Answer] = []

    async def closed(self, connections: int, seconds: float) -> None:
        """Each connection goes on until `seconds` have passed; returns when the last is answered."""
        self._idle = [await self._connect() for _ in range(connections)]
        self._began = time.perf_counter()
        await asyncio.gather(*(self._loop(seconds) for _ in range(connections)))

    async def open(self, rate: float, seconds: float) -> None:
        """`rate` requests a second, evenly; returns when the last is answered."""
        self._began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(int(rate * seconds)):
                if (wait := number / rate - self._now()) > 0:
                    await asyncio.sleep(wait)
                group.create_task(self._send())

    def close(self) -> None:
        for connection in self._idle:
            connection.close()

    def _now(self) -> float:
        return time.perf_counter() - self._began

    async def _connect(self) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(Connection, *self._address)
        return connection

    async def _loop(self, seconds: float) -> None:
        while True:  # one in any case, on a machine that stood still in between
            await self._send()
            if self._now() >= seconds:
                return

    async def _send(self) -> None:
        answer = Answer(self._now())
        self.answers.append(answer)
        request = self._requests[len(self.answers) % len(self._requests)]
        try:
            connection = self._idle.pop() if self._idle else await self._connect()
            if connection.closed:
                connection = await self._connect()
            read(answer, await connection.exchange(request))
            self._idle.append(connection)
        except (OSError, TimeoutError):
            pass  # its status stays 0
        answer.ended = self._now()


def summary(answers: list[Answer]) -> dict[str, float]:
    """As wrk's script says it. `requests` are all that were answered, `seconds` until the last one was."""
    good = sorted(answer.ended - answer.began for answer in answers if answer.status == 200)
    broken = sum(answer.status == 0 for answer in answers)
    return {
        "requests": len(answers) - broken,
        "seconds": max((answer.ended for answer in answers), default=0.0),
        "p50": percentile(good, 0.5),
        "p95": percentile(good, 0.95),
        "p99": percentile(good, 0.99),
        "refused": len(answers) - broken - len(good),
        "broken": broken,
    }


def percentile(ordered: list[float], share: float) -> float:
    """Of values in order; 0 where there is none."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


async def run(options: argparse.Namespace) -> list[Answer]:
    client = Client(options.url, options.bodies.read_bytes().splitlines(), options.accept)
    if options.rate:
        await client.open(options.rate, options.seconds)
    else:
        await client.closed(options.connections, options.seconds)
    client.close()
    return client.answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--bodies", type=Path, required=True, help="a file with one request body a line")
    parser.add_argument("--accept", default="")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second; 0 is a closed loop")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--answers", type=Path, help="write each answer here, a line of JSON")
    options = parser.parse_args()
    used = time.process_time()
    answers = uvloop.run(run(options))
    used = time.process_time() - used
    if options.answers:
        options.answers.write_text("\n".join(json.dumps(answer.row()) for answer in answers), encoding="utf-8")
    print("JSON " + json.dumps(summary(answers) | {"cpu": used}))


if __name__ == "__main__":
    main()
