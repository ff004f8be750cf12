"""The good answers, over HTTP: vectors in every form, one id for every spelling, and what operators are shown."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from tests import making
from tests.e2e.clients import TEXTS, least_cosine, reference, until, vectors_of
from tests.running import DEADLINE, RunningGateway

pytestmark = pytest.mark.asyncio(loop_scope="module")
PROMPTS = {"query": "query: ", "passage": "passage: "}
SNAPSHOT = "models--thellert--physbert_cased/snapshots/0123abcd"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, minilm: str) -> Path:
    """A volume with every layout that there is."""
    root = tmp_path_factory.mktemp("gateway") / "models"
    making.encoder(root / "finetuned" / "physics", seed=1)
    making.encoder(root / "finetuned" / "prompted", seed=2, prompts=PROMPTS, default_prompt="query")
    making.encoder(root / "finetuned" / "long", seed=3, normalize=False)
    making.encoder(root / "trained" / "solo", seed=4)
    making.encoder(root / "ouragboros_finetuned", seed=5)
    making.encoder(root / "acme_flat", seed=6)
    shutil.copytree(minilm, root / "sentence-transformers" / "all-MiniLM-L6-v2")
    downloaded(root)
    (root / "finetuned" / "no name!").mkdir()
    return root


def downloaded(root: Path) -> None:
    """As the Hub's client leaves it: links from the snapshot to blobs."""
    snapshot, blobs = root / SNAPSHOT, root / SNAPSHOT.split("/", maxsplit=1)[0] / "blobs"
    making.encoder(snapshot, seed=7)
    blobs.mkdir()
    for file in [path for path in snapshot.rglob("*") if path.is_file()]:
        blob = blobs / file.relative_to(snapshot).as_posix().replace("/", "_")
        file.rename(blob)
        file.symlink_to(os.path.relpath(blob, file.parent))
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(snapshot.name)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(root: Path) -> AsyncIterator[RunningGateway]:
    options = ("--device=cpu", "--default-model=finetuned/physics", "--log-level=debug")
    async with RunningGateway(root, root.parent / "state", *options) as running:
        yield running


async def embed(gateway: RunningGateway, path: str = "/embed", **body: Any) -> dict[str, Any]:
    async with gateway.session.post(path, json=body) as answer:
        found: dict[str, Any] = await answer.json()
        assert answer.status == 200, found
        assert answer.headers["X-Model"] == found["model"]
        assert answer.headers["X-Model-Generation"] == found["generation"]
        return found


async def get(gateway: RunningGateway, path: str, **options: Any) -> Any:
    async with gateway.session.get(path, **options) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


# Vectors.


async def test_an_answer_has_all_that_was_promised(gateway: RunningGateway) -> None:
    found = await embed(gateway, inputs=TEXTS, model="finetuned/physics")
    assert found.keys() == {"embeddings", "model", "dim", "count", "generation", "normalized", "usage"}
    assert (found["dim"], found["count"], found["normalized"]) == (32, len(TEXTS), True)
    assert found["model"] == "huggingface:finetuned/physics"
    assert found["usage"]["tokens"] > len(TEXTS) * 3
    assert vectors_of(found).shape == (len(TEXTS), 32)


async def test_every_form_of_the_same_request_has_the_same_answer(gateway: RunningGateway) -> None:
    """`inputs` or its older name `texts`, a text or a list of one, and each of the three routes."""
    expected = await embed(gateway, inputs=["the beam"], model="finetuned/physics")
    forms: list[tuple[str, dict[str, Any]]] = [
        ("/embed", {"inputs": "the beam", "model": "finetuned/physics"}),
        ("/embed", {"texts": ["the beam"], "model": "finetuned/physics"}),
        ("/embed", {"texts": "the beam", "model": "finetuned/physics"}),
        ("/embed", {"inputs": "the beam", "unknown_field": [1], "model": "finetuned/physics"}),
        ("/model/embed", {"inputs": ["the beam"], "model": "finetuned/physics"}),
        ("/models/finetuned/physics/embed", {"inputs": ["the beam"]}),
        ("/models/finetuned/physics/embed", {"inputs": ["the beam"], "model": "finetuned/prompted"}),
        ("/models/huggingface:finetuned%2Fphysics/embed", {"inputs": ["the beam"]}),
    ]
    for path, body in forms:
        assert await embed(gateway, path, **body) == expected


async def test_the_model_may_stand_in_a_header_and_the_default_model_needs_no_name(gateway: RunningGateway) -> None:
    async with gateway.session.post("/embed", json={"inputs": "x"}, headers={"X-Model": "finetuned/long"}) as answer:
        assert (await answer.json())["model"] == "huggingface:finetuned/long"
    assert (await embed(gateway, inputs="x"))["model"] == "huggingface:finetuned/physics"
    assert (await get(gateway, "/info"))["model"] == "huggingface:finetuned/physics"


async def test_octets_and_base64_are_the_floats(gateway: RunningGateway) -> None:
    body: dict[str, Any] = {"inputs": TEXTS, "model": "finetuned/physics"}
    floats = vectors_of(await embed(gateway, **body))
    packed = (await embed(gateway, **body, encoding_format="base64"))["embeddings"]
    assert np.array_equal(np.array([np.frombuffer(base64.b64decode(row), "<f4") for row in packed]), floats)
    async with gateway.session.post("/embed", json=body, headers={"Accept": "application/octet-stream"}) as answer:
        assert answer.content_type == "application/octet-stream"
        assert answer.headers["X-Embedding-Shape"] == f"{len(TEXTS)},32"
        assert answer.headers["X-Model"] == "huggingface:finetuned/physics"
        assert np.array_equal(np.frombuffer(await answer.read(), "<f4").reshape(-1, 32), floats)


async def test_normalize_makes_unit_vectors_and_leaves_alone_when_told(gateway: RunningGateway, root: Path) -> None:
    raw = await embed(gateway, inputs=TEXTS, model="finetuned/long", normalize=False)
    unit = await embed(gateway, inputs=TEXTS, model="finetuned/long", normalize=True)
    plain = await embed(gateway, inputs=TEXTS, model="finetuned/long")
    assert (raw["normalized"], unit["normalized"], plain["normalized"]) == (False, True, False)
    norms = np.linalg.norm(vectors_of(raw), axis=1, keepdims=True)
    assert np.abs(norms - 1).min() > 0.01
    np.testing.assert_allclose(vectors_of(unit), vectors_of(raw) / norms, atol=1e-6)
    np.testing.assert_allclose(vectors_of(plain), reference(root / "finetuned" / "long", TEXTS), atol=1e-5)


async def test_fewer_dimensions_are_the_first_of_all_at_unit_length_again(gateway: RunningGateway) -> None:
    whole = vectors_of(await embed(gateway, inputs=TEXTS, model="finetuned/physics"))
    found = await embed(gateway, inputs=TEXTS, model="finetuned/physics", dimensions=8)
    assert (found["dim"], found["normalized"]) == (8, True)
    cut = whole[:, :8]
    np.testing.assert_allclose(vectors_of(found), cut / np.linalg.norm(cut, axis=1, keepdims=True), atol=1e-6)
    raw = await embed(gateway, inputs=TEXTS, model="finetuned/physics", dimensions=8, normalize=False)
    assert raw["normalized"] is False
    np.testing.assert_allclose(vectors_of(raw), cut, atol=1e-6)


async def test_prompts_are_those_of_sentence_transformers(gateway: RunningGateway, root: Path) -> None:
    path = root / "finetuned" / "prompted"
    cases: list[tuple[dict[str, str], dict[str, str]]] = [
        ({}, {}),  # the default prompt
        ({"prompt_name": "passage"}, {"prompt_name": "passage"}),
        ({"prompt_name": "query"}, {"prompt_name": "query"}),
        ({"prompt": "the ring: "}, {"prompt": "the ring: "}),
        ({"prompt": ""}, {"prompt": ""}),
    ]
    for asked, options in cases:
        found = vectors_of(await embed(gateway, inputs=TEXTS, model="finetuned/prompted", **asked))
        np.testing.assert_allclose(found, reference(path, TEXTS, **options), atol=1e-5)
    info = await get(gateway, "/info", params={"model": "finetuned/prompted"})
    assert (info["prompts"], info["default_prompt_name"]) == (PROMPTS, "query")


async def test_no_inputs_have_a_dimension_and_load_nothing(gateway: RunningGateway) -> None:
    assert (await get(gateway, "/models/trained/solo"))["state"] == "ready"
    found = await embed(gateway, inputs=[], model="trained/solo")
    assert (found["embeddings"], found["dim"], found["count"], found["usage"]["tokens"]) == ([], 32, 0, 0)
    async with gateway.session.post("/embed", json={"inputs": [], "model": "trained/solo"}, headers={
        "Accept": "application/octet-stream"
    }) as answer:  # fmt: skip
        assert (answer.headers["X-Embedding-Shape"], await answer.read()) == ("0,32", b"")
    assert (await get(gateway, "/models/trained/solo"))["state"] == "ready"


async def test_the_vectors_of_a_real_model_are_its_librarys_whatever_shares_the_batch(
    gateway: RunningGateway, minilm: str
) -> None:
    """Requests of one to many texts, of one to more tokens than the model takes, all at once."""
    texts = [" ".join(TEXTS[number % 4 :] * (1 + number % 30)) + str(number) for number in range(60)]
    expected = reference(minilm, texts)
    requests, begin = [], 0
    while begin < len(texts):
        requests.append(slice(begin, begin + 1 + begin % 7))
        begin = requests[-1].stop
    model = "sentence-transformers/all-MiniLM-L6-v2"
    found = await asyncio.gather(*(gateway.embed(texts[part], model) for part in requests))
    assert least_cosine(np.concatenate([vectors for vectors, _ in found]), expected) >= 0.99999


# Identifiers.


@pytest.mark.parametrize(
    ("spellings", "canonical"),
    [
        (("finetuned/physics", "models/finetuned/physics", "{root}/finetuned/physics", "physics"), "finetuned/physics"),
        (("finetuned/physics/", "{root}/finetuned/physics/"), "finetuned/physics"),
        (("solo", "trained/solo"), "trained/solo"),
        (
            ("ouragboros_finetuned", "{root}/ouragboros_finetuned", "models/ouragboros_finetuned"),
            "ouragboros_finetuned",
        ),
        (
            (
                "thellert/physbert_cased",
                "models--thellert--physbert_cased",
                "models/models--thellert--physbert_cased",
                "{root}/models--thellert--physbert_cased",
                "{root}/" + SNAPSHOT,
            ),
            "thellert/physbert_cased",
        ),
        (("acme/flat", "acme_flat", "{root}/acme_flat"), "acme_flat"),
        (("sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2"), "sentence-transformers/all-MiniLM-L6-v2"),
    ],
)
async def test_every_spelling_is_answered_with_the_one_id(
    gateway: RunningGateway, root: Path, spellings: tuple[str, ...], canonical: str
) -> None:
    given = [prefix + spelling.format(root=root) for spelling in spellings for prefix in ("", "huggingface:")]
    answers = [await embed(gateway, inputs="x", model=spelling) for spelling in given]
    assert {found["model"] for found in answers} == {f"huggingface:{canonical}"}
    assert len({found["generation"] for found in answers}) == 1
    shown = [await get(gateway, f"/models/{spelling}") for spelling in given if not spelling.startswith("/")]
    assert {model["id"] for model in shown} == {f"huggingface:{canonical}"}
    (loaded,) = {model["generation"] for model in shown}
    assert loaded == answers[0]["generation"]


async def test_a_generation_may_be_named_with_the_model(gateway: RunningGateway) -> None:
    plain = await embed(gateway, inputs="x", model="finetuned/physics")
    for digits in (12, 6):
        pinpoint = f"huggingface:finetuned/physics@{plain['generation'][:digits]}"
        assert await embed(gateway, inputs="x", model=pinpoint) == plain


# What operators see and do.


async def test_the_listing_has_every_directory_and_every_name_that_is_none(gateway: RunningGateway, root: Path) -> None:
    await embed(gateway, inputs="x", model="finetuned/physics")
    listing = await get(gateway, "/models")
    ids = [model["id"].removeprefix("huggingface:") for model in listing["models"]]
    assert ids == sorted(
        [
            *("finetuned/long", "finetuned/physics", "finetuned/prompted", "trained/solo", "ouragboros_finetuned"),
            *("acme_flat", "sentence-transformers/all-MiniLM-L6-v2", "thellert/physbert_cased"),
        ]
    )
    assert [name for each in listing["ignored"] for name in each.values() if "no name!" in name]
    physics = await get(gateway, "/models/finetuned/physics")
    assert (physics["state"], physics["devices"], physics["dim"]) == ("loaded", ["cpu"], 32)
    assert physics["path"] == str(root / "finetuned" / "physics")
    assert physics["bytes_on_disk"] == sum(
        file.stat().st_size for file in (root / "finetuned" / "physics").rglob("*") if file.is_file()
    )
    assert physics["bytes_on_device"] > 50_000
    assert physics["display_name"] == "Physics"
    assert (physics["reasons"], physics["pending"], physics["load_error"]) == ([], None, None)


async def test_the_older_listings_work(gateway: RunningGateway) -> None:
    served = [model["id"] for model in (await get(gateway, "/models"))["models"]]
    assert (await get(gateway, "/models/embeddings"))["models"] == served
    assert await get(gateway, "/models/llms") == {"models": ["extractive"]}
    finetuned = (await get(gateway, "/models/finetuned"))["models"]
    assert {model["id"] for model in finetuned} == {name for name in served if "/" in name}
    physics = next(model for model in finetuned if model["namespaced_name"] == "finetuned/physics")
    assert (physics["namespace"], physics["name"], physics["display_name"]) == ("finetuned", "physics", "Physics")


async def test_loading_unloading_and_pinning_twice_is_doing_it_once(gateway: RunningGateway) -> None:
    async def operate(verb: str, model: str = "finetuned/long") -> dict[str, Any]:
        async with gateway.session.post(f"/models/{model}/{verb}") as answer:
            assert answer.status == 200, await answer.text()
            shown: dict[str, Any] = await answer.json()
            assert shown["id"] == "huggingface:finetuned/long"
            return shown

    for _ in range(2):
        assert (await operate("load"))["state"] == "loaded"
    for _ in range(2):
        unloaded = await operate("unload", "huggingface:long")
        assert (unloaded["state"], unloaded["bytes_on_device"], unloaded["devices"]) == ("ready", 0, [])
    for _ in range(2):
        assert (await operate("pin"))["pinned"] is True
    await gateway.wait_for("huggingface:finetuned/long", "loaded")  # a pin loads by itself
    for _ in range(2):
        assert (await operate("unpin"))["pinned"] is False
    assert (await operate("unload"))["state"] == "ready"


async def test_info_describes_a_model_and_the_devices(gateway: RunningGateway) -> None:
    await embed(gateway, inputs="x", model="finetuned/physics")
    info = await get(gateway, "/info", params={"model": "physics"})
    assert (info["model"], info["dim"], info["loaded"]) == ("huggingface:finetuned/physics", 32, True)
    assert (info["normalize"], info["quantized"], info["max_tokens"]) == (True, False, 64)
    (device,) = info["devices"]
    assert (device["device"], device["up"], device["restarts"]) == ("cpu", True, 0)
    assert 0 < device["used"] <= device["budget"]


async def test_the_gateway_says_that_it_is_alive_and_ready(gateway: RunningGateway) -> None:
    assert await get(gateway, "/healthz") == {"status": "ok"}
    ready = await get(gateway, "/readyz")
    assert ready == {"ready": True, "checks": {"volume": True, "host": True, "not_draining": True}}


async def test_metrics_are_read_by_prometheus_and_by_the_older_clients(gateway: RunningGateway) -> None:
    before = await get(gateway, "/metrics", headers={"Accept": "application/json"})
    await embed(gateway, inputs=["a", "b", "c"], model="finetuned/physics")
    async with gateway.session.get("/metrics") as answer:
        families = {family.name: family for family in text_string_to_metric_families(await answer.text())}
    texts = {
        sample.labels["model"]: sample.value
        for sample in families["dropgate_texts"].samples
        if "created" not in sample.name
    }
    assert texts["finetuned/physics"] >= 3
    routes = {sample.labels["route"] for sample in families["dropgate_requests"].samples}
    assert "/embed" in routes
    assert not [route for route in routes if "physics" in route]  # templates, never paths
    (used,) = families["dropgate_device_model_bytes"].samples
    assert (used.labels["device"], used.value > 0) == ("cpu", True)
    after = await get(gateway, "/metrics", headers={"Accept": "application/json"})
    assert after.keys() == {"total_requests", "total_texts", "avg_latency_ms", "max_latency_ms"}
    assert after["total_requests"] == before["total_requests"] + 1
    assert after["total_texts"] == before["total_texts"] + 3
    assert 0 < after["avg_latency_ms"] <= after["max_latency_ms"]


async def test_a_request_is_one_line_in_the_log_under_the_clients_own_id(gateway: RunningGateway) -> None:
    headers = {"X-Request-Id": "mine-42"}
    async with gateway.session.post("/embed", json={"inputs": ["a", "b"]}, headers=headers) as answer:
        assert answer.headers["X-Request-Id"] == "mine-42"
        generation = (await answer.json())["generation"]
    line = await gateway.wait_for_log("request", request_id="mine-42")
    assert (line["method"], line["route"], line["status"]) == ("POST", "/embed", 200)
    assert (line["model"], line["generation"], line["texts"]) == ("finetuned/physics", generation, 2)
    assert line["tokens"] >= 6
    assert 0 < line["compute_seconds"] <= line["seconds"]
    assert 0 <= line["queue_seconds"] <= line["seconds"]
    async with gateway.session.get("/nothing", headers={"X-Request-Id": "é" * 10}) as answer:
        made = answer.headers["X-Request-Id"]
    assert len(made) == 32
    assert (await gateway.wait_for_log("request", request_id=made))["code"] == "route_not_found"
    assert len([record for record in gateway.log if record.get("request_id") == "mine-42"]) == 1


async def test_what_happens_is_streamed_to_whoever_listens(gateway: RunningGateway, root: Path) -> None:
    async with gateway.session.get("/events") as stream:
        assert stream.content_type == "text/event-stream"
        assert await stream.content.readline() == b": listening\n"
        making.encoder(root.parent / "new", seed=9)
        os.rename(root.parent / "new", root / "finetuned" / "new")
        accepted = await told(stream, "model_accepted")
        assert accepted["model"] == "finetuned/new"
        await embed(gateway, inputs="x", model="finetuned/new")
        loaded = await told(stream, "generation_loaded")
        assert loaded["models"] == ["finetuned/new"]
        assert loaded["generation"] == accepted["generation"]
    shutil.rmtree(root / "finetuned" / "new")

    async def gone() -> bool:
        return "huggingface:finetuned/new" not in await gateway.models()

    await until(gone)


async def told(stream: Any, wanted: str) -> dict[str, Any]:
    """The data of the next event of that name, read as a client of server-sent events does."""
    name = ""
    async with asyncio.timeout(DEADLINE):
        async for raw in stream.content:
            field, _, value = raw.decode().rstrip("\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data" and name == wanted:
                data: dict[str, Any] = json.loads(value)
                return data
    raise AssertionError(f"the stream ended before {wanted}")
