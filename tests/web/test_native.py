"""What the protocol does where a running gateway gives no hold: before the first look, and with no host."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

from gateway import events
from gateway.ask.roster import Roster
from gateway.catalog.catalog import Catalog
from gateway.engine.engine import DeviceState, Residence, Vectors
from gateway.errors import HostFailed, InvalidBody, InvalidJson
from gateway.host.wire import Options
from gateway.model import Generation
from gateway.service import Service
from gateway.settings import Settings
from gateway.tenants.keyring import Keyring
from gateway.volume.generations import Store
from gateway.volume.pulls import Pulls
from gateway.volume.settle import Snapshot
from gateway.web import asking, auth, cors, errors, native
from gateway.web.body import decode
from gateway.web.native import EmbedBody
from tests.running import DEADLINE

Client = TestClient[web.Request, web.Application]
DECODER = msgspec.json.Decoder(EmbedBody)


class NoHost:
    """An engine whose host is down, until `ready` is set; it never runs anything."""

    ready = False

    async def embed(
        self,
        generation: Generation,
        texts: list[str],
        options: Options,
        deadline: float | None = None,
        *,
        flow: str = "",
    ) -> Vectors:
        raise HostFailed("no host", retry_after=5.0)

    async def load(self, generation: Generation) -> None:
        raise HostFailed("no host", retry_after=5.0)

    async def unload(self, digest: str) -> None: ...

    def keep(self, live: Collection[Generation], pinned: Collection[Generation]) -> None: ...

    def fits_beside(self, generation: Generation, digest: str) -> bool:
        return True

    def residences(self) -> dict[str, list[Residence]]:
        return {}

    def quarantined(self, digest: str) -> float | None:
        return None

    def devices(self) -> list[DeviceState]:
        return [DeviceState("cpu", self.ready, None, 0, 0, 0, 0, 0)]


class Young:
    """A gateway over an empty volume that it has not looked at yet."""

    def __init__(self, base: str) -> None:
        tell = events.Events()
        self.engine = NoHost()
        self.asked = asyncio.Event()  # the catalog wants another look
        settings = Settings(models_dir=base, state_dir=f"{base}/state")
        self.catalog = Catalog(
            settings,
            Store(settings.state_dir),
            self.engine,
            tell,
            spawn=asyncio.get_running_loop().create_task,
            look_again=lambda model: self.asked.set(),
        )
        pulls = Pulls(settings, tell, spawn=lambda work: pytest.fail("nothing is pulled"), look_again=lambda: None)
        self.service = Service(self.catalog, self.engine, pulls, settings)
        guard = auth.Guard(Keyring(f"{base}/keys.json", tell), cors.Pages("", lenient=False))
        self.app = web.Application(middlewares=[errors.middleware(tell), auth.middleware(self.service, guard)])
        self.app[asking.ROSTER] = Roster({})
        self.app.add_routes(native.routes)

    async def look(self) -> None:
        """Looks until the catalog wants no other look: aliases.toml is looked for in the background."""
        nothing = Snapshot(observations={}, removed=frozenset(), due=None)
        self.catalog.reconcile(nothing)
        await asyncio.wait_for(self.asked.wait(), DEADLINE)
        self.catalog.reconcile(nothing)


@pytest.fixture
async def young(tmp_path_factory: pytest.TempPathFactory) -> Young:
    return Young(str(tmp_path_factory.mktemp("young")))


@pytest.fixture
async def client(young: Young, aiohttp_client: Callable[[web.Application], Awaitable[Client]]) -> Client:
    return await aiohttp_client(young.app)


async def readiness(client: Client) -> tuple[int, dict[str, bool], bool]:
    async with client.get("/readyz") as answer:
        body = await answer.json()
        assert body["ready"] == all(body["checks"].values()) == (answer.status == 200)
        return answer.status, body["checks"], "Retry-After" in answer.headers


async def test_a_gateway_is_ready_once_it_has_looked_and_a_host_is_up(young: Young, client: Client) -> None:
    neither = {"volume": False, "host": False, "not_draining": True}
    assert await readiness(client) == (503, neither, True)
    await young.look()
    assert await readiness(client) == (503, neither | {"volume": True}, True)
    young.engine.ready = True
    assert await readiness(client) == (200, {"volume": True, "host": True, "not_draining": True}, False)
    await young.service.drain()
    assert await readiness(client) == (503, {"volume": True, "host": True, "not_draining": False}, True)


async def test_it_is_alive_before_it_is_ready(client: Client) -> None:
    async with client.get("/healthz") as answer:
        assert (answer.status, await answer.json()) == (200, {"status": "ok"})


async def test_before_the_first_look_an_unknown_model_may_yet_come(young: Young, client: Client) -> None:
    async with client.post("/embed", json={"inputs": "x", "model": "physics"}) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (503, "starting")
        assert answer.headers["Retry-After"] == "1"
    await young.look()
    async with client.post("/embed", json={"inputs": "x", "model": "physics"}) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (404, "model_not_found")


async def test_an_empty_volume_is_listed_as_empty(young: Young, client: Client) -> None:
    await young.look()
    async with client.get("/models") as answer:
        assert await answer.json() == {"models": [], "aliases": [], "ignored": []}
    for older in ("embeddings", "finetuned"):
        async with client.get(f"/models/{older}") as answer:
            assert await answer.json() == {"models": []}


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b"[]", None),
        (b'{"inputs": 3}', "inputs"),
        (b'{"inputs": ["a", null]}', "inputs[1]"),
        (b'{"dimensions": true}', "dimensions"),
        (b'{"dimensions": 9223372036854775808}', "dimensions"),
    ],
)
def test_a_wrong_type_names_its_field(raw: bytes, field: str | None) -> None:
    with pytest.raises(InvalidBody) as refused:
        decode(DECODER, raw)
    assert refused.value.details == {"field": field}
    assert "`" in refused.value.message or field
    assert " - at " not in refused.value.message


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b'{"inputs": "\xff"}', b'{"inputs": "a" "b"}'])
def test_what_does_not_parse_is_no_json(raw: bytes) -> None:
    with pytest.raises(InvalidJson, match="not JSON"):
        decode(DECODER, raw)


def test_only_what_is_given_is_set() -> None:
    body = decode(DECODER, b'{"inputs": ["a"], "unknown": {"x": [1]}}')
    assert body == EmbedBody(inputs=["a"])
    assert body.texts is msgspec.UNSET
