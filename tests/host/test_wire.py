"""Frames between the gateway and a host: whole however they arrive, and silence once the other end has gone."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.host import wire
from gateway.host.link import HEAD, LARGE, MAX_FRAME, READ, Link
from gateway.model import Generation, Manifest, Pooling

COMMANDS: list[wire.Command] = [
    wire.Embed(1, "d" * 64, ["a text", "\u5149", ""], wire.Options(True, False, "query: ", 8), alone=True),
    wire.Load(2, "d"),
    wire.Unload(3, "d"),
    wire.Cancel(4),
    wire.Keep(["a", "b"], ["a"]),
]
REPORTS: list[wire.Report] = [
    wire.Ready("cpu", 2**40),
    wire.Done(1, 2, 3, 4, 0.5, 0.25, 0.125),
    wire.Failed(2, "load_failed", "why", 1.5, {"file": "x", "list": [1]}),
    wire.Residency([wire.Resident("d", "loaded", 10, 1, True, 0.5)], 10, 100, 5, 1000),
    wire.Loaded("d", 10, 0.5),
    wire.Unloaded("d", 10, "evicted", 3.0),
    wire.LoadFailure("d", "load_failed", "why", 2.0),
    wire.Batch("d", 3, 10, 12, 0.01),
]


class Sink:
    """A transport that only remembers what was written."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.writes = 0
        self.closing = False

    def set_write_buffer_limits(self, high: int) -> None:
        self.high = high

    def writelines(self, parts: list[bytes]) -> None:
        self.written += b"".join(parts)
        self.writes += 1

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True


def framed(*frames: tuple[Any, Any]) -> bytes:
    """The bytes that a link sends for these messages and payloads."""

    async def send() -> bytes:
        sink, link = Sink(), Link(wire.reports)
        link.connection_made(sink)  # type: ignore[arg-type]  # all of a transport that a link uses
        for message, payload in frames:
            link.send(message, payload)
        link.flush()
        return bytes(sink.written)

    return asyncio.run(send())


def feed(link: Link[Any], data: bytes) -> None:
    """What a loop does with bytes that have come: as many at a time as there is room for."""
    while data:
        room = link.get_buffer(len(data))
        taken = min(len(room), len(data))
        room[:taken] = data[:taken]
        link.buffer_updated(taken)
        data = data[taken:]


def received(data: bytes, sizes: Callable[[int], int], decoder: Any = wire.reports) -> list[tuple[Any, wire.Payload]]:
    """What a link makes of `data` when it comes in pieces; `sizes` says how long the piece at an offset is."""
    found: list[tuple[Any, wire.Payload]] = []
    link: Link[Any] = Link(decoder)
    link.on_frame = lambda message, payload: found.append((message, payload))
    start = 0
    while start < len(data):
        end = start + sizes(start)
        feed(link, data[start:end])
        start = end
    return found


@pytest.mark.parametrize(("decoder", "messages"), [(wire.commands, COMMANDS), (wire.reports, REPORTS)])
def test_every_message_arrives_as_it_was_sent_in_one_read(decoder: Any, messages: list[Any]) -> None:
    data = framed(*((message, b"") for message in messages))
    assert received(data, lambda _: len(data), decoder) == [(message, b"") for message in messages]


def test_an_offer_carries_the_whole_generation() -> None:
    manifest = Manifest(
        kind="encoder", library="transformers", model_type="bert", architecture="BertModel", dim=8, max_tokens=16,
        vocab_size=10, transformer_path="", tokenizer_path="", stages=(Pooling(("mean",)),), weights=("w",),
        files=("config.json", "w"), parameters=1, stored_bytes=4, stored_dtype="F32", prompts={"query": "q: "},
    )  # fmt: skip
    offer = wire.Offer(Generation("d" * 64, "/state/generations/d/files", manifest))
    data = framed((offer, b""))
    assert received(data, lambda _: len(data), wire.commands) == [(offer, b"")]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 8, 9, 64])
def test_frames_that_are_split_anywhere_arrive_whole(step: int) -> None:
    frames = [(report, bytes(range(number * 3))) for number, report in enumerate(REPORTS)]
    assert received(framed(*frames), lambda _: step) == frames


def test_two_frames_that_are_split_at_any_byte_arrive_whole() -> None:
    frames = [(REPORTS[1], b"abc"), (REPORTS[0], b"")]
    data = framed(*frames)
    for split in range(1, len(data)):
        assert received(data, lambda start, split=split: split if start == 0 else len(data)) == frames  # type: ignore[misc]  # a default binds the loop's value


def test_half_a_frame_is_no_frame() -> None:
    data = framed((REPORTS[0], b"abc"))
    assert received(data[:-1], lambda _: len(data)) == []


def test_the_payload_is_raw_bytes_whatever_shape_the_array_had() -> None:
    vectors = np.arange(12, dtype="<f4").reshape(3, 4)
    for payload in (vectors.tobytes(), vectors.data.cast("B"), vectors.data):
        data = framed((REPORTS[1], payload), (REPORTS[0], b""))
        assert received(data, lambda _: 1000) == [
            (REPORTS[1], vectors.tobytes()),
            (REPORTS[0], b""),
        ]


@pytest.mark.parametrize("size", [1000, LARGE - 1, LARGE, 2 * READ])
def test_a_payload_has_memory_of_its_own_that_later_reads_do_not_change(size: int) -> None:
    found: list[wire.Payload] = []
    link = Link(wire.reports)
    link.on_frame = lambda message, payload: found.append(payload)
    for number in range(10):
        feed(link, framed((REPORTS[1], bytes([number]) * size)))
    assert found == [bytes([number]) * size for number in range(10)]


@pytest.mark.parametrize("header", [b"\xc1", b"\x80", msgspec.msgpack.encode({"type": "Surprise"}), b"\xff" * 20])
def test_what_is_no_message_is_an_error_and_never_a_frame(header: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        received(HEAD.pack(len(header), 0) + header, lambda _: 1000)


def test_a_frame_that_claims_to_be_larger_than_any_is_refused_before_it_is_read() -> None:
    with pytest.raises(ValueError, match="a frame of"):
        received(HEAD.pack(1, MAX_FRAME), lambda _: 1000)


async def test_sending_before_and_after_the_connection_does_nothing() -> None:
    sink, link = Sink(), Link(wire.reports)
    link.send(REPORTS[0])
    link.close()
    link.connection_made(sink)  # type: ignore[arg-type]  # as above
    link.close()
    link.send(REPORTS[0])
    link.connection_lost(None)
    link.send(REPORTS[0])
    await asyncio.sleep(0)
    assert sink.closing
    assert sink.written == b""


async def test_what_is_sent_in_one_turn_of_the_loop_leaves_in_one_write() -> None:
    sink, link = Sink(), Link(wire.reports)
    link.connection_made(sink)  # type: ignore[arg-type]  # as above
    for report in REPORTS:
        link.send(report, b"payload")
    assert sink.writes == 0
    await asyncio.sleep(0)
    assert sink.writes == 1
    await asyncio.sleep(0)
    assert sink.writes == 1
    assert received(bytes(sink.written), lambda _: READ) == [(report, b"payload") for report in REPORTS]


async def test_what_was_sent_before_the_connection_was_lost_is_dropped() -> None:
    sink, link = Sink(), Link(wire.reports)
    link.connection_made(sink)  # type: ignore[arg-type]  # as above
    link.send(REPORTS[0])
    link.connection_lost(None)
    await asyncio.sleep(0)
    assert sink.writes == 0


@pytest.mark.parametrize("characters", [READ // 2, READ, 5 * READ])
def test_a_header_that_is_larger_than_a_read_arrives_whole_and_its_memory_is_given_back(characters: int) -> None:
    large = wire.Embed(1, "d", ["x" * characters, "\u5149"], wire.Options())
    frames = [(COMMANDS[1], b""), (large, b""), (COMMANDS[2], b"abc")]
    data = framed(*frames)
    for step in (1 << 10, READ - 1, READ, len(data)):
        assert received(data, lambda _, step=step: step, wire.commands) == frames  # type: ignore[misc]  # a default binds the loop's value
    link: Link[Any] = Link(wire.commands)
    feed(link, data)
    assert len(link.get_buffer(-1)) == READ


@given(
    st.lists(st.tuples(st.sampled_from(REPORTS), st.sampled_from([0, 1, 999, LARGE - 1, LARGE, LARGE + 1, 2 * READ]))),
    st.lists(st.integers(1, 2 * READ), min_size=1),
)
@settings(deadline=None, max_examples=50)
def test_frames_of_any_size_arrive_whole_however_they_are_cut(sent: list[tuple[Any, int]], cuts: list[int]) -> None:
    frames = [(report, bytes([number % 256]) * size) for number, (report, size) in enumerate(sent)]
    pieces = iter(itertools.cycle(cuts))
    assert received(framed(*frames), lambda _: next(pieces)) == frames


class End:
    """One end of a real socket pair, with what it heard."""

    def __init__(self, decoder: Any) -> None:
        self.heard: asyncio.Queue[tuple[Any, wire.Payload]] = asyncio.Queue()
        self.lost = asyncio.Event()
        self.losses = 0
        self.link: Link[Any] = Link(decoder, self._lost)
        self.link.on_frame = lambda message, payload: self.heard.put_nowait((message, payload))

    def _lost(self) -> None:
        self.losses += 1
        self.lost.set()


async def connected() -> AsyncIterator[tuple[End, End]]:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: None)  # a protocol that raises is what some tests are about
    ends = End(wire.reports), End(wire.commands)
    for end, connection in zip(ends, socket.socketpair(), strict=True):
        connection.setblocking(False)
        await loop.create_connection(lambda end=end: end.link, sock=connection)  # type: ignore[misc]  # as above
    try:
        yield ends
    finally:
        for end in ends:
            end.link.close()
            await end.lost.wait()


def on_each_loop(scenario: Callable[[End, End], Any]) -> None:
    """On asyncio's loop, and on the one that gateway and hosts run on."""

    async def run() -> None:
        async with asyncio.timeout(300):
            async for gateway, host in connected():
                await scenario(gateway, host)

    for factory in (asyncio.new_event_loop, uvloop.new_event_loop):
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(run())


def test_a_big_payload_crosses_a_real_socket_unchanged_with_others_around_it() -> None:
    vectors = np.random.default_rng(0).random((4096, 2048), dtype="float32")  # 32 MiB: many reads

    async def scenario(gateway: End, host: End) -> None:
        host.link.send(REPORTS[0])
        host.link.send(wire.Done(1, *vectors.shape), vectors.data.cast("B"))
        host.link.send(REPORTS[2])
        assert await gateway.heard.get() == (REPORTS[0], b"")
        message, payload = await gateway.heard.get()
        assert (message.rows, message.dim) == vectors.shape
        assert np.array_equal(np.frombuffer(payload, "<f4").reshape(vectors.shape), vectors)
        assert await gateway.heard.get() == (REPORTS[2], b"")
        gateway.link.send(COMMANDS[0])
        assert await host.heard.get() == (COMMANDS[0], b"")

    on_each_loop(scenario)


def test_when_one_end_closes_the_other_is_told_once_and_sends_into_nothing() -> None:
    async def scenario(gateway: End, host: End) -> None:
        host.link.close()
        await gateway.lost.wait()
        gateway.link.send(COMMANDS[0])
        gateway.link.close()
        assert gateway.losses == 1
        assert host.heard.empty()

    on_each_loop(scenario)


def test_what_was_sent_before_closing_still_arrives() -> None:
    async def scenario(gateway: End, host: End) -> None:
        for report in REPORTS:
            host.link.send(report, b"x" * 100_000)
        host.link.close()
        await gateway.lost.wait()
        assert [gateway.heard.get_nowait() for _ in REPORTS] == [(report, b"x" * 100_000) for report in REPORTS]

    on_each_loop(scenario)


def test_an_end_that_talks_nonsense_is_cut_off() -> None:
    async def scenario(gateway: End, host: End) -> None:
        host.link.send(COMMANDS[0])  # type: ignore[arg-type]  # a command is nonsense to who expects reports
        await gateway.lost.wait()
        await host.lost.wait()
        assert gateway.heard.empty()

    on_each_loop(scenario)
