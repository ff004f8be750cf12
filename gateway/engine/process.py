"""The default engine: a supervised host process for each device of this machine.

A host may crash, hang or poison its device at any time. That costs the request that did it a 503, and nobody else
anything: requests that were in flight are sent again. Those that were at work get the next host to themselves, so a
second death has one culprit: its request is refused, and its generation is quarantined.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from gateway import events
from gateway.engine.commands import Answer, Commands, Told, event_of
from gateway.engine.costs import Costs
from gateway.engine.demand import Demand
from gateway.engine.engine import DeviceState, Residence
from gateway.engine.placement import HOT, LOAD_WEIGHT, place
from gateway.engine.quarantine import FIRST, STRIKES, Quarantine
from gateway.engine.refusals import Inputs, Refusals
from gateway.engine.replicas import BUSY, CALM, Replicas
from gateway.engine.sites import Sites
from gateway.engine.supervisor import Death, HostProcess
from gateway.errors import DoesNotFit, GatewayError, HostFailed, ModelLoading, Overloaded
from gateway.host import wire
from gateway.model import Generation
from gateway.wish import Wish, Wishes

MOST_ATTEMPTS = 10  # of a request that is innocent each time; the deadline usually comes first


class ProcessEngine(Commands):
    """`hosts` are started and stopped by the caller; `names` says which models a digest is, for the events;
    `limit` is how many generations a device may hold, 0 for as many as fit; `wish` says what a generation is to be
    computed with, and `weight` what share of its device a digest has beside others. A generation is on `replicas`
    devices at most, 0 for all: on another one if a request is answered sooner there, though a load counts `load_weight`
    times, or, if answers are written, after `busy` seconds in which they wait; until nothing has waited for `calm`
    seconds."""

    def __init__(
        self,
        hosts: Sequence[HostProcess],
        tell: events.Events,
        names: Callable[[str], tuple[str, ...]],
        predict: Callable[[Generation], int],
        limit: int = 0,
        *,
        replicas: int = 0,
        busy: float = BUSY,
        calm: float = CALM,
        load_weight: float = LOAD_WEIGHT,
        wish: Callable[[Generation], Wish] = lambda generation: Wishes().of((), generation.manifest.wish),
        weight: Callable[[str], float] = lambda digest: 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(weight)
        self._hosts = list(hosts)
        self._wish = wish
        self._events = tell
        self._names = names
        self._predict = predict
        self._limit = limit
        self._quarantine = Quarantine(clock)
        self._pins: dict[str, Generation] = {}
        self._live: dict[str, Generation] | None = None  # None: nobody has said what may stay, and all may
        self._wishes: dict[str, Wish] = {}  # of those, as hosts were told
        self._preloads: dict[str, asyncio.Task[None]] = {}  # of pinned generations
        self._comes = asyncio.Event()  # of the next host that is up
        self._refusals = Refusals(clock)
        self._demand = Demand()
        self._costs = Costs()
        self._sites = Sites(self._hosts, self._demand)
        self._replicas = Replicas(
            self._hosts,
            tell,
            names=names,
            sites=self._sites,
            load=self._load_on,
            most=replicas,
            busy=busy,
            calm=calm,
            load_weight=load_weight,
            clock=clock,
        )
        for host in self._hosts:
            host.on_state = self._sites.told
            host.on_report = self._reported
            host.on_up = self._came_up
            host.on_death = self._died

    @property
    def ready(self) -> bool:
        return any(host.up for host in self._hosts)

    async def load(self, generation: Generation) -> None:
        self._quarantine.forgive(generation)
        await self._ask(generation, lambda alone, number: wire.Load(number, generation.digest, alone))

    async def _load_on(self, generation: Generation, host: HostProcess) -> None:
        self._offer(generation, host)
        self._sites.assign(generation.digest, self._sites.index(host), self._predict(generation))
        try:
            await host.call(lambda number: wire.Load(number, generation.digest), generation.digest)
        finally:
            self._sites.settled(generation.digest, host)

    async def unload(self, digest: str) -> None:
        for host in self._hosts:
            if host.up and (digest in host.residents or digest in host.parked):
                with contextlib.suppress(Death):  # then it holds nothing
                    await host.call(lambda number: wire.Unload(number, digest))

    def keep(self, live: Collection[Generation], pinned: Collection[Generation]) -> None:
        before = self._live or {}
        self._live = known = {generation.digest: generation for generation in live}
        self._pins = {generation.digest: generation for generation in pinned}
        self._sites.keep(known)
        self._quarantine.keep(known)
        self._replicas.keep(known)
        self._costs.keep(known)
        wishes = {digest: self._wish(generation) for digest, generation in (known | self._pins).items()}
        changed = [
            generation
            for digest, generation in (known | self._pins).items()
            if before.get(digest) is not generation or self._wishes.get(digest) != wishes[digest]
        ]
        self._wishes = wishes
        for host in self._hosts:  # not everything anew: that is as many as there are models, times the hosts
            self._tell_keep(host, changed)
        self._load_pinned()

    def fits_beside(self, generation: Generation, digest: str) -> bool:
        size = self._predict(generation)
        up = [host for host in self._hosts if host.up]
        return not up or any(self._has_room(size, host, digest) for host in up)

    def residences(self) -> dict[str, list[Residence]]:
        found: dict[str, list[Residence]] = {}
        for host in self._hosts:
            for resident in host.residents.values():
                found.setdefault(resident.digest, []).append(
                    Residence(
                        resident.digest,
                        host.device,
                        resident.state,
                        resident.bytes,
                        resident.leases,
                        resident.pinned,
                        host.reported - resident.idle_seconds,
                        resident.numerics,
                        resident.seconds_left,
                        resident.rows,
                        resident.rows_waiting,
                    )
                )
            for parked in host.parked.values():
                last_used = host.reported - parked.idle_seconds
                found.setdefault(parked.digest, []).append(
                    Residence(parked.digest, host.device, "parked", parked.bytes, 0, False, last_used)
                )
        return found

    def quarantined(self, digest: str) -> float | None:
        return self._quarantine.left(digest)

    def devices(self) -> list[DeviceState]:
        return [
            DeviceState(
                host.device,
                host.up,
                host.pid,
                host.residency.used,
                host.residency.budget,
                host.residency.queue_tokens,
                host.residency.resident_memory,
                host.restarts,
                host.residency.host_used,
                host.residency.host_budget,
            )
            for host in self._hosts
        ]

    # A request, over the deaths of hosts.

    async def _work(
        self,
        generation: Generation,
        inputs: Inputs,
        request: Callable[[bool, int], wire.Command],
        flow: str,
        deadline: float | None = None,
        *,
        told: Told | None = None,
        computes: bool = True,
    ) -> Answer:
        """What a host may refuse for want of room: to one flow, and not for that to another."""
        queue = generation.digest, flow
        self._quarantine.refuse(generation)
        self._refuse_too_early(generation, deadline)
        self._refusals.check(queue, inputs)
        try:
            answer = await self._ask(generation, request, told, inputs if computes else ())
        except Overloaded as refusal:
            self._refusals.remember(queue, inputs, refusal)
            raise
        self._refusals.forget()
        return answer

    async def _ask(
        self,
        generation: Generation,
        request: Callable[[bool, int], wire.Command],
        told: Told | None = None,
        inputs: Inputs = (),
    ) -> tuple[wire.Done, wire.Payload]:
        strikes, told, elsewhere, full = 0, told or Told(), None, set[int]()
        for _ in range(MOST_ATTEMPTS):
            host = elsewhere or await self._one_up(generation)
            elsewhere = None
            self._offer(generation, host)
            try:
                with self._asked(host, generation, inputs):
                    return await host.call(functools.partial(request, strikes > 0), generation.digest, told)
            except Death as death:
                if told.some:  # what was said cannot be taken back, and another try would say something else
                    raise HostFailed("the host process died in the middle of the answer", retry_after=1.0) from death
                strikes += death.suspect
                convicted = strikes >= STRIKES and death.sole
            except DoesNotFit:
                elsewhere = self._elsewhere(generation, host, full)
                if elsewhere is None:
                    raise
                continue
            finally:
                self._sites.settled((generation.base or generation).digest, host)
            if convicted:
                raise HostFailed("the host process died twice while it worked on this request", retry_after=FIRST)
            self._quarantine.refuse(generation)
        raise HostFailed("the host process keeps dying", retry_after=5.0)

    async def _one_up(self, generation: Generation) -> HostProcess:
        """Where it is to be asked for: while none is up, on the one that is first. Raises HostFailed when that host
        does not start, again and again."""
        while not (host := self._place(generation)).up:
            self._sites.dismiss((generation.base or generation).digest, host)  # it is on its way nowhere yet
            host.check()
            await self._comes.wait()
        return host

    def _elsewhere(self, generation: Generation, host: HostProcess, full: set[int]) -> HostProcess | None:
        """Another device that may have room for what that host has none for; `full` are those that had none."""
        generation = generation.base or generation
        digest, size = generation.digest, self._predict(generation)
        if self._sites.index(host) in self._sites.answering(digest):
            return None  # it is what has no room beside it: an adapter, or rows
        full.add(self._sites.index(host))
        self._sites.dismiss(digest, host)
        sites = [
            site
            for site in self._sites.some(digest, size)
            if site.up and site.index not in full and self._has_room(size, self._hosts[site.index], digest)
        ]
        if not sites:
            return None
        index = place(sites, size, self._costs.loading(generation, size))
        self._sites.assign(digest, index, size)
        return self._hosts[index]

    def _asked(
        self, host: HostProcess, generation: Generation, inputs: Inputs
    ) -> contextlib.AbstractContextManager[None]:
        """Counted as asked of that device, where there are others to be chosen."""
        if len(self._hosts) == 1:
            return contextlib.nullcontext()
        base = generation.base or generation
        return self._demand.of(self._sites.index(host), base.digest, self._seconds(generation, inputs))

    def _seconds(self, generation: Generation, inputs: Inputs) -> float:
        """Of a device's time."""
        return self._costs.computing(generation, self._predict(generation.base or generation), inputs)

    def _offer(self, generation: Generation, host: HostProcess) -> None:
        for each in (generation.base, generation):
            if each is not None:
                host.offer(each, self._wish(each))

    def _refuse_too_early(self, generation: Generation, deadline: float | None) -> None:
        """Whose client leaves before the load ends is told so at once. The load goes on, and is there for the next
        try."""
        digest = (generation.base or generation).digest
        if deadline is None:
            return
        found = list(self._sites.residents(digest))
        if not found or any(resident.state != "loading" for _, resident in found):
            return
        left = min(resident.seconds_left - host.age for host, resident in found)
        if left > deadline - asyncio.get_running_loop().time():
            raise ModelLoading(
                f"the model is being loaded, for about {left:.1f} s more",
                retry_after=left,
                generation=generation.short,
            )

    def _has_room(self, size: int, host: HostProcess, digest: str) -> bool:
        """Beside that generation and what is pinned, which no load may evict."""
        staying = [each.bytes for each in host.residents.values() if each.pinned or each.digest == digest]
        return size + sum(staying) <= host.residency.budget and (not self._limit or len(staying) < self._limit)

    def _place(self, generation: Generation) -> HostProcess:
        """An adapter goes where its base is: it is small, and its texts share device calls there."""
        generation = generation.base or generation
        digest = generation.digest
        if len(self._hosts) == 1:
            return self._hosts[0]
        size = self._predict(generation)
        loaded = self._sites.answering(digest)
        if loaded:  # as `place` would say, which is told much more than that
            index = min(loaded, key=self._demand.load)
            if generation.manifest.kind == "generator":  # how long an answer takes nobody knows
                self._replicas.look(generation, size)
            elif self._demand.load(index) > HOT:
                index = self._replicas.soonest(generation, size, self._costs.loading(generation, size))
            return self._hosts[index]
        holders = [site for site in self._sites.holders(digest) if site.up]
        load = self._costs.loading(generation, size)
        index = place(holders, size, load) if holders else self._first(digest, size, load)
        self._sites.assign(digest, index, size)
        return self._hosts[index]

    def _first(self, digest: str, size: int, load: float) -> int:
        """Where a generation goes that no device has."""
        return place(self._sites.some(digest, size), size, load)

    def _load_pinned(self) -> None:
        if not self.ready:  # all devices look alike, and nothing is known to fit anywhere
            return
        for digest, generation in self._pins.items():
            held = any(digest in host.residents for host in self._hosts)
            if not held and digest not in self._preloads:
                self._preload(generation)

    def _preload(self, generation: Generation) -> None:
        async def load() -> None:
            with contextlib.suppress(GatewayError):  # told as an event by whoever noticed
                await self._ask(generation, lambda alone, number: wire.Load(number, generation.digest, alone))

        task = self._preloads[generation.digest] = asyncio.get_running_loop().create_task(load())
        task.add_done_callback(lambda _: self._preloads.pop(generation.digest, None))

    def _tell_keep(self, host: HostProcess, offered: Iterable[Generation]) -> None:
        for generation in offered:
            host.offer(generation, self._wish(generation))  # so that it can prepare for what may be asked of it
        if self._live is not None:
            host.keep(self._live.keys(), self._pins.keys())

    # What hosts report.

    def _came_up(self, host: HostProcess) -> None:
        self._tell_keep(host, {**self._pins, **(self._live or {})}.values())
        self._comes.set()
        self._comes = asyncio.Event()
        self._load_pinned()

    def _died(self, host: HostProcess, suspects: Mapping[str, float], sole: bool) -> None:
        """What was there is loaded elsewhere when it is asked for, and at once if it is pinned."""
        self._sites.died(host)
        for digest, since in suspects.items():
            if (seconds := self._quarantine.strike(digest, sole=sole, since=since)) is not None:
                self._events.emit(
                    events.GenerationQuarantined(
                        generation=digest[:12],
                        models=self._names(digest),
                        message=f"it was running on a host that died, {STRIKES} times",
                        retry_after=seconds,
                    )
                )
        self._load_pinned()

    def _reported(self, host: HostProcess, report: wire.Report) -> None:
        if isinstance(report, wire.Batch):
            self._quarantine.survived(report.digest)
            self._costs.called(report)
        elif isinstance(report, wire.Loaded):
            self._costs.loaded(report)
        elif isinstance(report, wire.Unloaded | wire.LoadFailure):
            self._sites.dismiss(report.digest, host)
        if (event := event_of(report, self._names, host.device)) is not None:
            self._events.emit(event)
