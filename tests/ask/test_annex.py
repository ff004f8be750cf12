"""Language models at an upstream, without a gateway around: what is there follows what is to be there."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from gateway import events
from gateway.ask.annex import Annex
from gateway.ask.elsewhere import Elsewhere
from gateway.ask.registrar import Registrar
from gateway.ask.specs import Adapters, Key, Spec, specs
from gateway.ask.upstream import Upstream
from gateway.errors import GatewayError, LoadFailed, ProviderFailed, ProviderUnavailable
from gateway.host.wire import Piece, Sampling, Turn
from gateway.model import Generation, Lora, Manifest
from gateway.settings import Settings, SettingsError
from tests.ask.vllm import BASE, Vllm, digest

BASES = {"base/tiny": BASE}
VOICE = Lora(base="base/tiny", rank=4, alpha=8)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Nothing:
    """The engine of a machine that runs nothing."""

    ready = True

    def __init__(self) -> None:
        self.kept: set[str] = set()

    def keep(self, live: Sequence[Generation], pinned: Sequence[Generation]) -> None:
        self.kept = {each.digest for each in live}

    def residences(self) -> dict[str, list[Any]]:
        return {}


def manifest(kind: str, lora: Lora | None) -> Manifest:
    return Manifest(
        kind=kind,  # type: ignore[arg-type]
        library="transformers",
        model_type="qwen2",
        architecture="Qwen2ForCausalLM",
        dim=64,
        max_tokens=256,
        vocab_size=300,
        transformer_path="",
        tokenizer_path="",
        stages=(),
        weights=(),
        files=(),
        parameters=1,
        stored_bytes=4,
        stored_dtype="float32",
        lora=lora,
    )


class Place:
    """An annex with its upstream; generations are made on the spot, and `models` says whose they are."""

    def __init__(self, root: Path, server: Vllm, session: aiohttp.ClientSession, **adapters: Any) -> None:
        self.root, self.server, self.clock = root, server, Clock()
        (root / "there").symlink_to(root)
        self.models: dict[str, tuple[str, ...]] = {}
        self.told: list[events.Event] = []
        self.looked = True
        self._adapters = {"bases": BASES, "paths": {str(root): str(root / "there")}, **adapters}
        self._session = session
        self.base = self.generation("base", "base/tiny", lora=None)
        self.annex, self.engine = self.gateway()

    def gateway(self) -> tuple[Annex, Elsewhere]:
        """Another life of it."""
        spec = Spec(base_url=self.server.url, adapters=Adapters(**self._adapters))
        assert spec.adapters is not None
        tell = events.Events()
        tell.subscribe(self.told.append)
        upstream = Upstream("vllm", spec, Key(str), lambda: self._session, sleep=self._sleep)
        registrar = Registrar("vllm", spec, spec.adapters, upstream.headers, lambda: self._session)
        annex = Annex(
            upstream,
            registrar,
            spec.adapters,
            tell=tell,
            names=lambda digest: self.models.get(digest, ()),
            looked=lambda: self.looked,
            clock=self.clock,
        )
        return annex, Elsewhere(Nothing(), [annex])  # type: ignore[arg-type]

    async def _sleep(self, seconds: float) -> None:
        """No time passes."""

    def generation(self, content: str, *models: str, rank: int = 4, lora: Lora | None = VOICE) -> Generation:
        path = self.root / "generations" / content
        path.mkdir(parents=True, exist_ok=True)
        (path / "adapter_config.json").write_text(json.dumps({"r": rank}))
        (path / "adapter_model.safetensors").write_bytes(content.encode())
        name = hashlib.sha256(content.encode()).hexdigest()
        self.models[name] = models
        return Generation(name, str(path), manifest("generator", lora), base=self.base if lora else None)

    def keep(self, *generations: Generation) -> None:
        self.engine.keep([self.base, *generations], [])

    async def ask(self, generation: Generation, text: str = "a b", turns: Sequence[Turn] = (), flow: str = "t") -> str:
        said: list[Piece] = []
        sampling = Sampling(max_tokens=2)
        await self.engine.generate(generation, text, list(turns), sampling, said.append, flow=flow)
        assert said[-1].finish == "length"
        assert (said[-1].prompt, said[-1].tokens) == (len(text.split()), 2) or turns
        return "".join(piece.text for piece in said).split()[0]

    def reason(self, generation: Generation) -> str:
        residence = self.engine.residences()[generation.digest][0]
        return residence.reason.code if residence.reason else residence.state

    def heard(self, kind: type[events.Event]) -> int:
        return sum(isinstance(event, kind) for event in self.told)


def name(generation: Generation, model: str) -> str:
    return f"{model}@{generation.short}"


@asynccontextmanager
async def placed(root: Path, server: Vllm, **adapters: Any) -> AsyncIterator[Place]:
    async with aiohttp.ClientSession() as session:
        yield Place(root, server, session, **adapters)


@pytest_asyncio.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with Vllm() as server, placed(tmp_path, server) as found:
        yield found


async def test_what_is_kept_is_loaded_and_what_is_not_is_unloaded_however_often_it_is_looked_at(place: Place) -> None:
    one, two = place.generation("one", "a/one"), place.generation("two", "b/two")
    place.keep(one, two)
    for _ in range(3):
        await place.annex.reconcile()
    assert set(place.server.adapters) == {name(one, "a/one"), name(two, "b/two")}
    assert len(place.server.calls) == 2
    assert place.reason(one) == place.reason(place.base) == "loaded"
    place.keep(two)
    for _ in range(3):
        await place.annex.reconcile()
    assert set(place.server.adapters) == {name(two, "b/two")}
    assert len(place.server.calls) == 3
    assert await place.ask(two) == digest(two.path)


async def test_requests_that_come_before_the_first_look_load_it_once(place: Place) -> None:
    one = place.generation("one", "a/one")
    place.keep(one)
    assert set(await asyncio.gather(*(place.ask(one) for _ in range(9)))) == {digest(one.path)}
    assert place.server.loads(name(one, "a/one")) == 1
    assert place.heard(events.GenerationLoaded) == 1


async def test_a_caller_that_leaves_ends_nobody_elses_load(place: Place) -> None:
    one = place.generation("one", "a/one")
    place.keep(one)
    leaving = asyncio.create_task(place.ask(one))
    staying = asyncio.create_task(place.ask(one))
    while not place.server.calls:
        await asyncio.sleep(0)
    leaving.cancel()
    assert await staying == digest(one.path)


async def test_what_runs_is_not_unloaded_before_it_has_ended(place: Place) -> None:
    old, new = place.generation("old", "a/one"), place.generation("new", "a/one")
    place.keep(old)
    answer = asyncio.create_task(place.ask(old, "wait for"))
    await place.server.waiting.wait()
    place.keep(new)
    await place.annex.reconcile()
    assert set(place.server.adapters) == {name(old, "a/one"), name(new, "a/one")}
    assert await place.ask(new) == digest(new.path)
    place.server.gate.set()
    assert await answer == digest(old.path)
    await place.annex.reconcile()
    assert set(place.server.adapters) == {name(new, "a/one")}


async def test_an_upstream_that_forgot_an_adapter_is_given_it_and_asked_again(place: Place) -> None:
    one = place.generation("one", "a/one")
    place.keep(one)
    await place.annex.reconcile()
    await place.server.stop()
    await place.server.start()
    assert set(await asyncio.gather(*(place.ask(one) for _ in range(5)))) == {digest(one.path)}
    assert place.server.loads(name(one, "a/one")) == 2


async def test_an_upstream_that_forgets_whatever_it_is_given_fails_the_request(place: Place) -> None:
    one = place.generation("one", "a/one")
    place.keep(one)
    await place.annex.reconcile()
    place.server.forgets = True
    with pytest.raises(ProviderFailed) as failure:
        await place.ask(one)
    assert "a/one" not in failure.value.message  # it may be another tenant's name of the same content


async def test_an_upstream_that_is_not_there_is_looked_for_with_longer_and_longer_pauses(place: Place) -> None:
    one = place.generation("one", "a/one")
    place.keep(one)
    await place.server.stop()
    waits = []
    for _ in range(7):
        await place.annex.reconcile()
        with pytest.raises(ProviderUnavailable) as failure:
            await place.ask(one)
        assert failure.value.retry_after is not None
        waits.append(failure.value.retry_after)
        place.clock.now += failure.value.retry_after
    assert waits == [1, 2, 4, 8, 16, 30, 30]
    assert place.reason(one) == "upstream_unreachable"
    assert place.heard(events.UpstreamLost) == 1
    await place.server.start()
    await place.annex.reconcile()
    assert place.reason(one) == "loaded"
    assert place.heard(events.UpstreamFound) == 1
    assert await place.ask(one) == digest(one.path)


async def test_what_is_refused_is_tried_again_later_and_healed_by_a_load(place: Place) -> None:
    wide = place.generation("wide", "a/wide", rank=64)
    place.keep(wide)
    await place.annex.reconcile()
    assert place.reason(wide) == "upstream_refused"
    for _ in range(3):
        await place.annex.reconcile()
        with pytest.raises(LoadFailed, match="rank 64"):
            await place.ask(wide)
    assert place.server.loads(name(wide, "a/wide")) == place.heard(events.LoadFailed) == 1
    assert place.engine.quarantined(wide.digest) == 5.0
    place.clock.now += 5
    await place.annex.reconcile()
    assert place.server.loads(name(wide, "a/wide")) == 2
    assert place.engine.quarantined(wide.digest) == 10.0
    place.server.max_rank = 64
    await place.engine.load(wide)
    assert place.reason(wide) == "loaded"


async def test_an_upstream_that_was_started_with_what_was_missing_is_not_waited_for(place: Place) -> None:
    wide = place.generation("wide", "a/wide", rank=64)
    place.keep(wide)
    await place.annex.reconcile()
    await place.server.stop()
    await place.annex.reconcile()
    place.server.max_rank = 64
    await place.server.start()
    await place.annex.reconcile()
    assert place.reason(wide) == "loaded"


@pytest.mark.parametrize(("status", "code"), [(401, "upstream_refused"), (0, "upstream_unreachable")])
async def test_a_load_that_fails_where_the_list_does_not_is_tried_again_later(
    place: Place, status: int, code: str
) -> None:
    one, wide = place.generation("one", "a/one"), place.generation("wide", "a/wide", rank=64)
    place.keep(wide)
    await place.annex.reconcile()
    place.keep(one, wide)
    place.server.loading = status
    for _ in range(3):
        await place.annex.reconcile()
    assert (place.reason(one), place.reason(wide)) == (code, "upstream_refused")
    assert (place.server.loads(name(one, "a/one")), place.server.loads(name(wide, "a/wide"))) == (1, 1)
    assert place.heard(events.UpstreamLost) == 0
    with pytest.raises(LoadFailed):
        await place.ask(one)
    place.server.loading = 200
    place.clock.now += 5
    await place.annex.reconcile()
    assert place.reason(one) == "loaded"


async def test_a_template_that_cannot_be_read_is_tried_again_later(place: Place) -> None:
    one = place.generation("one", "a/one", lora=Lora(base="base/tiny", rank=4, alpha=8, own_template=True))
    place.keep(one)
    for _ in range(3):
        await place.annex.reconcile()
    assert place.reason(one) == "upstream_refused"
    assert place.server.calls == [("load", name(one, "a/one")), ("unload", name(one, "a/one"))]


async def test_what_loads_and_does_not_answer_is_not_there(place: Place) -> None:
    one = place.generation("one", "a/one")
    place.server.broken.add(digest(one.path))
    place.keep(one)
    with pytest.raises(LoadFailed, match="does not answer"):
        await place.engine.load(one)
    assert not place.server.adapters
    place.server.broken.clear()
    await place.engine.load(one)
    place.server.broken.add(digest(one.path))  # it was there, and an operator wants it proven
    with pytest.raises(LoadFailed):
        await place.engine.load(one)


async def test_a_name_that_is_there_already_is_taken_for_what_it_is(place: Place) -> None:
    one, two = place.generation("one", "a/one"), place.generation("two", "a/two")
    place.keep(one, two)
    place.server.adapters[name(one, "a/one")] = str(place.root / "there/generations/one"), digest(one.path)
    place.server.adapters[name(two, "a/two")] = "/an/older/mount/two", "what it was"
    await place.engine.load(one)
    await place.engine.load(two)
    assert place.server.calls.count(("unload", name(one, "a/one"))) == 0
    assert (await place.ask(one), await place.ask(two)) == (digest(one.path), digest(two.path))


async def test_what_is_loaded_from_elsewhere_and_does_not_go_is_refused(place: Place) -> None:
    one = place.generation("one", "a/one")
    place.keep(one)
    place.server.balanced = True
    place.server.adapters[name(one, "a/one")] = "/elsewhere", "what it was"
    with pytest.raises(LoadFailed, match="another folder"):
        await place.engine.load(one)
    assert place.reason(one) == "upstream_refused"
    assert place.server.loads(name(one, "a/one")) == 2


@pytest.mark.parametrize(
    "told",
    [b'{"data": [{"id": "org/Tiny \xff"}]}', b'{"data": [], "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", b"no"],
    ids=["not UTF-8", "too deep", "no JSON"],
)
async def test_a_list_that_cannot_be_read_is_an_upstream_that_is_away(place: Place, told: bytes) -> None:
    one = place.generation("one", "a/one")
    place.keep(one)
    place.server.lists = told
    await place.annex.reconcile()
    assert place.reason(one) == "upstream_unreachable"
    place.server.lists = None
    await place.annex.reconcile()
    assert place.reason(one) == "loaded"


async def test_the_next_life_of_a_gateway_finds_what_it_had_and_removes_what_is_no_more(place: Place) -> None:
    one, gone = place.generation("one", "a/one"), place.generation("gone", "a/gone")
    place.keep(one, gone)
    await place.annex.reconcile()
    place.models[one.digest] = ("z/first", "a/one")  # the order of owners says nothing
    calls = len(place.server.calls)
    place.annex, place.engine = place.gateway()
    place.looked = False
    place.keep(one)
    await place.annex.reconcile()
    assert len(place.server.calls) == calls  # nothing is taken away before the volume was looked at
    place.looked = True
    await place.annex.reconcile()
    assert set(place.server.adapters) == {name(one, "a/one")}
    assert await place.ask(one) == digest(one.path)
    assert place.server.loads(name(one, "a/one")) == 1


async def test_what_is_loaded_without_an_answer_is_proven_before_anybody_uses_it(place: Place) -> None:
    one, bad = place.generation("one", "a/one"), place.generation("bad", "a/bad")
    place.keep(one, bad)
    place.server.broken.add(digest(bad.path))
    place.server.loses = True
    await place.annex.reconcile()
    assert set(place.server.adapters) == {name(one, "a/one"), name(bad, "a/bad")}
    await place.annex.reconcile()
    for each in (one, bad):
        assert place.reason(each) == "upstream_unreachable"
        with pytest.raises(LoadFailed):
            await place.ask(each)
    place.server.loses = False
    place.clock.now += 5
    await place.annex.reconcile()
    assert (place.reason(one), place.reason(bad)) == ("loaded", "upstream_refused")
    assert await place.ask(one) == digest(one.path)
    assert set(place.server.adapters) == {name(one, "a/one")}
    assert place.server.loads(name(one, "a/one")) == 1


async def test_what_an_earlier_life_had_and_does_not_answer_is_loaded_anew(place: Place) -> None:
    one = place.generation("one", "a/one")
    place.keep(one)
    await place.annex.reconcile()
    place.server.broken.add(digest(one.path))
    place.annex, place.engine = place.gateway()
    place.keep(one)
    await place.annex.reconcile()
    assert place.reason(one) == "upstream_refused"
    place.server.broken.clear()
    place.clock.now += 5
    await place.annex.reconcile()
    assert place.reason(one) == "loaded"
    assert place.server.loads(name(one, "a/one")) == 2


async def test_what_an_operator_unloads_comes_back_when_it_is_asked_for(place: Place) -> None:
    one = place.generation("one", "a/one")
    place.keep(one)
    await place.annex.reconcile()
    await place.engine.unload(one.digest)
    await place.annex.reconcile()
    await place.annex.reconcile()
    assert not place.server.adapters
    assert await place.ask(one) == digest(one.path)
    await place.annex.reconcile()
    assert place.server.adapters


@pytest.mark.parametrize(
    ("adapters", "code"),
    [
        ({"paths": {}}, "upstream_path_missing"),
        ({"paths": {"/": "/not/mounted"}}, "upstream_path_missing"),
        ({"bases": {"base/tiny": "org/Other"}}, "upstream_base_missing"),
        ({"bases": {"base/tiny@0123456789ab": BASE}}, "upstream_base_differs"),
    ],
)
async def test_a_table_that_does_not_fit_says_what_to_correct(
    tmp_path: Path, adapters: dict[str, Any], code: str
) -> None:
    async with Vllm() as server, placed(tmp_path, server, **adapters) as place:
        one = place.generation("one", "a/one")
        place.keep(one)
        await place.annex.reconcile()
        assert place.reason(one) == code
        with pytest.raises(LoadFailed):
            await place.ask(one)
        assert not server.adapters


async def test_a_base_of_the_generation_that_the_table_names_is_served(tmp_path: Path) -> None:
    short = hashlib.sha256(b"base").hexdigest()[:12]
    async with Vllm() as server, placed(tmp_path, server, bases={f"base/tiny@{short}": BASE}) as place:
        one = place.generation("one", "a/one")
        place.keep(one)
        assert (await place.ask(one), await place.ask(place.base)) == (digest(one.path), "base")


async def test_an_upstream_that_loads_nothing_while_it_runs_says_so(tmp_path: Path) -> None:
    async with Vllm(updates=False) as server, placed(tmp_path, server) as place:
        one = place.generation("one", "a/one")
        place.keep(one)
        await place.annex.reconcile()
        assert place.reason(one) == "upstream_without_adapters"
        assert await place.ask(place.base) == "base"


async def test_an_adapters_own_template_is_sent_along(place: Place) -> None:
    one = place.generation("one", "a/one", lora=Lora(base="base/tiny", rank=4, alpha=8, own_template=True))
    Path(one.path, "chat_template.jinja").write_text("{{ messages }}")
    place.keep(one)
    await place.ask(one, turns=[Turn("user", "x")])
    assert [body.get("chat_template") for body in place.server.asked] == ["{{ messages }}"] * 2  # the proof, too


async def test_what_a_tenant_asks_is_in_no_other_tenants_prefix_cache(place: Place) -> None:
    one = place.generation("one", "shared/one")
    place.keep(one)
    for flow in ("a", "b", "c"):
        await place.ask(one, "a secret", flow=flow)
    assert place.server.cached == []
    await place.ask(one, "a secret", flow="a")
    assert place.server.cached == ["a secret"]
    _, other = place.gateway()
    other.keep([place.base, one], [])
    place.engine = other
    await place.ask(one, "a secret", flow="a")
    assert place.server.cached.count("a secret") == 1  # nobody can make a salt of a name


async def test_what_is_not_at_the_upstream_is_this_machines(place: Place) -> None:
    one, other = place.generation("one", "a/one"), place.generation("encoder", "a/encoder", lora=None)
    local = Nothing()
    engine = Elsewhere(local, [place.annex])  # type: ignore[arg-type]
    engine.keep([place.base, one, other], [])
    assert local.kept == {other.digest}


@pytest.mark.parametrize(
    "table",
    [
        '[a]\nbase_url = "http://x/v1"\nmodels = ["a/b@0123456789ab"]\n[a.adapters]\nbases = {"base/t" = "T"}',
        '[a]\nbase_url = "http://x/v1"\n[a.adapters]\nbases = {"../t" = "T"}',
        '[a]\nbase_url = "http://x/v1"\n[a.adapters]\nbases = {"base/t" = "T"}\nfolders = 1',
        '[a]\nbase_url = "http://x/v1"\n[a.adapters]\nbases = {"base/t" = "T"}\n'
        '[b]\nbase_url = "http://x/v1"\n[b.adapters]\nbases = {"base/t@012345" = "T"}',
    ],
)
def test_a_table_that_is_wrong_ends_the_start(tmp_path: Path, table: str) -> None:
    file = tmp_path / "providers.toml"
    file.write_text(table)
    with pytest.raises(SettingsError, match="--providers"):
        specs(Settings(providers=str(file)))


async def test_no_client_names_an_adapter_of_the_upstream(place: Place) -> None:
    one = place.generation("one", "a/one")
    place.keep(one)
    await place.annex.reconcile()
    assert await place.annex.upstream.models() == (BASE,)
    with pytest.raises(GatewayError) as failure:
        await place.annex.upstream.complete({"messages": []}, name(one, "a/one"))
    assert failure.value.code == "provider_model_not_found"
    assert failure.value.message == f"vllm has no model '{name(one, 'a/one')}'; it has {BASE}"
