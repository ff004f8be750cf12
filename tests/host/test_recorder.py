"""The page that outlives its writer: what a host was doing is known however it died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from gateway.host.recorder import LOADS, MAX_REQUESTS, TOKENS, Recorder

DIGEST = "0123456789abcdef" * 4
DYING = """
import os, signal, sys
from gateway.host.recorder import Recorder
recorder = Recorder(int(sys.argv[1]))
with recorder.load("b" * 64), recorder.load("c" * 64), recorder.device_call("a" * 64, [3, 1, 2]):
    with recorder.load("d" * 64), recorder.tokens("d" * 64, 8):
        pass
    with recorder.tokens("e" * 64, 9):
        os.kill(os.getpid(), int(sys.argv[2]))
"""


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    made = Recorder.create()
    yield made
    made.close()


def test_nothing_is_running_in_the_beginning(recorder: Recorder) -> None:
    assert recorder.running() is None
    assert recorder.loading() == []


def test_a_device_call_is_on_the_page_while_it_runs_and_no_longer(recorder: Recorder) -> None:
    before = time.monotonic()
    with recorder.device_call(DIGEST, [5, 6]):
        entry = recorder.running()
        assert entry is not None
        assert (entry.digest, entry.requests) == (DIGEST, (5, 6))
        assert before <= entry.began <= time.monotonic()
        assert recorder.loading() == []
    assert recorder.running() is None


def test_a_call_that_raises_is_off_the_page_too(recorder: Recorder) -> None:
    with pytest.raises(KeyError), recorder.device_call(DIGEST, [1]):
        raise KeyError
    with pytest.raises(KeyError), recorder.load(DIGEST):
        raise KeyError
    assert recorder.running() is None
    assert recorder.loading() == []


def test_a_later_call_shows_nothing_of_an_earlier_longer_one(recorder: Recorder) -> None:
    with recorder.device_call(DIGEST, range(1, 100)):
        pass
    with recorder.device_call("f", [7]):
        entry = recorder.running()
        assert entry is not None
        assert (entry.digest, entry.requests) == ("f", (7,))


def test_more_requests_than_the_page_has_room_for_are_cut_and_the_call_goes_on(recorder: Recorder) -> None:
    with recorder.device_call(DIGEST, range(MAX_REQUESTS + 50)):
        entry = recorder.running()
        assert entry is not None
        assert entry.requests == tuple(range(MAX_REQUESTS))


def test_loads_at_once_have_a_line_each_and_end_in_any_order(recorder: Recorder) -> None:
    loads = [recorder.load(str(number)) for number in LOADS]
    for load in loads:
        load.__enter__()
    with recorder.device_call(DIGEST, [1]):
        assert {entry.digest for entry in recorder.loading()} == {str(number) for number in LOADS}
        loads[1].__exit__(None, None, None)
        assert {entry.digest for entry in recorder.loading()} == {"1", "3", "4"}
        with recorder.load("again"):
            assert {entry.digest for entry in recorder.loading()} == {"1", "3", "4", "again"}
    for load in (loads[3], loads[0], loads[2]):
        load.__exit__(None, None, None)
    assert recorder.loading() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_what_a_process_was_doing_when_it_was_killed_is_known_to_the_one_that_shares_its_page(
    recorder: Recorder, number: signal.Signals
) -> None:
    command = [sys.executable, "-c", DYING, str(recorder.fileno()), str(int(number))]
    died = subprocess.run(command, pass_fds=[recorder.fileno()], check=False, capture_output=True)
    assert died.returncode == -number, died.stderr
    entry = recorder.running()
    assert entry is not None
    assert (entry.digest, entry.requests) == ("a" * 64, (3, 1, 2))
    assert 0 < entry.began <= time.monotonic()
    assert [load.digest for load in recorder.loading()] == ["b" * 64, "c" * 64]
    assert [(each.digest, each.requests) for each in recorder.tokenizing()] == [("e" * 64, (9,))]


def test_work_with_tokens_has_a_line_for_each_thread_and_leaves_those_of_the_device_call_alone(
    recorder: Recorder,
) -> None:
    with recorder.device_call(DIGEST, [5, 6]):
        at_once = [recorder.tokens(str(number), number) for number in range(len(TOKENS))]
        for each in at_once:
            each.__enter__()
        found = {(entry.digest, entry.requests) for entry in recorder.tokenizing()}
        assert found == {(str(number), (number,)) for number in range(len(TOKENS))}
        assert len(recorder.at_work()) == len(TOKENS) + 1
        assert [(entry.digest, entry.requests) for entry in recorder.at_work()[-1:]] == [(DIGEST, (5, 6))]
        for each in at_once:
            each.__exit__(None, None, None)
        with pytest.raises(KeyError), recorder.tokens("again", 1):
            raise KeyError
        assert recorder.tokenizing() == []


def test_a_cleared_page_is_as_new(recorder: Recorder) -> None:
    left = [recorder.load(DIGEST), recorder.device_call(DIGEST, [1])]  # referred to, or they would end by themselves
    for each in left:
        each.__enter__()
    assert recorder.running() is not None
    assert recorder.loading() != []
    recorder.clear()
    assert recorder.running() is None
    assert recorder.loading() == []


def test_a_closed_recorder_leaves_no_descriptor() -> None:
    made = Recorder.create()
    descriptor = made.fileno()
    assert not os.get_inheritable(descriptor)
    made.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_how_long_each_generation_has_been_at_work() -> None:
    clock = [5.0]
    recorder = Recorder.create(lambda: clock[0])
    assert recorder.since() == {}
    with recorder.load("a" * 64):
        clock[0] = 7.0
        with recorder.device_call("b" * 64, [1]):
            clock[0] = 8.0
            assert recorder.since() == {"a" * 64: 3.0, "b" * 64: 1.0}
    assert recorder.since() == {}
    recorder.close()
