"""Who may come in, and what is refused before it is read: the guard in front of every protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Set
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from gateway import events
from gateway.errors import InvalidBody
from gateway.service import Service
from gateway.tenants.caller import NOBODY, OPEN
from gateway.tenants.keyring import Keyring
from gateway.tenants.keys import Key, KeyFile, digest, new_id, new_secret
from gateway.tenants.limits import Accounts
from gateway.volume.pulls import Pulls
from gateway.web import auth, cors, errors, native
from gateway.web.asking import SERVICE
from tests.catalog.world import World
from tests.running import DEADLINE

Client = TestClient[web.Request, web.Application]
PAGE = "https://app.example"


class Door:
    """The guard, before a route that says who asks."""

    def __init__(
        self,
        base: Path,
        *,
        origins: str = "",
        lenient: bool = False,
        open_paths: Set[str] = auth.OPEN_TO_ALL,
    ) -> None:
        self.path = base / "keys.json"
        self.told: list[events.Event] = []
        tell = self.tell = events.Events()
        tell.subscribe(self.told.append)
        world = World(base)
        pulls = Pulls(world.settings, tell, spawn=world.spawn, look_again=lambda: None)
        service = Service(world.catalog, world.engine, pulls, world.settings)
        self.keyring = Keyring(str(self.path), tell)
        self.keyring.accounts = Accounts(lambda: 0.0)  # no time passes, however slow the machine is
        pages = cors.Pages(origins, lenient=lenient)
        middlewares = [
            errors.middleware(tell),
            auth.middleware(service, auth.Guard(self.keyring, pages, frozenset(open_paths))),
        ]
        self.app = web.Application(middlewares=middlewares)
        self.app.on_response_prepare.append(pages.sign)
        self.app.router.add_get("/who", self.who)
        self.app.add_routes(native.routes)

    async def who(self, request: web.Request) -> web.Response:
        caller = request[SERVICE].caller
        return native.answer({"tenant": caller.tenant, "open": caller is OPEN, "nobody": caller is NOBODY})

    def add(self, tenant: str, **more: Any) -> str:
        """A key of the tenant; `more` of its fields."""
        secret = new_secret(new_id())
        fields = {
            "id": secret.split("_")[1],
            "name": tenant,
            "tenant": tenant,
            "sha256": digest(secret),
            "created": 1.0,
        }
        KeyFile(str(self.path)).change(lambda keys: (*keys, msgspec.convert(fields | more, Key)))
        self.keyring.read()
        return secret


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path)


@pytest_asyncio.fixture
async def client(door: Door) -> AsyncIterator[Client]:
    async with TestClient(TestServer(door.app)) as it:
        yield it


async def refusal(client: Client, status: int, path: str = "/who", **headers: str) -> str:
    async with client.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()}) as answer:
        assert answer.status == status, await answer.text()
        assert (answer.headers.get("WWW-Authenticate") == 'Bearer realm="dropgate"') == (status == 401)
        return str((await answer.json())["error"]["code"])


async def tenant(client: Client, **headers: str) -> str:
    async with client.get("/who", headers={name.replace("_", "-"): value for name, value in headers.items()}) as answer:
        assert answer.status == 200, await answer.text()
        return str((await answer.json())["tenant"])


async def test_without_keys_everybody_on_this_machine_may_ask(client: Client) -> None:
    async with client.get("/who") as answer:
        assert await answer.json() == {"tenant": "", "open": True, "nobody": False}
    assert (
        await tenant(client, Authorization="Bearer whatever", Host="localhost:1", Origin="http://localhost:3000") == ""
    )


async def test_with_keys_every_request_needs_one(door: Door, client: Client) -> None:
    secret = door.add("a")
    assert await refusal(client, 401) == "unauthenticated"
    assert await refusal(client, 401, "/models") == "unauthenticated"
    assert await refusal(client, 401, "/no/such/route") == "unauthenticated"
    assert await tenant(client, Authorization=f"Bearer {secret}") == "a"
    assert await tenant(client, Authorization=f"bearer  {secret} ") == "a"
    assert await tenant(client, X_API_Key=secret) == "a"
    assert await tenant(client, Authorization="Basic eDp5", X_API_Key=secret) == "a"


@pytest.mark.parametrize("text", ["x", "dg_0123456789ab_" + "a" * 43, "", "Bearer", "ä" * 10])
async def test_what_is_no_key_does_not_open(door: Door, client: Client, text: str) -> None:
    secret = door.add("a")
    assert await refusal(client, 401, Authorization=f"Bearer {text}") == "unauthenticated"
    assert await refusal(client, 401, X_API_Key=text) == "unauthenticated"
    assert await refusal(client, 401, Authorization=secret) == "unauthenticated"  # no scheme


async def test_a_refused_key_stands_in_no_answer_and_no_event(door: Door, client: Client) -> None:
    door.add("a")
    wrong = new_secret(new_id())
    async with client.get("/who", headers={"X-API-Key": wrong}) as answer:
        assert wrong not in await answer.text()
    assert wrong not in str(door.told)


async def test_whether_it_is_alive_and_ready_needs_no_key_and_is_asked_by_nobody(door: Door, client: Client) -> None:
    door.add("a")
    for path in ("/healthz", "/readyz"):
        async with client.get(path) as answer:
            assert answer.status in {200, 503}
            assert "error" not in await answer.json()


async def test_the_log_line_of_a_request_has_its_tenant_and_its_keys_id(door: Door, client: Client) -> None:
    secret = door.add("a")
    await tenant(client, X_API_Key=secret)
    (line,) = [event for event in door.told if isinstance(event, events.RequestFinished)]
    assert (line.tenant, line.key) == ("a", secret.split("_")[1])


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8001", "10.0.0.1", "localhost.evil.example", "[fe80::1]"]
)
async def test_without_keys_a_name_that_is_not_this_machine_is_refused(client: Client, host: str) -> None:
    assert await refusal(client, 403, Host=host) == "foreign_origin"


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil.example", "http://["])
async def test_without_keys_a_foreign_web_page_is_refused(client: Client, origin: str) -> None:
    assert await refusal(client, 403, Origin=origin) == "foreign_origin"


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:9", "127.0.0.1:8001", "127.1.2.3", "[::1]:8001", "a.localhost"]
)
async def test_without_keys_every_name_of_this_machine_will_do(client: Client, host: str) -> None:
    assert await tenant(client, Host=host) == ""


async def test_who_has_a_key_may_call_the_gateway_by_any_name(door: Door, client: Client) -> None:
    secret = door.add("a")
    assert await tenant(client, X_API_Key=secret, Host="gateway.example", Origin=PAGE) == "a"


async def test_insecure_asks_for_no_names(tmp_path: Path) -> None:
    async with TestClient(TestServer(Door(tmp_path, lenient=True).app)) as client:
        assert await tenant(client, Host="gateway.example", Origin=PAGE) == ""


@pytest_asyncio.fixture
async def paged(tmp_path: Path) -> AsyncIterator[tuple[Door, Client]]:
    door = Door(tmp_path, origins=PAGE)
    async with TestClient(TestServer(door.app)) as client:
        yield door, client


async def test_a_listed_page_may_ask_and_read_the_answer_also_when_it_is_a_refusal(paged: tuple[Door, Client]) -> None:
    door, client = paged
    secret = door.add("a")
    for headers, status in (({"X-API-Key": secret}, 200), ({}, 401)):
        async with client.get("/who", headers={"Origin": PAGE, **headers}) as answer:
            assert answer.status == status
            assert answer.headers["Access-Control-Allow-Origin"] == PAGE
            assert "Origin" in answer.headers["Vary"]
            assert "X-Model-Generation" in answer.headers["Access-Control-Expose-Headers"]
            assert "Access-Control-Allow-Credentials" not in answer.headers


async def test_a_preflight_of_a_listed_page_needs_no_key(paged: tuple[Door, Client]) -> None:
    door, client = paged
    door.add("a")
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    wanted = {"Access-Control-Request-Headers": "authorization,content-type"}
    async with client.options("/models/x/load", headers=asked | wanted) as answer:
        assert answer.status == 204
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
        assert "POST" in answer.headers["Access-Control-Allow-Methods"]
        assert answer.headers["Access-Control-Allow-Headers"] == "authorization,content-type"


@pytest.mark.parametrize("origin", ["https://other.example", "https://app.example.evil", "null", ""])
async def test_a_page_that_is_not_listed_gets_no_leave(paged: tuple[Door, Client], origin: str) -> None:
    door, client = paged
    door.add("a")
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    async with client.options("/models/x/load", headers=asked) as answer:
        assert answer.status == 401
        assert "Access-Control-Allow-Origin" not in answer.headers


async def test_no_page_gets_leave_where_none_is_listed(client: Client) -> None:
    async with client.get("/who", headers={"Origin": "http://localhost:3000"}) as answer:
        assert not [name for name in answer.headers if name.startswith("Access-Control")]


class Busy:
    """A route whose requests wait until they are let go, and count as so many tokens."""

    def __init__(self, door: Door) -> None:
        self.go = asyncio.Event()
        self.begun = asyncio.Semaphore(0)
        door.app.router.add_get("/busy", self.busy)

    async def busy(self, request: web.Request) -> web.Response:
        self.begun.release()
        await self.go.wait()
        request[errors.LINE]["tokens"] = 100
        if "fail" in request.query:
            raise InvalidBody("it is none")
        return web.Response()


async def limited(client: Client, secret: str, path: str = "/who") -> tuple[int, str, int]:
    """Status, code and Retry-After."""
    async with client.get(path, headers={"X-API-Key": secret}) as answer:
        code = (await answer.json())["error"]["code"] if answer.status != 200 else ""
        return answer.status, code, int(answer.headers.get("Retry-After", 0))


async def test_a_key_over_its_requests_is_told_when_to_come_back_and_others_are_not(door: Door, client: Client) -> None:
    one, other = door.add("a", requests_per_minute=2), door.add("b", requests_per_minute=1)
    assert (await limited(client, one))[0] == 200
    assert (await limited(client, one, "/no/such/route"))[0] == 404  # is asked for, and counts
    status, code, wait = await limited(client, one)
    assert (status, code) == (429, "rate_limited")
    assert wait == 30
    assert (await limited(client, other))[0] == 200
    async with client.get("/healthz", headers={"X-API-Key": one}) as answer:
        assert answer.status == 200


async def test_so_many_requests_of_a_key_at_once_and_a_client_that_leaves_makes_room(door: Door) -> None:
    busy = Busy(door)
    async with TestClient(TestServer(door.app, handler_cancellation=True)) as client:
        one, other = door.add("a", concurrency=1), door.add("b", concurrency=1)
        first = asyncio.create_task(limited(client, one, "/busy"))
        await busy.begun.acquire()
        assert await limited(client, one, "/busy") == (429, "too_many_in_flight", 1)
        second = asyncio.create_task(limited(client, other, "/busy"))
        await busy.begun.acquire()
        first.cancel()
        await asyncio.wait({first})
        async with asyncio.timeout(DEADLINE):  # the server hears of it a little later
            while (await limited(client, one))[0] == 429:
                await asyncio.sleep(0)
        busy.go.set()
        assert (await second)[0] == 200


@pytest.mark.parametrize("how", ["/busy", "/busy?fail"])
async def test_tokens_that_were_computed_are_charged_whatever_came_of_the_request(door: Door, how: str) -> None:
    busy = Busy(door)
    busy.go.set()
    async with TestClient(TestServer(door.app)) as client:
        secret = door.add("a", tokens_per_minute=60)
        await limited(client, secret, how) if "?" not in how else await client.get(how, headers={"X-API-Key": secret})
        status, code, wait = await limited(client, secret)
        assert (status, code) == (429, "rate_limited")
        assert wait == 41  # 40 tokens and the next one, at one a second
