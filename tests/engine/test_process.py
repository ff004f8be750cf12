"""The engine over real host processes that crash, hang, are killed, and run out of room."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from gateway import events
from gateway.engine import quarantine
from gateway.engine.process import ProcessEngine
from gateway.engine.supervisor import HostProcess
from gateway.errors import DoesNotFit, GatewayError, HostFailed, LoadFailed, ModelQuarantined
from gateway.host.recorder import Recorder
from gateway.host.wire import Options
from gateway.model import Generation
from tests import adapting, making
from tests.engine.faulty_host import HANGING, UNREADABLE

FAULTY = (sys.executable, "-m", "tests.engine.faulty_host")
# what a load has failed of is remembered for as long as it ever is, and so for longer than a test takes
REMEMBERING = (
    sys.executable,
    "-c",
    "import sys; from gateway.host import __main__ as host, failures; failures.FIRST_BACKOFF = failures.LAST_BACKOFF; "
    "sys.exit(host.main(sys.argv[1:]))",
)
PLAIN = Options()
DEADLINE = 300.0  # of a whole test step: generous, since the machine may be busy; never what decides


class Rig:
    """An engine on real hosts, and what they told."""

    def __init__(
        self, engine: ProcessEngine, hosts: list[HostProcess], bus: events.Events, told: list[events.Event]
    ) -> None:
        self.engine = engine
        self.hosts = hosts
        self.bus = bus
        self.told = told

    def of(self, kind: type[events.Event]) -> list[events.Event]:
        return [event for event in self.told if isinstance(event, kind)]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition():
                await asyncio.sleep(0.01)

    async def embed(self, generation: Generation, *texts: str) -> np.ndarray:
        vectors = await asyncio.wait_for(self.engine.embed(generation, list(texts), PLAIN), DEADLINE)
        return np.frombuffer(vectors.data, "<f4").reshape(vectors.rows, vectors.dim)

    def watch(self, look: Callable[[HostProcess], None]) -> None:
        """Looks at a host after each of its reports, however many come at once."""
        for host in self.hosts:
            receive = host._receive

            def received(*told: Any, host: HostProcess = host, receive: Callable[..., None] = receive) -> None:
                receive(*told)
                look(host)

            host._receive = received  # type: ignore[method-assign]  # every report is looked at


@asynccontextmanager
async def rig(
    devices: tuple[str, ...] = ("cpu",),
    *,
    budget: int = 0,
    hang_timeout: float = DEADLINE,
    load_timeout: float = DEADLINE,
    limit: int = 0,
    command: tuple[str, ...] = FAULTY,
    **options: Any,
) -> AsyncIterator[Rig]:
    bus, told = events.Events(), []
    bus.subscribe(told.append)
    config = {"memory_budget": budget, "compute_threads": 1}
    hosts = [
        HostProcess(
            device,
            msgspec.json.encode({"device": device, **config}),
            bus,
            hang_timeout=hang_timeout,
            load_timeout=load_timeout,
            command=command,
        )
        for device in devices
    ]
    names = lambda digest: (digest[:4],)  # noqa: E731 - it has no use elsewhere
    engine = ProcessEngine(hosts, bus, names, lambda g: g.manifest.parameters * 4, limit, **options)
    lives = [asyncio.create_task(host.supervise()) for host in hosts]
    try:
        yield Rig(engine, hosts, bus, told)
    finally:
        await asyncio.gather(*(host.stop() for host in hosts))
        await asyncio.gather(*lives)
        assert not any(alive(host.pid) for host in hosts)


def alive(pid: int | None) -> bool:
    try:
        return pid is not None and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Generation]:
    """Ten small models of one size, each with vectors of its own."""
    base = tmp_path_factory.mktemp("models")
    made = []
    for number in range(10):
        path = making.encoder(str(base / f"m{number}"), seed=number)
        made.append(msgspec.structs.replace(making.generation(path), digest=f"{number:x}" * 64))
    return made


async def test_vectors_come_back_as_the_runtime_made_them(models: list[Generation]) -> None:
    from gateway.host import encoder
    from gateway.host.tokenize import Tokenizer

    texts = ["alpha beta", "gamma", "alpha " * 20]
    expected = encoder.load(models[0], "cpu").embed(Tokenizer(models[0]).encode(texts))
    async with rig() as running:
        assert np.abs(await running.embed(models[0], *texts) - expected).max() < 1e-5
        loaded = running.of(events.GenerationLoaded)
        assert [event.generation for event in loaded] == ["0" * 12]


async def test_killing_the_host_under_load_costs_no_clients_request(models: list[Generation]) -> None:
    """Whatever is in flight is sent again; what was on the device goes alone."""
    async with rig() as running:
        stop = False
        answered = [0] * 3  # by model: a load that is killed twice would be taken for the culprit

        async def client(number: int) -> None:
            while not stop:
                vectors = await running.embed(models[number % 3], f"alpha {number}", "beta")
                assert vectors.shape == (2, 32)
                assert np.isfinite(vectors).all()
                answered[number % 3] += 1

        async def more() -> None:
            before = list(answered)
            await running.until(lambda: all(now > then + 15 for now, then in zip(answered, before, strict=True)))

        clients = [asyncio.create_task(client(number)) for number in range(12)]
        for _ in range(2):
            await more()
            pid = running.hosts[0].pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await running.until(lambda pid=pid: running.hosts[0].pid != pid and running.hosts[0].up)
        await more()
        stop = True
        await asyncio.gather(*clients)
        assert running.hosts[0].restarts == 2
        assert [event.why for event in running.of(events.HostExited)] == ["killed by SIGKILL"] * 2


async def test_a_request_that_crashes_the_host_costs_itself_alone(
    models: list[Generation], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The culprit gets a 503 after its second try, its generation is quarantined, and everybody else is answered."""
    monkeypatch.setattr(quarantine, "FIRST", quarantine.LAST)  # longer than it takes others to get another host
    async with rig() as running:
        await running.embed(models[1], "warm")
        culprit = asyncio.create_task(running.embed(models[0], "please crash"))
        others = [asyncio.create_task(running.embed(models[1], f"text {n}")) for n in range(20)]
        with pytest.raises(HostFailed, match="died twice") as failed:
            await culprit
        assert failed.value.retry_after
        assert all(vectors.shape == (1, 32) for vectors in await asyncio.gather(*others))
        with pytest.raises(ModelQuarantined) as refused:
            await running.embed(models[0], "innocent")
        assert refused.value.retry_after
        assert refused.value.retry_after > 30
        assert running.engine.quarantined(models[0].digest)
        assert running.engine.quarantined(models[1].digest) is None
        exits = running.of(events.HostExited)
        assert [event.why for event in exits] == ["killed by SIGSEGV"] * 2
        assert all("0" * 12 in event.suspects for event in exits)
        assert [event.generation for event in running.of(events.GenerationQuarantined)] == ["0" * 12]
        assert any("Segmentation fault" in event.line for event in running.of(events.HostOutput))


async def test_neighbours_in_the_batch_of_a_crash_are_answered(models: list[Generation]) -> None:
    """The same model, the same batch: the suspects run alone the second time, the innocent first."""
    async with rig() as running:
        await running.embed(models[0], "warm")
        innocents = [asyncio.create_task(running.embed(models[0], f"text {n}")) for n in range(5)]
        await asyncio.sleep(0)
        culprit = asyncio.create_task(running.embed(models[0], "please crash"))
        results = await asyncio.gather(*innocents, culprit, return_exceptions=True)
        assert isinstance(results[-1], HostFailed)
        assert all(isinstance(result, np.ndarray) for result in results[:-1])


async def test_an_operators_load_ends_a_quarantine(models: list[Generation]) -> None:
    async with rig() as running:
        with pytest.raises(HostFailed):
            await running.embed(models[0], "please crash")
        await running.engine.load(models[0])
        assert (await running.embed(models[0], "fine")).shape == (1, 32)


async def test_new_content_ends_a_quarantine_by_being_another_generation(models: list[Generation]) -> None:
    async with rig() as running:
        with pytest.raises(HostFailed):
            await running.embed(models[0], "please crash")
        running.engine.keep([models[1]], [])
        running.engine.keep([models[0]], [])
        assert (await running.embed(models[0], "fine")).shape == (1, 32)


async def test_a_model_whose_load_kills_the_host_is_quarantined(models: list[Generation], tmp_path: Path) -> None:
    path = making.encoder(str(tmp_path / "crash-on-load"))
    deadly = msgspec.structs.replace(making.generation(path), digest="f" * 64)
    async with rig() as running:
        others = [asyncio.create_task(running.embed(models[1], f"text {n}")) for n in range(5)]
        with pytest.raises(HostFailed):
            await running.embed(deadly, "anything")
        await asyncio.gather(*others)
        assert running.engine.quarantined(deadly.digest)


def impatient_of_hangs(running: Rig) -> None:
    """For as long as a call hangs, and not with one that the machine keeps waiting."""
    [host] = running.hosts

    def told(event: events.Event) -> None:
        if isinstance(event, events.HostOutput) and event.line == HANGING:
            host._hang_timeout = 0.1
        elif isinstance(event, events.HostExited):
            host._hang_timeout = DEADLINE

    running.bus.subscribe(told)


@pytest.mark.parametrize("length", [1, 100], ids=["on the loop", "on a thread"])
async def test_a_text_that_crashes_the_tokenizer_costs_itself_alone(length: int, models: list[Generation]) -> None:
    deadly = UNREADABLE + " alpha" * length
    async with rig() as running:
        await running.embed(models[1], "warm")
        culprit = asyncio.create_task(running.embed(models[0], deadly))
        others = [asyncio.create_task(running.embed(models[1], f"text {n}", "beta " * 200)) for n in range(5)]
        with pytest.raises(HostFailed, match="died twice"):
            await culprit
        assert all(vectors.shape == (2, 32) for vectors in await asyncio.gather(*others))
        assert running.engine.quarantined(models[0].digest)
        assert running.engine.quarantined(models[1].digest) is None
        exits = running.of(events.HostExited)
        assert [event.why for event in exits] == ["killed by SIGSEGV"] * 2
        assert all("0" * 12 in event.suspects for event in exits)


async def test_an_adapter_whose_load_kills_the_host_is_quarantined_and_its_base_is_not(
    models: list[Generation], tmp_path: Path
) -> None:
    path = adapting.lora(tmp_path / "crash-on-load", models[0].path)
    deadly = adapting.generation(path, models[0], "f" * 64)
    async with rig() as running:
        await running.embed(models[0], "warm")
        with pytest.raises(HostFailed, match="died twice"):
            await running.embed(deadly, "anything")
        exits = running.of(events.HostExited)
        assert len(exits) == 2
        assert all("f" * 12 in event.suspects for event in exits)
        assert running.engine.quarantined(deadly.digest)
        assert (await running.embed(models[0], "fine")).shape == (1, 32)


async def test_a_hang_is_killed_and_costs_others_nothing(models: list[Generation]) -> None:
    async with rig() as running:
        impatient_of_hangs(running)
        await running.embed(models[1], "warm")
        culprit = asyncio.create_task(running.embed(models[0], "please hang"))
        others = [asyncio.create_task(running.embed(models[1], f"text {n}")) for n in range(5)]
        with pytest.raises(HostFailed):
            await culprit
        await asyncio.gather(*others)
        assert {event.why for event in running.of(events.HostExited)} == {"a device call took too long"}


async def test_a_host_that_is_long_over_a_text_is_killed(models: list[Generation]) -> None:
    async with rig(hang_timeout=600.0, load_timeout=600.0) as running:
        await running.embed(models[0], "warm")
        host = running.hosts[0]
        page = Recorder(os.dup(host._recorder.fileno()), lambda: time.monotonic() - 1000)
        with page.tokens(models[0].digest, 1):
            await running.until(lambda: running.of(events.HostExited) != [])
            (exited,) = running.of(events.HostExited)
        page.close()
        assert exited.why == "a tokenizer or a chat template took too long"
        assert exited.suspects == ("0" * 12,)


async def test_a_poisoned_device_ends_its_host_on_purpose(models: list[Generation]) -> None:
    """A device-side assert poisons the whole context: only a new process cures it."""
    async with rig() as running:
        with pytest.raises(HostFailed):
            await running.embed(models[0], "please poison")
        assert {event.status for event in running.of(events.HostExited)} == {71}
        assert (await running.embed(models[1], "fine")).shape == (1, 32)


async def test_a_host_that_does_not_start_is_told_at_once(models: list[Generation]) -> None:
    async with rig(command=("/bin/false",)) as running:
        await running.until(lambda: running.hosts[0].restarts >= 3)
        with pytest.raises(HostFailed, match="does not start") as failed:
            await running.embed(models[0], "anything")
        assert failed.value.retry_after


async def test_ten_models_under_a_budget_of_three_are_served_in_any_order(models: list[Generation]) -> None:
    """The budget is never exceeded: not as the host reports it after each change, with nothing lost on the way."""
    size = models[0].manifest.parameters * 4
    chance = random.Random(5)
    alone: dict[int, np.ndarray] = {}
    async with rig(budget=3 * size + size // 2) as running:
        seen: list[int] = []
        running.watch(lambda host: seen.append(host.residency.used))
        for number in range(10):
            alone[number] = await running.embed(models[number], "alpha beta")
        order = [chance.randrange(10) for _ in range(150)]

        async def client(numbers: list[int]) -> None:
            for number in numbers:
                vectors = await running.embed(models[number], "alpha beta")
                assert np.abs(vectors - alone[number]).max() < 1e-5

        await asyncio.gather(*(client(order[start::5]) for start in range(5)))
        await running.until(lambda: running.hosts[0].residency.queue_tokens == 0)
        assert max(seen) <= 3 * size + size // 2
        assert max(seen) >= 3 * size * 0.9
        assert len([event for event in running.of(events.GenerationUnloaded) if event.why == "evicted"]) >= 7
        pairs = [(a, b) for a in range(10) for b in range(a)]
        assert all(np.abs(alone[a] - alone[b]).max() > 1e-3 for a, b in pairs)


async def test_what_is_larger_than_the_budget_is_refused(models: list[Generation]) -> None:
    async with rig(budget=1000) as running:
        with pytest.raises(DoesNotFit, match="the budget leaves 1000"):
            await running.embed(models[0], "anything")


async def test_whether_two_fit_side_by_side_goes_by_bytes_by_pins_and_by_their_number(models: list[Generation]) -> None:
    first, second, third = models[:3]
    size = first.manifest.parameters * 4
    async with rig(budget=int(size * 2.6)) as running:
        assert running.engine.fits_beside(second, first.digest)  # no host is up, and nobody knows better
        await running.embed(first, "anything")
        assert running.engine.fits_beside(third, first.digest)
        running.engine.keep(models, [second])
        await running.until(lambda: len(running.of(events.GenerationLoaded)) == 2)
        assert running.engine.residences()[second.digest][0].pinned
        assert not running.engine.fits_beside(third, first.digest)
    async with rig(limit=1) as running:
        await running.embed(first, "anything")
        assert not running.engine.fits_beside(second, first.digest)


async def test_a_pinned_model_is_loaded_at_once_and_again_after_a_crash(models: list[Generation]) -> None:
    async with rig() as running:
        running.engine.keep(models, [models[4]])
        await running.until(lambda: len(running.of(events.GenerationLoaded)) == 1)
        pid = running.hosts[0].pid
        assert pid is not None
        running.hosts[0].residents = {}  # as if it died between telling the load and telling its state
        os.kill(pid, signal.SIGKILL)
        await running.until(lambda: len(running.of(events.GenerationLoaded)) == 2)
        assert {event.generation for event in running.of(events.GenerationLoaded)} == {"4" * 12}
        unloaded = running.of(events.GenerationUnloaded)
        assert [event.why for event in unloaded] == ["host_exit"]


async def test_what_is_pinned_is_on_all_devices_together_after_a_start(models: list[Generation]) -> None:
    """It is known before any host is up, and which of them is up first has no room for all of it."""
    pinned = models[:2]
    async with rig(("cpu:0", "cpu:1"), budget=int(models[0].manifest.parameters * 6)) as running:
        running.engine.keep(models, pinned)
        await running.until(lambda: len({*where(running, pinned[0]), *where(running, pinned[1])}) == 2)
        assert len(running.of(events.GenerationLoaded)) == 2


async def test_what_has_no_room_beside_what_is_pinned_goes_to_another_device(models: list[Generation]) -> None:
    pinned, other, third = models[:3]
    async with rig(("cpu:0", "cpu:1"), budget=int(pinned.manifest.parameters * 6)) as running:
        await running.until(lambda: all(host.up for host in running.hosts))
        running.engine.keep(models, [pinned])
        await running.until(lambda: bool(where(running, pinned)))
        [full] = [index for index, host in enumerate(running.hosts) if host.device in where(running, pinned)]
        running.engine._sites.assign(other.digest, full, 1)  # as one that was told before the other was pinned
        assert (await running.embed(other, "anything")).shape == (1, 32)
        await running.until(lambda: bool(where(running, other)))
        assert where(running, other) != where(running, pinned)
        running.engine.keep(models, [pinned, other])
        with pytest.raises(DoesNotFit):
            await running.embed(third, "anything")


async def test_while_no_host_is_up_a_request_and_a_pin_wait_for_whichever_is_first(models: list[Generation]) -> None:
    async with rig(("cpu:0", "cpu:1")) as running:
        running.hosts[0]._command = ("/bin/sh", "-c", "exec sleep 1000")  # it never says that it is up
        running.engine.keep(models, models[1:2])
        assert (await running.embed(models[0], "anything")).shape == (1, 32)
        await running.until(lambda: where(running, models[1]) == {"cpu:1"})
        assert where(running, models[0]) == {"cpu:1"}
        assert running.engine._sites.holding(models[0].digest) == [1]  # and is not taken to be on its way to the other


def where(running: Rig, generation: Generation) -> set[str]:
    found = running.engine.residences().get(generation.digest, [])
    return {residence.device for residence in found if residence.state == "loaded"}


async def test_a_model_that_one_device_cannot_keep_up_with_is_on_two_until_one_can_again(
    models: list[Generation],
) -> None:
    hot, other, now = models[0], models[1], [0.0]
    # a load is worth it however long the last one took, and it is calm for as long as the test says
    async with rig(("cpu:0", "cpu:1"), calm=0.4, load_weight=1e-3, clock=lambda: now[0]) as running:
        await running.embed(hot, "the first")
        await running.embed(other, "beside it")
        done = asyncio.Event()

        async def ask(number: int) -> None:
            while not done.is_set():
                await running.embed(hot, *(f"{number} {row} " + "word " * 60 for row in range(64)))

        asking = [asyncio.create_task(ask(number)) for number in range(8)]
        await running.until(lambda: where(running, hot) == {"cpu:0", "cpu:1"})
        [told] = running.of(events.GenerationReplicated)
        assert told.generation == hot.short
        await running.until(lambda: all(host._calls for host in running.hosts))  # both are asked
        done.set()
        await asyncio.gather(*asking)

        def drawn_back() -> bool:
            now[0] += 0.4
            return bool(running.of(events.GenerationUnloaded))

        await running.until(drawn_back)
        assert [event.why for event in running.of(events.GenerationUnloaded)] == ["drawn_back"]
        assert len(where(running, hot)) == 1  # the state is told before what has led to it
        assert len(where(running, other)) == 1
        assert (await running.embed(hot, "still")).shape[0] == 1


async def test_a_model_may_be_kept_to_one_device(models: list[Generation]) -> None:
    async with rig(("cpu:0", "cpu:1"), busy=0.0, replicas=1) as running:
        texts = ["word " * 60] * 64
        await asyncio.gather(*(running.embed(models[0], *texts) for _ in range(12)))
        assert len(where(running, models[0])) == 1
        assert not running.of(events.GenerationReplicated)


async def test_what_was_on_a_device_that_died_is_served_by_another_and_what_is_pinned_at_once(
    models: list[Generation],
) -> None:
    pinned, loose = models[2], models[3]
    async with rig(("cpu:0", "cpu:1")) as running:
        await running.until(lambda: all(host.up for host in running.hosts))
        running.engine.keep(models, [pinned])
        await running.until(lambda: len(where(running, pinned)) == 1)
        await running.embed(loose, "anything")
        [dead] = [host for host in running.hosts if host.device in where(running, pinned)]
        dead._command = ("/bin/false",)  # it does not come back
        assert dead.pid is not None
        os.kill(dead.pid, signal.SIGKILL)
        await running.until(lambda: where(running, pinned) == {"cpu:0", "cpu:1"} - {dead.device})
        await running.embed(loose, "anything")
        assert where(running, loose) == where(running, pinned)


async def test_what_is_no_longer_live_is_unloaded(models: list[Generation]) -> None:
    async with rig() as running:
        await running.embed(models[0], "anything")
        running.engine.keep([models[1]], [])
        await running.until(lambda: len(running.of(events.GenerationUnloaded)) == 1)
        assert running.engine.residences() == {}


async def test_unloading_answers_when_the_memory_is_free(models: list[Generation]) -> None:
    async with rig() as running:
        await running.embed(models[0], "anything")
        await running.engine.unload(models[0].digest)
        assert running.engine.residences() == {}
        assert running.engine.devices()[0].used == 0


async def test_missing_weights_are_a_failed_load_that_is_remembered(models: list[Generation], tmp_path: Path) -> None:
    broken = msgspec.structs.replace(models[0], path=str(tmp_path), digest="e" * 64)
    async with rig(command=REMEMBERING) as running:
        for _ in range(3):
            with pytest.raises(LoadFailed) as failed:
                await running.embed(broken, "anything")
            assert failed.value.retry_after
        assert len(running.of(events.LoadFailed)) == 1


async def test_models_are_spread_over_the_devices(models: list[Generation]) -> None:
    """Two hosts: what one has no room for goes to the other, and what one holds stays there."""
    size = models[0].manifest.parameters * 4
    async with rig(("cpu:0", "cpu:1"), budget=2 * size + size // 2) as running:
        await running.until(lambda: all(host.up for host in running.hosts))
        for number in (0, 1, 2, 3, 0, 1, 2, 3):
            await running.embed(models[number], "anything")
        assert len(running.of(events.GenerationLoaded)) == 4
        held = running.engine.residences()
        devices = [residences[0].device for residences in held.values()]
        assert sorted(devices) == ["cpu:0", "cpu:0", "cpu:1", "cpu:1"]


async def test_the_death_of_one_devices_host_leaves_the_others_models_loaded(models: list[Generation]) -> None:
    async with rig(("cpu:0", "cpu:1")) as running:
        await running.until(lambda: all(host.up for host in running.hosts))
        await running.embed(models[0], "anything")
        holder = next(host for host in running.hosts if host.residents)
        other = next(host for host in running.hosts if host is not holder)
        assert holder.pid is not None
        os.kill(holder.pid, signal.SIGKILL)
        await running.until(lambda: not holder.up)
        await running.embed(models[0], "anything")  # at once, on the device whose host is up
        assert models[0].digest in other.residents


async def test_a_client_that_leaves_costs_the_host_nothing_more(models: list[Generation]) -> None:
    async with rig() as running:
        await running.embed(models[0], "warm")
        leaving = asyncio.create_task(running.embed(models[0], *(["alpha " * 60] * 500)))

        def leave(event: events.Event) -> None:
            if isinstance(event, events.DeviceCall):  # the first of many
                leaving.cancel()

        running.bus.subscribe(leave)
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await running.embed(models[0], "still here")
        await running.until(lambda: running.hosts[0].residency.queue_tokens == 0)
        assert not running.hosts[0]._calls


async def test_errors_that_cross_the_wire_keep_their_type_and_facts(models: list[Generation]) -> None:
    from gateway.errors import InputTooLong

    async with rig() as running:
        with pytest.raises(InputTooLong) as refused:
            await running.engine.embed(models[0], ["alpha " * 500], Options(truncate=False))
        assert isinstance(refused.value, GatewayError)
        assert refused.value.details


async def test_a_queue_that_grows_behind_one_lease_is_seen_and_its_end_too(models: list[Generation]) -> None:
    """Placement and the metrics go by it, and the pool does not change while it drains."""
    async with rig() as running:
        await running.embed(models[0], "warm")
        seen: list[int] = []
        running.watch(lambda host: seen.append(running.engine.devices()[0].queue_tokens))
        await running.embed(models[0], *(["alpha " * 60] * 1500))
        assert max(seen) > 0
        await running.until(lambda: running.engine.devices()[0].queue_tokens == 0)
