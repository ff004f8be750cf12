"""Language models of the volume at an upstream: what clients see, whatever happens there."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio

from tests.ask.vllm import BASE, Vllm, digest
from tests.e2e.clients import drop
from tests.e2e.test_tenants import gateway_command
from tests.running import DEADLINE, GLANCE, RunningGateway
from tests.speaking import language_model, voice

ACME: Final = "huggingface:trained/acme"
TURNS: Final = [{"role": "user", "content": "who keeps the keys?"}]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, three adapters of it, and one whose rank is higher than the upstream takes."""
    root = tmp_path_factory.mktemp("made")
    base = language_model(root / "tiny", endings=False)
    for seed in (1, 2, 3):
        voice(root / str(seed), base, seed=seed)
    voice(root / "wide", base, seed=4, r=32)
    return root


class Place:
    """A volume with a base and an adapter, and an upstream that finds the gateway's copies under another path."""

    def __init__(self, base: Path, made: Path, server: Vllm, *, more: str = "", interval: float = 0.2) -> None:
        self.models, self.state, self._made, self.server = base / "models", base / "state", made, server
        (self.state / "generations").mkdir(parents=True)
        (base / "there").symlink_to(self.state / "generations")
        self.copy("tiny", "base/tiny")
        self.copy("1", "trained/acme")
        self.file = base / "providers.toml"
        self.file.write_text(
            f'[vllm]\nbase_url = "{server.url}"\n{more}[vllm.adapters]\nbases = {{"base/tiny" = "{BASE}"}}\n'
            f'paths = {{"{self.state}/generations" = "{base}/there"}}\ninterval = {interval}\n'
        )
        self.gateway = RunningGateway(self.models, self.state, "--device=cpu", f"--providers={self.file}")

    def copy(self, source: str, model: str) -> None:
        drop(self._made / source, self.models / model)

    def says(self, source: str) -> str:
        return digest(self._made / source)

    async def listed(self, is_so: Callable[[dict[str, Any]], bool], model: str = ACME) -> dict[str, Any]:
        """The model's listing once it is so."""
        async with asyncio.timeout(DEADLINE):
            while True:
                found = (await self.gateway.models()).get(model)
                if found is not None and is_so(found):
                    return found
                await asyncio.sleep(GLANCE)

    async def there(self, *generations: str) -> None:
        """Until the upstream has the adapters of these generations, and no others."""
        async with asyncio.timeout(DEADLINE):
            while {name.partition("@")[2] for name in self.server.adapters} != set(generations):
                await asyncio.sleep(GLANCE)

    async def post(self, route: str, headers: dict[str, str] | None = None, **body: Any) -> tuple[int, Any]:
        async with self.gateway.session.post(route, json=body, headers=headers) as answer:
            return answer.status, await answer.json()

    async def chat(self, model: str = ACME, **more: Any) -> tuple[int, Any]:
        return await self.post("/v1/chat/completions", model=model, messages=TURNS, max_tokens=2, **more)

    async def stream(self, prompt: str) -> AsyncIterator[str]:
        body = {"model": "trained/acme", "prompt": prompt, "max_tokens": 4, "stream": True}
        async with self.gateway.session.post("/v1/completions", json=body) as answer:
            assert answer.status == 200, await answer.text()
            async for line in answer.content:
                if line.startswith(b"data: {"):
                    found = json.loads(line[6:])
                    assert "error" not in found, found
                    yield "".join(choice["text"] for choice in found["choices"])


def answered(found: tuple[int, Any]) -> str:
    status, body = found
    assert status == 200, body
    return str(body["choices"][0]["message"]["content"]).strip()


@pytest_asyncio.fixture
async def place(tmp_path: Path, made: Path) -> AsyncIterator[Place]:
    async with Vllm() as server:
        found = Place(tmp_path, made, server)
        async with found.gateway:
            await found.listed(lambda shown: shown["state"] == "loaded")
            yield found


async def test_an_adapter_is_loaded_before_anybody_asks_and_every_protocol_is_answered_from_there(place: Place) -> None:
    shown = (await place.gateway.models())[ACME]
    name = f"trained/acme@{shown['generation']}"
    assert place.server.loads(name) == 1
    assert shown["devices"] == ["vllm"]
    says = place.says("1")
    assert answered(await place.chat()) == f"{says} {says}"
    status, body = await place.post("/v1/completions", model="trained/acme", prompt="a b c", max_tokens=2)
    assert (status, body["choices"][0]["text"].split(), body["choices"][0]["finish_reason"]) == (
        200,
        [says] * 2,
        "length",
    )
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    status, body = await place.post("/ask", query="who?", llm_model=ACME, use_rag=False, max_tokens=3)
    assert (status, body["answer"].split()) == (200, [says] * 3)
    status, body = await place.post("/api/chat", model="trained/acme", messages=TURNS, stream=False)
    assert (status, body["message"]["content"].split()[0]) == (200, says)
    assert answered(await place.chat("huggingface:base/tiny")) == "base base"
    assert place.server.loads(name) == 1


async def test_what_a_request_leaves_open_is_said_as_the_volume_has_it(place: Place) -> None:
    await place.chat()
    await place.chat(temperature=0.5, top_p=0.9, top_k=7, seed=3, stop=["x"], presence_penalty=1.0)
    silent, told = place.server.asked[-2:]
    assert (silent["temperature"], silent["top_p"]) == (0.0, 1.0)
    assert not {"seed", "stop", "top_k", "presence_penalty"} & silent.keys()
    chosen = {name: told[name] for name in ("temperature", "top_p", "top_k", "seed", "stop", "presence_penalty")}
    assert list(chosen.values()) == [0.5, 0.9, 7, 3, ["x"], 1.0]
    status, body = await place.post("/v1/completions", model="trained/acme", prompt="long " * 9)
    assert (status, body["error"]["code"]) == (400, "context_length_exceeded")


async def test_a_swap_in_the_middle_of_a_stream_lets_it_end_and_then_unloads_the_old(place: Place) -> None:
    old = (await place.gateway.models())[ACME]["generation"]
    stream = place.stream("wait for it")
    said = [await anext(stream)]
    place.copy("2", "trained/acme")
    new = (await place.listed(lambda shown: shown["generation"] != old))["generation"]
    assert answered(await place.chat()).split() == [place.says("2")] * 2
    assert {name.partition("@")[2] for name in place.server.adapters} == {old, new}
    place.server.gate.set()
    said += [piece async for piece in stream]
    assert "".join(said).split() == [place.says("1")] * 4
    await place.there(new)


async def test_requests_over_many_swaps_all_succeed(place: Place) -> None:
    over = asyncio.Event()
    known = {place.says(source) for source in "123"}

    async def ask() -> int:
        count = 0
        while not over.is_set():
            assert set(answered(await place.chat()).split()) <= known
            count += 1
        return count

    asking = [asyncio.create_task(ask()) for _ in range(3)]
    for source in "2313":
        before = (await place.gateway.models())[ACME]["generation"]
        place.copy(source, "trained/acme")
        now = (await place.listed(lambda shown, before=before: shown["generation"] != before))["generation"]  # type: ignore[misc]
    over.set()
    assert min(await asyncio.gather(*asking)) > 0
    assert answered(await place.chat()).split()[0] == place.says("3")
    await place.there(now)


async def test_an_upstream_that_was_restarted_is_given_its_adapters_and_nobody_notices(
    tmp_path: Path, made: Path
) -> None:
    async with Vllm() as server:
        place = Place(tmp_path, made, server, interval=3600)  # a look while it is away would be noticed
        async with place.gateway:
            await place.listed(lambda shown: shown["state"] == "loaded")
            name = next(iter(server.adapters))
            await server.stop()
            await server.start()
            answers = await asyncio.gather(*(place.chat() for _ in range(8)))
            assert {answered(each).split()[0] for each in answers} == {place.says("1")}
            assert name in server.adapters
            del server.adapters[name]  # by somebody else
            assert answered(await place.chat()).split()[0] == place.says("1")


async def test_an_upstream_that_is_killed_in_the_middle_of_a_stream_fails_that_answer_visibly(place: Place) -> None:
    stream = place.stream("wait for it")
    await anext(stream)
    await place.server.stop()
    with pytest.raises(AssertionError, match="provider_failed"):
        [piece async for piece in stream]
    shown = await place.listed(lambda shown: bool(shown["reasons"]))
    assert shown["state"] == "loading"
    assert shown["reasons"][0]["code"] == "upstream_unreachable"
    assert "base_url" in shown["reasons"][0]["remedy"]
    await place.gateway.wait_for_log("upstream_lost", provider="vllm")
    async with place.gateway.session.post("/v1/chat/completions", json={"model": ACME, "messages": TURNS}) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (503, "provider_unavailable")
        assert int(answer.headers["Retry-After"]) >= 1
    await place.server.start()
    await place.gateway.wait_for_log("upstream_found", provider="vllm")
    await place.listed(lambda shown: shown["state"] == "loaded" and not shown["reasons"])
    assert answered(await place.chat()).split()[0] == place.says("1")


async def test_what_the_upstream_refuses_says_why_and_the_old_goes_on(place: Place) -> None:
    old = (await place.gateway.models())[ACME]["generation"]
    place.copy("wide", "trained/acme")
    shown = await place.listed(lambda shown: bool(shown["reasons"]))
    assert (shown["generation"], shown["reasons"][0]["code"]) == (old, "load_failed")
    assert "LoRA rank 32 is greater than max_lora_rank 16" in shown["reasons"][0]["message"]
    assert answered(await place.chat()).split()[0] == place.says("1")
    place.server.broken.add(place.says("3"))  # it loads, and does not answer
    place.copy("3", "trained/acme")
    shown = await place.listed(lambda shown: "device-side assert" in json.dumps(shown["reasons"]))
    assert shown["generation"] == old
    assert answered(await place.chat()).split()[0] == place.says("1")
    await place.there(old)


async def test_a_first_adapter_that_is_refused_is_listed_with_the_remedy(place: Place) -> None:
    place.copy("wide", "trained/beta")
    shown = await place.listed(lambda shown: bool(shown["reasons"]), "huggingface:trained/beta")
    assert (shown["state"], shown["reasons"][0]["code"]) == ("ready", "upstream_refused")
    assert "--max-lora-rank" in shown["reasons"][0]["remedy"]
    status, body = await place.chat("huggingface:trained/beta")
    assert (status, body["error"]["code"]) == (503, "load_failed")


async def test_an_adapter_that_goes_from_the_volume_is_unloaded_and_what_is_not_ours_stays(place: Place) -> None:
    place.server.adapters["by-hand"] = ("/elsewhere", "x")
    place.server.adapters["other/gateway@0123456789ab"] = ("/elsewhere/generations/0123", "x")
    gone = next(folder for name, (folder, _) in place.server.adapters.items() if name.startswith("trained/"))
    place.server.adapters["trained/former@ba9876543210"] = (gone, "x")  # of an earlier life of this gateway
    shutil.rmtree(place.models / "trained/acme")
    async with asyncio.timeout(DEADLINE):
        while set(place.server.adapters) != {"by-hand", "other/gateway@0123456789ab"}:
            await asyncio.sleep(GLANCE)


async def test_an_upstream_without_the_routes_or_the_base_says_what_to_do(tmp_path: Path, made: Path) -> None:
    for number, (server, code) in enumerate(
        [(Vllm(updates=False), "upstream_without_adapters"), (Vllm(base="org/Other"), "upstream_base_missing")]
    ):
        async with server:
            (tmp_path / str(number)).mkdir()
            place = Place(tmp_path / str(number), made, server)
            async with place.gateway:
                shown = await place.listed(lambda shown: bool(shown["reasons"]))
                assert shown["reasons"][0]["code"] == code
                assert (await place.chat())[0] == 503


async def test_no_tenant_reaches_the_adapter_of_another_under_any_name(tmp_path: Path, made: Path) -> None:
    async with Vllm() as server:
        place = Place(tmp_path, made, server)
        shutil.rmtree(place.models / "trained")  # of equal content, which would be loaded under its name
        place.copy("1", "acme/voice")
        place.copy("2", "other/voice")
        place.copy("3", "shared/voice")
        keys = {"root": gateway_command("keys", "create", "root", f"--state-dir={place.state}", "--role=admin")}
        for org in ("acme", "other"):
            spaces = f"--namespaces={org},shared"
            keys[org] = gateway_command("keys", "create", org, f"--state-dir={place.state}", spaces)
        headers = {org: {"X-API-Key": key} for org, key in keys.items()}
        place.gateway.headers = headers["root"]
        async with place.gateway:
            for model in ("acme", "other", "shared"):
                await place.listed(lambda shown: shown["state"] == "loaded", f"huggingface:{model}/voice")
            theirs = next(name for name in server.adapters if name.startswith("acme/"))
            asked = len(server.asked)
            for model in (
                *("acme/voice", "huggingface:acme/voice", theirs, f"huggingface:{theirs}"),
                *(f"vllm:{theirs}", "vllm:acme/voice", f"VLLM: {theirs}"),
            ):
                status, body = await place.post(
                    "/v1/chat/completions", headers["other"], model=model, messages=TURNS, max_tokens=2
                )
                assert status in {400, 404}, (model, body)
                known = await place.post(
                    "/v1/chat/completions", headers["other"], model=model.replace("acme", "nope"), messages=TURNS
                )
                assert known[0] == status
                assert json.dumps(known[1]).replace("nope", "acme") == json.dumps(body)
                status, body = await place.post("/ask", headers["other"], query="x", llm_model=model, use_rag=False)
                assert status in {400, 404}, (model, body)
            assert len(server.asked) == asked
            for route in ("/models", "/models/llms", "/v1/models", "/api/tags"):
                async with place.gateway.session.get(route, headers=headers["other"]) as answer:
                    text = await answer.text()
                    assert "acme" not in text
                    assert theirs.partition("@")[2] not in text
            for org in ("acme", "other", "acme"):  # what a tenant has asked is in the upstream's cache for itself alone
                await place.post("/v1/completions", headers[org], model="shared/voice", prompt="a secret", max_tokens=1)
            assert server.cached == ["a secret"]
