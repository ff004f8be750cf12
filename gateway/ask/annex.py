"""An upstream as a place where language models of the volume run: what is there is made to match the catalog.

Level-triggered, as everywhere: what should be there is what the catalog keeps, what is there is what the upstream
lists, and the difference is loaded and unloaded; events and requests only say when to look. An adapter has there the
name `model@generation`, so that content that replaces other content is loaded, and proven by a token, beside what still
answers, and what no request uses any more is unloaded. What an upstream lists is asked nothing before it was proven: a
load whose answer came too late, or that an earlier life of the gateway has begun, is listed too.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

from gateway import events
from gateway.ask import phrasing
from gateway.ask.registrar import AlreadyLoaded, Refusal, Registrar
from gateway.ask.setbacks import Setbacks
from gateway.ask.specs import Adapters
from gateway.ask.upstream import Upstream
from gateway.engine.engine import Residence
from gateway.errors import GatewayError, LoadFailed, ProviderError, ProviderFailed, ProviderTimeout
from gateway.lane import Lane
from gateway.model import Generation
from gateway.volume.directory import unchanged

LOADS: Final = 4  # at once
OURS: Final = re.compile(r"[^@]+@[0-9a-f]{12}")


class Annex:
    """`names` has the models of a digest; nothing is unloaded before the volume was `looked` at."""

    def __init__(
        self,
        upstream: Upstream,
        registrar: Registrar,
        spec: Adapters,
        *,
        tell: events.Events,
        names: Callable[[str], tuple[str, ...]],
        looked: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = upstream.name
        self.upstream = upstream
        self._registrar = registrar
        self._spec = spec
        self._bases = {base.partition("@")[0]: (base.partition("@")[2], there) for base, there in spec.bases.items()}
        self._events = tell
        self._models = names
        self._looked = looked
        self._setbacks = Setbacks(self.name, tell, names, clock)
        self._clock = clock
        self._disk = Lane("annex")
        self._wanted: dict[str, Generation] = {}
        self._pinned: frozenset[str] = frozenset()
        self._idle: set[str] = set()  # digests that an operator has unloaded: they come back when they are asked for
        self._given: dict[str, str] = {}  # digest -> name of its adapter there
        self._listed: dict[str, str] = {}  # name -> folder there
        self._there: set[str] = set()  # those of them that were proven, by this life of ours
        self._fresh: dict[str, str] = {}  # name -> folder, of what was proven since the last list was asked for
        self._served: frozenset[str] | None = None  # bases that it lists; None: it has not listed any yet
        self._leases: Counter[str] = Counter()
        self._used: dict[str, float] = {}  # digest -> Unix seconds
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._leaving: dict[str, asyncio.Event] = {}  # by name: set once it is unloaded
        self._slots = asyncio.Semaphore(LOADS)
        self._changed = asyncio.Event()

    def serves(self, generation: Generation) -> bool:
        """Whether it is for this upstream to run."""
        if generation.manifest.kind != "generator":
            return False
        lora = generation.manifest.lora
        return any(model in self._bases for model in ([lora.base] if lora else self._models(generation.digest)))

    def keep(self, wanted: Mapping[str, Generation], pinned: frozenset[str]) -> None:
        """What is to be there."""
        self._idle &= wanted.keys()
        self._setbacks.keep(wanted.keys())
        self._wanted, self._pinned = dict(wanted), pinned
        held = {*self._listed, *self._loads, *self._leases}
        self._given = {digest: name for digest, name in self._given.items() if digest in wanted or name in held}
        self._used = {digest: at for digest, at in self._used.items() if digest in self._given or digest in wanted}
        self._changed.set()

    async def follow(self) -> None:
        """For ever: looks, and makes what is there match what should be."""
        while True:
            self._changed.clear()
            await self.reconcile()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._setbacks.pause(self._spec.interval)):
                    await self._changed.wait()

    async def reconcile(self) -> None:
        """Once. Whatever goes wrong is told, and tried again by the next one."""
        self._fresh.clear()
        try:
            cards = await self._registrar.cards()
        except ProviderError as error:
            self._setbacks.lost(error)
            return
        self._setbacks.found()
        self._listed = {card.id: card.root or "" for card in cards if card.parent or OURS.fullmatch(card.id)}
        self._listed |= self._fresh
        self._there &= self._listed.keys()
        self._served = frozenset(card.id for card in cards) - self._listed.keys()
        missing = [each for each in self._wanted.values() if self._is_missing(each)]
        await asyncio.gather(*(self._bring(each) for each in missing))
        while surplus := self._surplus():  # anew after each: what was asked for meanwhile stays
            await self._let_go(surplus[0])

    async def load(self, generation: Generation) -> None:
        """Loads and proves now; earlier failures are forgotten. Raises LoadFailed and ProviderError."""
        self._setbacks.forget(generation.digest)
        self._idle.discard(generation.digest)
        if self._given.get(generation.digest) in self._there:
            await self._prove_again(generation)
        await self.ensure(generation)

    async def unload(self, digest: str) -> None:
        """Until somebody asks for it."""
        self._idle.add(digest)
        self._changed.set()

    @contextmanager
    def leased(self, generation: Generation) -> Iterator[None]:
        """It is not unloaded meanwhile."""
        name = self.called(generation)
        self._leases[name] += 1
        self._used[generation.digest] = time.time()
        self._idle.discard(generation.digest)
        try:
            yield
        finally:
            self._leases[name] -= 1
            if not self._leases[name]:
                del self._leases[name]
                if generation.digest not in self._wanted:
                    self._changed.set()

    async def ensure(self, generation: Generation) -> None:
        """Returns once it is there. Raises LoadFailed, ProviderUnavailable, and ProviderFailed or ProviderTimeout for
        an upstream that has just gone."""
        self._setbacks.demand_there()
        self._demand_base(generation)
        name = self.called(generation)
        if generation.base is None or name in self._there:
            return
        self._setbacks.demand_untried(generation.digest)
        load = self._loads.get(name)
        if load is None:
            load = self._loads[name] = asyncio.get_running_loop().create_task(self._load(generation, name))
            load.add_done_callback(lambda done: self._loaded(name, done))
        await asyncio.shield(load)  # who leaves ends only its waiting

    def called(self, generation: Generation) -> str:
        """Its name there."""
        if generation.base is None:
            models = (model for model in self._models(generation.digest) if model in self._bases)
            return next((self._bases[model][1] for model in models), "")  # "": the volume has it no more
        given = self._given.get(generation.digest)
        if given is None:
            ending = f"@{generation.short}"
            known = (name for name in self._listed if name.endswith(ending))  # an earlier life of ours has loaded it
            owner = next(iter(self._models(generation.digest)), "adapter")
            given = self._given[generation.digest] = next(known, owner + ending)
        return given

    def lost(self, generation: Generation) -> None:
        """The upstream says that it has none of that name: it was started anew, or somebody else unloaded it."""
        self._forget(self.called(generation))
        self._changed.set()

    def doubt(self) -> None:
        """A call has failed: whether it is there is looked at now."""
        self._changed.set()

    def failing(self, digest: str) -> float | None:
        """Seconds until what it refused is tried again."""
        return self._setbacks.failing(digest)

    def residence(self, generation: Generation) -> Residence:
        """As it is shown."""
        digest, name = generation.digest, self.called(generation)
        setback = self._setbacks.of(digest)
        is_there = name in self._there or (generation.base is None and name in (self._served or ()))
        if is_there and not self._setbacks.is_away:
            state, setback = "loaded", None
        elif digest in self._idle or self.failing(digest) is not None:
            state = "parked"
        else:
            state = "loading" if name in self._loads else "waiting"
        return Residence(
            digest,
            self.name,
            state,
            0,
            self._leases[name],
            digest in self._pinned,
            self._used.get(digest, 0.0),
            rows=self._leases[name],
            reason=setback.reason if setback else None,
        )

    # What is there.

    def _is_missing(self, generation: Generation) -> bool:
        return (
            generation.base is not None
            and generation.digest not in self._idle
            and self.called(generation) not in self._there
            and not (self.failing(generation.digest) or 0.0)
        )

    def _surplus(self) -> list[str]:
        """Names of ours that nobody wants. What an operator has loaded by hand is none of them."""
        if not self._looked():
            return []
        wanted = {self.called(each) for each in self._wanted.values() if each.digest not in self._idle}
        return [
            name
            for name, folder in self._listed.items()
            if name not in wanted and not self._leases[name] and name not in self._loads and self._is_ours(name, folder)
        ]

    def _is_ours(self, name: str, folder: str) -> bool:
        if name in self._given.values():
            return True
        roots = tuple(f"{there.rstrip('/')}/" for there in self._spec.paths.values())
        return OURS.fullmatch(name) is not None and folder.startswith(roots)

    async def _bring(self, generation: Generation) -> None:
        with suppress(GatewayError):  # told as an event
            await self.ensure(generation)

    def _forget(self, name: str) -> None:
        """It is not there, until it is listed and proven again."""
        self._there.discard(name)
        self._listed.pop(name, None)
        self._fresh.pop(name, None)

    async def _let_go(self, name: str) -> None:
        self._forget(name)
        gone = self._leaving[name] = asyncio.Event()  # a request that comes meanwhile has it loaded anew
        try:
            await self._registrar.unload(name)
        except ProviderError:
            return  # it is listed again, and tried again
        finally:
            del self._leaving[name]
            gone.set()
        if digest := next((digest for digest, given in self._given.items() if given == name), None):
            if digest not in self._wanted and name not in self._loads:
                del self._given[digest]
            why = "requested" if digest in self._idle else "retired"
            idle = max(0.0, time.time() - self._used.pop(digest, time.time()))
            self._events.emit(
                events.GenerationUnloaded(
                    generation=digest[:12],
                    models=self._models(digest),
                    device=self.name,
                    bytes=0,
                    why=why,
                    idle_seconds=idle,
                )
            )

    # One load.

    async def _load(self, generation: Generation, name: str) -> None:
        began = self._clock()
        try:
            if name in self._leaving:
                await self._leaving[name].wait()
            async with self._slots:
                path = self._path(generation)
                if self._listed.get(name) not in {"", path}:
                    await self._register(name, path)
                await self._prove(generation, name)
        except Refusal as refusal:
            self._forget(name)
            told = refusal.message.replace(name, generation.short)  # the name may be that of another owner
            raise self._setbacks.refused(generation, Refusal(refusal.code, told)) from refusal
        except (ProviderFailed, ProviderTimeout) as error:  # whether it is away, the next look says
            self._setbacks.refused(generation, Refusal("upstream_unreachable", error.message))
            raise
        self._listed[name] = self._fresh[name] = path
        self._there.add(name)
        self._used.setdefault(generation.digest, time.time())
        self._setbacks.forget(generation.digest)
        self._events.emit(
            events.GenerationLoaded(
                generation=generation.short,
                models=self._models(generation.digest),
                device=self.name,
                bytes=0,
                seconds=self._clock() - began,
            )
        )

    def _loaded(self, name: str, done: asyncio.Task[None]) -> None:
        del self._loads[name]
        if not done.cancelled():
            done.exception()  # who waits is told; nobody may
        self._changed.set()

    async def _register(self, name: str, path: str) -> None:
        """Under its name there is this folder's content: names have the content's digest, folders may have moved."""
        try:
            await self._registrar.load(name, path)
        except AlreadyLoaded:
            folder = next((card.root for card in await self._registrar.cards() if card.id == name), None)
            if folder in {None, "", path}:
                return
            await self._registrar.unload(name)
            await self._register_anew(name, path)

    async def _register_anew(self, name: str, path: str) -> None:
        """After an unload, and once: several servers behind one address never agree on what they have."""
        try:
            await self._registrar.load(name, path)
        except AlreadyLoaded as error:
            message = f"{self.name} has it from another folder, also after it was unloaded"
            raise Refusal("upstream_refused", message) from error

    async def _prove(self, generation: Generation, name: str) -> None:
        """Raises Refusal, and then it is not there."""
        try:
            await self._demand_unchanged(generation)
            body: dict[str, Any] = {"model": name, "cache_salt": name}
            if own := await self._template(generation):
                turns = [{"role": "user", "content": "a"}]
                await self._registrar.prove(phrasing.CHAT, body | {"messages": turns, "chat_template": own})
            else:
                await self._registrar.prove(phrasing.CONTINUED, body | {"prompt": "a"})
        except Refusal:
            await self._registrar.unload(name)
            raise

    async def _template(self, generation: Generation) -> str:
        """Its own; else empty. Raises Refusal."""
        try:
            return await self._disk.run(phrasing.template, generation)
        except LoadFailed as error:
            raise Refusal("upstream_refused", error.message) from error

    async def _demand_unchanged(self, generation: Generation) -> None:
        """What is served in place is the accepted content only if the directory is the same after the load."""
        if generation.place and not await self._disk.run(unchanged, generation.path, generation.place):
            raise Refusal("upstream_refused", "the directory, which is served in place, changed while it was loaded")

    async def _prove_again(self, generation: Generation) -> None:
        name = self.called(generation)
        try:
            await self._prove(generation, name)
        except (Refusal, ProviderError):
            self._forget(name)  # it is loaded anew

    def _path(self, generation: Generation) -> str:
        """Its folder, as the upstream finds it. Raises Refusal."""
        below = [here for here in self._spec.paths if generation.path.startswith(here.rstrip("/") + "/")]
        if not below:
            message = f"the table of {self.name} does not say where it finds {generation.path}"
            raise Refusal("upstream_path_missing", message)
        here = max(below, key=len).rstrip("/")
        return self._spec.paths[max(below, key=len)].rstrip("/") + generation.path.removeprefix(here)

    def _demand_base(self, generation: Generation) -> None:
        """Raises LoadFailed where it has another base than this generation's."""
        whole = generation.base or generation
        lora = generation.manifest.lora
        models = [lora.base] if lora else [each for each in self._models(whole.digest) if each in self._bases]
        model = next(iter(models), "")
        wanted, there = self._bases.get(model, ("", ""))
        if not whole.digest.startswith(wanted):
            refusal = Refusal("upstream_base_differs", f"{self.name} has {model}@{wanted}; live is {whole.short}")
        elif self._served is not None and there not in self._served:
            refusal = Refusal("upstream_base_missing", f"{self.name} does not serve {there}, which is to be {model}")
        else:
            return
        raise self._setbacks.refused(generation, refusal)
