"""The pulls of a gateway: one process for each model, whoever asks; and what a client is told meanwhile."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from gateway import events
from gateway.errors import GatewayError, HubModelNotFound, HubOffline, ModelPulling, PullInProgress
from gateway.model import ModelId, ModelRef
from gateway.settings import Settings
from gateway.volume.order import parse_repository
from gateway.volume.pulls import ARRIVING, LINE, MOST_WAITING, REMEMBERED, RETRY, Pull, Pulls, show

DEADLINE: Final = 300.0  # seconds; it only ends a test that hangs
MODEL: Final = ModelId("acme", "tiny")
BEGIN: Final = """
import os, sys
order = sys.stdin.read()
with open(sys.argv[1], "a") as log:
    log.write(f"{os.getpid()} {order}\\n")
def tell(line): print(line, flush=True)
"""
LOOKED: Final = 'tell(\'{"type": "looked", "commit": "c0ffee", "total": 100, "files": 3}\')\n'
PULLED: Final = (
    'tell(\'{"type": "pulled", "model": "acme/tiny", "path": "/m", "commit": "c0ffee", "bytes": 100,'
    ' "files": 3, "fresh": true}\')\n'
)
MISSING: Final = 'tell(\'{"type": "failed", "code": "hub_model_not_found", "message": "no such model"}\')\n'
LONG: Final = f"tell('x' * {LINE + 2**20})\n"
NO_TEXT: Final = r"""
sys.stdout.buffer.write(b'{"type": "failed", "code": "\xff", "message": "?"}\n')
sys.stdout.flush()
"""
WAIT: Final = "open(sys.argv[2]).read()\n"  # a FIFO: until the test opens its other end


class Desk:
    """Pulls over processes that follow a script; `now` is their clock, `log` a line for every process."""

    def __init__(self, folder: Path, script: str, **settings: Any) -> None:
        self.log = folder / "log"
        self.gate = folder / "gate"
        self.events: list[events.Event] = []
        self.looks = 0
        self.now = 1000.0
        tell = events.Events()
        tell.subscribe(self.events.append)
        self.tasks: list[asyncio.Task[None]] = []
        self.pulls = Pulls(
            Settings(models_dir=str(folder), **settings),
            tell,
            spawn=self._spawn,
            look_again=self._look,
            command=(sys.executable, "-c", BEGIN + script, str(self.log), str(self.gate)),
            clock=lambda: self.now,
        )

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        self.tasks.append(asyncio.create_task(work))
        return self.tasks[-1]

    def _look(self) -> None:
        self.looks += 1

    @property
    def orders(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    async def until(self, pull: Pull, holds: Callable[[Pull], bool]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not holds(pull):
                await asyncio.sleep(0.01)

    async def done(self) -> None:
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*self.tasks)


Open = Callable[..., Desk]


@pytest.fixture
def desk(tmp_path: Path) -> Open:
    return lambda script, **settings: Desk(tmp_path, script, **settings)


def asked(spelling: str) -> ModelRef:
    return ModelRef.parse(spelling, "/models")


def told(answer: GatewayError | None) -> GatewayError:
    assert answer is not None
    return answer


async def test_however_many_ask_there_is_one_process_and_one_pull(desk: Open) -> None:
    here = desk(LOOKED + PULLED)
    first = here.pulls.start(MODEL)
    assert all(here.pulls.start(MODEL) is first for _ in range(20))
    await here.done()
    assert first.state == "pulled"
    assert len(here.orders) == 1
    assert here.pulls.listing() == [first]
    assert here.looks == 1, "the volume is looked at at once"


async def test_another_revision_of_a_model_that_is_being_pulled_is_refused(desk: Open) -> None:
    here = desk(LOOKED + PULLED)
    here.pulls.start(MODEL, "v1")
    assert here.pulls.start(MODEL).revision == "v1", "who asks for none joins"
    with pytest.raises(PullInProgress, match="v1"):
        here.pulls.start(MODEL, "v2")
    await here.done()
    here.pulls.start(MODEL, "v2")
    await here.done()
    assert '"revision":"v2"' in here.orders[1]


async def test_the_order_has_the_settings_and_the_token_is_on_no_command_line(desk: Open) -> None:
    here = desk(PULLED, hub_endpoint="http://hub.example", hub_token="hf_secret", allow_pickle=True)
    here.pulls.start(MODEL)
    await here.done()
    order = here.orders[0]
    for word in ('"endpoint":"http://hub.example"', '"token":"hf_secret"', '"allow_pickle":true', '"revision":"main"'):
        assert word in order
    assert "hf_secret" not in repr(Settings(hub_token="hf_secret"))


async def test_events_tell_the_beginning_each_tenth_and_the_end(desk: Open) -> None:
    steps = "".join(f'tell(\'{{"type": "progress", "bytes": {count}}}\')\n' for count in (1, 2, 11, 12, 50, 100))
    here = desk(LOOKED + steps + PULLED)
    here.pulls.start(MODEL)
    await here.done()
    began = [event for event in here.events if isinstance(event, events.ModelPulling)]
    assert [(event.bytes, event.total) for event in began] == [(0, 100), (11, 100), (50, 100), (100, 100)]
    last = here.events[-1]
    assert isinstance(last, events.ModelPulled)
    assert (last.model, last.commit, last.bytes, last.fresh) == ("acme/tiny", "c0ffee", 100, True)


async def test_a_process_that_dies_is_a_failure_with_its_last_words(desk: Open) -> None:
    here = desk("print('out of luck', file=sys.stderr); os.kill(os.getpid(), 9)")
    pull = here.pulls.start(MODEL)
    await here.done()
    error = show(pull)["error"]
    assert error["code"] == "pull_interrupted"
    assert "-9" in error["message"]
    assert "out of luck" in error["message"]
    assert [type(event) for event in here.events] == [events.PullFailed]


async def test_what_is_no_report_is_not_taken_for_one(desk: Open) -> None:
    here = desk("print('a warning of a library', flush=True)\n" + LOOKED + PULLED)
    pull = here.pulls.start(MODEL)
    await here.done()
    assert (pull.state, pull.commit, pull.bytes, pull.error) == ("pulled", "c0ffee", 100, None)


@pytest.mark.parametrize("said", [LONG, NO_TEXT])
async def test_whatever_a_process_says_ends_no_gateway(desk: Open, said: str) -> None:
    here = desk(said + LOOKED + PULLED)
    pull = here.pulls.start(MODEL)
    await here.done()
    assert (pull.state, pull.commit, pull.error) == ("pulled", "c0ffee", None)


async def test_of_long_last_words_the_beginning_is_told(desk: Open) -> None:
    here = desk("print('out of luck' + 'x' * 100_000, flush=True); os.kill(os.getpid(), 9)")
    pull = here.pulls.start(MODEL)
    await here.done()
    message = show(pull)["error"]["message"]
    assert "out of luck" in message
    assert len(message) < 2000


async def test_ending_the_gateway_ends_the_process_of_a_pull(desk: Open, tmp_path: Path) -> None:

    here = desk(LOOKED + WAIT)
    os.mkfifo(here.gate)
    pull = here.pulls.start(MODEL)
    await here.until(pull, lambda found: found.total is not None)
    here.tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await here.done()
    pid = int(here.orders[0].split()[0])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_offline_starts_nothing_and_says_so(desk: Open) -> None:
    here = desk(PULLED, hub_offline=True, hub_allow="acme/*")
    with pytest.raises(HubOffline):
        here.pulls.start(MODEL)
    assert isinstance(here.pulls.instead(asked("acme/tiny")), HubOffline)
    assert here.pulls.instead(asked("other/tiny")) is None
    assert here.tasks == []


async def test_by_default_no_request_ever_starts_a_pull(desk: Open) -> None:
    here = desk(PULLED)
    assert here.pulls.instead(asked("acme/tiny")) is None
    assert here.tasks == []


@pytest.mark.parametrize(
    ("allow", "spelling", "allowed"),
    [
        ("acme/tiny", "huggingface:acme/tiny", True),
        ("other/x, acme/*", "acme/tiny", True),
        ("acme/*", "acmeother/tiny", False),
        ("acme/tiny", "acme/tiny2", False),
        ("acme/tiny", "acme/tiny@0123456789ab", False),
        ("tiny", "tiny", True),
        ("acme/*", "tiny", False),
        ("finetuned/*", "tiny", False),
    ],
)
async def test_a_request_pulls_what_the_operator_allowed_and_nothing_else(
    desk: Open, allow: str, spelling: str, allowed: bool
) -> None:
    here = desk(PULLED, hub_allow=allow)
    answer = here.pulls.instead(asked(spelling))
    assert isinstance(answer, ModelPulling) is allowed
    assert len(here.tasks) == allowed
    await here.done()


async def test_made_up_names_start_a_bounded_number_of_pulls(desk: Open) -> None:
    here = desk(PULLED, hub_allow="acme/*")
    for number in range(MOST_WAITING + 100):
        answer = told(here.pulls.instead(asked(f"acme/no-{number}")))
        assert isinstance(answer, ModelPulling)
        assert answer.retry_after
    counts = [len(here.tasks)]
    here.pulls.start(MODEL)  # an operator's
    counts.append(len(here.tasks))
    for pull in here.pulls.listing()[:2]:
        pull.state = "pulling"
    here.pulls.instead(asked("acme/another"))
    counts.append(len(here.tasks))
    for task in here.tasks:
        task.cancel()
    await asyncio.wait(here.tasks)
    assert counts == [MOST_WAITING, MOST_WAITING + 1, MOST_WAITING + 2]


async def test_requests_are_told_to_come_back_until_the_model_is_in_the_catalog(desk: Open) -> None:
    here = desk(LOOKED + PULLED, hub_allow="acme/*")
    for _ in range(3):
        answer = told(here.pulls.instead(asked("acme/tiny")))
        assert isinstance(answer, ModelPulling)
        assert answer.retry_after
    await here.done()
    here.now += ARRIVING - 1
    assert isinstance(here.pulls.instead(asked("acme/tiny")), ModelPulling)
    assert len(here.orders) == 1
    here.now += 2  # published, and gone since: an operator removed it
    assert isinstance(here.pulls.instead(asked("acme/tiny")), ModelPulling)
    await here.done()
    assert len(here.orders) == 2


async def test_the_wait_is_what_the_rest_will_take(desk: Open) -> None:
    pull = Pull(MODEL, "main", asked_at=0.0, state="pulling", bytes=25, total=100, started_at=0.0)
    assert pull.wait(now=10.0) == 30.0
    assert pull.wait(now=1000.0) == 60.0
    pull.bytes = 99
    assert pull.wait(now=10.0) == 2.0


async def test_a_pull_that_failed_is_told_with_its_reason_and_tried_again_later(desk: Open) -> None:
    here = desk(MISSING, hub_allow="acme/*")
    here.pulls.instead(asked("acme/tiny"))
    await here.done()
    here.now += 10
    answer = told(here.pulls.instead(asked("acme/tiny")))
    assert isinstance(answer, HubModelNotFound)
    assert answer.message == "no such model"
    assert answer.retry_after == RETRY - 10
    assert len(here.orders) == 1
    here.now += RETRY
    assert isinstance(here.pulls.instead(asked("acme/tiny")), ModelPulling)
    await here.done()
    assert len(here.orders) == 2


async def test_a_model_that_another_gateway_pulls_is_waited_for(desk: Open) -> None:
    here = desk(MISSING.replace("hub_model_not_found", "pull_in_progress"), hub_allow="acme/*")
    here.pulls.instead(asked("acme/tiny"))
    await here.done()
    assert isinstance(here.pulls.instead(asked("acme/tiny")), ModelPulling)
    assert len(here.orders) == 1


async def test_the_list_of_what_has_ended_is_bounded(desk: Open) -> None:
    here = desk(PULLED)
    for number in range(REMEMBERED + 5):
        here.now += 1
        pull = here.pulls._pulls[ModelId("acme", f"m{number}")] = Pull(ModelId("acme", f"m{number}"), "main", here.now)
        pull.state, pull.ended_at = "failed", here.now
    here.now += 1
    here.pulls.start(MODEL)
    assert len(here.pulls.listing()) == REMEMBERED
    assert here.pulls.listing()[0].model == MODEL
    await here.done()


@pytest.mark.parametrize(
    ("spelling", "expected"),
    [
        ("acme/tiny", (MODEL, None)),
        ("huggingface:acme/tiny", (MODEL, None)),
        ("acme/tiny@refs/pr/1", (MODEL, "refs/pr/1")),
        ("tiny@v1.0", (ModelId(None, "tiny"), "v1.0")),
    ],
)
def test_a_repository_is_named_as_on_the_hub(spelling: str, expected: tuple[ModelId, str | None]) -> None:
    assert parse_repository(spelling) == expected
