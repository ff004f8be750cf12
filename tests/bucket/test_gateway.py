"""A gateway whose volume is a bucket of a real S3-compatible server, asked over HTTP."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import adapting, making
from tests.buckets import Cloud, Relay, files
from tests.e2e.clients import TEXTS, Clients, Vectors, least_cosine, reference, until
from tests.running import RunningGateway

MODEL = "huggingface:finetuned/m"
PATH = "finetuned/m"
VOLUME = "s3://models/all"
KEY = "all/finetuned/m"
QUICK = ("--device=cpu", "--scan-interval=0.2", "--settle-seconds=0.1", "--settle-in-place-seconds=0.5")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    base = tmp_path_factory.mktemp("made")
    return [making.encoder(base / str(seed), seed=seed) for seed in range(3)]


def gateway(where: Cloud | Relay, state: Path, *options: str) -> RunningGateway:
    return RunningGateway(VOLUME, state, *QUICK, *options, environment=where.environment)


def sums(folder: str, target: Path) -> Path:
    """A copy with a SHA256SUMS, as the trainer writes it."""
    shutil.copytree(folder, target)
    names = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    lines = [f"{hashlib.sha256((target / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (target / "SHA256SUMS").write_text("".join(lines))
    return target


def right(body: dict[str, Any], sources: dict[str, str]) -> bool:
    """Whether the vectors are those of the generation that the answer names."""
    return least_cosine(np.array(body["embeddings"], dtype=np.float32), truth(sources[body["generation"]])) > 0.9999


@functools.cache
def truth(source: str) -> Vectors:
    """Made once for the many answers that are held to it."""
    return reference(source, TEXTS)


async def test_a_drop_a_swap_under_load_broken_content_its_healing_and_a_removal(
    cloud: Cloud, tmp_path: Path, made: list[str]
) -> None:
    cloud.upload(made[0], KEY)
    async with gateway(cloud, tmp_path / "state") as running:
        watched = await running.wait_for_log("volume_watched")
        assert (watched["place"], watched["way"], watched["kind"]) == (VOLUME, "polling", "s3")
        await running.wait_for(MODEL, "ready", "loaded")
        assert (await running.models())[MODEL]["path"] == f"{VOLUME}/{PATH}"
        vectors, first = await running.embed(TEXTS, PATH)
        assert least_cosine(vectors, reference(made[0], TEXTS)) > 0.9999
        async with Clients(running, [PATH] * 4) as clients:
            await clients.more(4)
            begin = len(running.log)
            await asyncio.to_thread(cloud.upload, made[1], KEY)  # object by object, over what is served
            second = (await running.wait_for_log("model_swapped", after=begin, model=PATH))["generation"]
            await clients.until(lambda model, status, body: body.get("generation") == second, 4)
            cloud.put(f"{KEY}/config.json", b"{")
            rejected = await running.wait_for_log("model_rejected", after=begin, model=PATH)
            assert rejected["serving"] == second
            await clients.more(4)
            begin = len(running.log)
            await asyncio.to_thread(cloud.upload, made[2], KEY)
            third = (await running.wait_for_log("model_swapped", after=begin, model=PATH))["generation"]
            await clients.until(lambda model, status, body: body.get("generation") == third, 4)
        assert clients.statuses() == {200}
        assert set(clients.generations()) == {first, second, third}
        sources = dict(zip((first, second, third), made, strict=True))
        assert all(right(body, sources) for _, _, body in clients.answers)
        begin = len(running.log)
        cloud.remove(KEY)
        await running.wait_for_log("model_removed", after=begin, model=PATH)
        assert (await running.try_embed(TEXTS, PATH))[0] == 404
        assert not any(each.get("level") == "error" for each in running.log), running.log


async def test_half_an_upload_is_not_served_and_costs_no_weights_until_the_rest_has_come(
    cloud: Cloud, tmp_path: Path
) -> None:
    model = making.encoder(tmp_path / "made", dim=192, layers=4, heads=4)
    large = (Path(model) / "model.safetensors").stat().st_size
    assert large > 4_000_000
    names = [path for path in sorted(Path(model).rglob("*")) if path.is_file() and path.name != "modules.json"]
    async with Relay(cloud) as relay:
        for path in names:
            cloud.put(f"{KEY}/{path.relative_to(model)}", path.read_bytes())
        async with gateway(relay, tmp_path / "state") as running:
            listed = await running.wait_for(MODEL, "rejected")
            assert [reason["code"] for reason in listed["reasons"]] == ["modules_missing"]
            assert (await running.try_embed(TEXTS, PATH))[0] == 409
            assert relay.passed < large
            cloud.put(f"{KEY}/modules.json", (Path(model) / "modules.json").read_bytes())
            await running.wait_for(MODEL, "ready", "loaded")
            fetching = [each for each in running.log if each.get("event") == "model_fetching"]
            assert fetching[0]["total"] == fetching[-1]["bytes"] >= large
            assert len(fetching) > 2
            vectors, _ = await running.embed(TEXTS, PATH)
            assert least_cosine(vectors, reference(model, TEXTS)) > 0.9999
            (weights,) = (tmp_path / "state/generations").glob("*/files/model.safetensors")
            assert weights.stat().st_nlink == 2  # the store's, and what was fetched: once on the disk


async def test_a_bucket_that_is_away_takes_nothing_away_also_over_a_restart_and_is_looked_at_when_it_is_back(
    cloud: Cloud, tmp_path: Path, made: list[str]
) -> None:
    cloud.upload(made[0], KEY)
    async with Relay(cloud) as relay:
        async with gateway(relay, tmp_path / "state") as running:
            await running.wait_for(MODEL, "ready", "loaded")
            _, first = await running.embed(TEXTS, PATH)
            content = cloud.content()
            await relay.shut()
            cloud.kill()
            await running.wait_for_log("volume_unreadable")
            assert (await running.embed(TEXTS, PATH))[1] == first
            async with running.session.get("/readyz") as answer:
                assert answer.status == 200
        async with gateway(relay, tmp_path / "state") as running:  # which waits until it is ready
            assert (await running.embed(TEXTS, PATH))[1] == first
            status, body = await running.try_embed(TEXTS, "finetuned/other")
            assert (status, body["error"]["code"]) == (503, "starting")  # nobody knows
            cloud.start()
            for key, each in content.items():
                cloud.put(key, each)
            cloud.upload(made[1], "all/finetuned/other")
            await relay.open()
            await running.wait_for("huggingface:finetuned/other", "ready", "loaded")
            assert (await running.embed(TEXTS, PATH))[1] == first
            named = [each.get("event") for each in running.log]
            assert "model_removed" not in named
            assert "model_swapped" not in named


async def test_a_fetch_that_is_cut_goes_on_and_one_whose_gateway_is_killed_does_too(
    cloud: Cloud, tmp_path: Path
) -> None:
    model = making.encoder(tmp_path / "made", dim=192, layers=4, heads=4)
    large = (Path(model) / "model.safetensors").stat().st_size
    cloud.upload(model, KEY)
    async with Relay(cloud) as relay:
        relay.after = large // 2
        async with gateway(relay, tmp_path / "state") as running:
            await running.wait_for(MODEL, "ready", "loaded")
            vectors, _ = await running.embed(TEXTS, PATH)
            assert least_cosine(vectors, reference(model, TEXTS)) > 0.9999
        assert relay.cuts == 1
        before = relay.passed
        async with gateway(relay, tmp_path / "state") as running:
            await running.wait_for(MODEL, "ready", "loaded")
            await running.embed(TEXTS, PATH)
        assert relay.passed - before < large // 2  # nothing is fetched twice


async def test_two_gateways_over_one_bucket_agree_through_drops_swaps_and_removals(
    cloud: Cloud, tmp_path: Path, made: list[str]
) -> None:
    cloud.upload(made[0], KEY)
    async with gateway(cloud, tmp_path / "one") as one, gateway(cloud, tmp_path / "two") as two:
        both = (one, two)
        for running in both:
            await running.wait_for(MODEL, "ready", "loaded")
        generations = [(await running.embed(TEXTS, PATH))[1] for running in both]
        async with Clients(one, [PATH] * 2) as here, Clients(two, [PATH] * 2) as there:
            begins = [len(running.log) for running in both]
            proven = sums(made[1], tmp_path / "proven")
            await asyncio.to_thread(cloud.upload, proven, KEY, last=("SHA256SUMS",))
            swaps = [
                (await running.wait_for_log("model_swapped", after=begin, model=PATH))["generation"]
                for running, begin in zip(both, begins, strict=True)
            ]
            for clients in (here, there):
                await clients.until(lambda model, status, body: body.get("generation") == swaps[0], 4)
        assert generations[0] == generations[1]
        assert swaps[0] == swaps[1]
        sources = {generations[0]: made[0], swaps[0]: made[1]}
        for clients in (here, there):
            assert clients.statuses() == {200}
            assert all(right(body, sources) for _, _, body in clients.answers)
        cloud.remove(KEY)
        for running in both:
            await running.wait_for_log("model_removed", model=PATH)


async def test_keys_that_are_no_paths_are_shown_and_lead_nowhere(cloud: Cloud, tmp_path: Path, made: list[str]) -> None:
    cloud.upload(made[0], KEY)
    odd = ["all/finetuned/bad name/config.json", "all/finetuned/f", "all/finetuned/f/config.json"]  # that moto takes
    for key in [*odd, "all/", "all/finetuned/empty/", "all/.hidden/x/config.json"]:
        cloud.put(key, b"{}")
    async with gateway(cloud, tmp_path / "state") as running:
        await running.wait_for(MODEL, "ready", "loaded")
        async with running.session.get("/models") as answer:
            listing = await answer.json()
        ignored = {each["name"]: each["why"] for each in listing["ignored"]}
        assert "a file and a folder" in ignored["finetuned/f"]
        assert "begins with a letter" in ignored["finetuned/bad name"]
        assert {each["id"] for each in listing["models"]} == {MODEL, "huggingface:finetuned/f"}


async def test_what_writes_works_in_a_bucket_or_says_that_it_does_not(
    cloud: Cloud, tmp_path: Path, made: list[str]
) -> None:
    cloud.upload(made[0], KEY)
    cloud.put("all/aliases.toml", b'# ours\n[aliases]\nold = "finetuned/m"\n')
    async with gateway(cloud, tmp_path / "one") as one, gateway(cloud, tmp_path / "two") as two:
        for running in (one, two):
            await running.wait_for(MODEL, "ready", "loaded")
            await running.wait_for_log("aliases_changed")
        assert (await one.try_embed(TEXTS, "old"))[0] == 200
        begin = len(two.log)
        async with one.session.put("/aliases/new", json={"to": PATH}) as answer:
            assert answer.status == 200, await answer.text()
        assert (await one.try_embed(TEXTS, "new"))[0] == 200
        await two.wait_for_log("aliases_changed", after=begin)
        assert (await two.try_embed(TEXTS, "new"))[0] == 200
        text = cloud.client.get_object(Bucket=cloud.bucket, Key="all/aliases.toml")["Body"].read().decode()
        assert text == '# ours\n[aliases]\nold = "finetuned/m"\n"new" = "finetuned/m"\n'
        async with one.session.post("/models/pull", json={"model": "acme/x"}) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (507, "volume_unwritable")
        assert json.loads(await (await one.session.get("/readyz")).text())["ready"] is True


async def test_an_adapter_waits_for_its_base_in_the_bucket_and_says_what_that_lacks(
    cloud: Cloud, tmp_path: Path
) -> None:
    base = making.encoder(tmp_path / "bert", seed=1)
    lora = adapting.lora(tmp_path / "lora", base)
    cloud.upload(lora, KEY)
    async with gateway(cloud, tmp_path / "state") as running:
        waiting = await running.wait_for(MODEL, "waiting_for_base")
        assert [reason["code"] for reason in waiting["reasons"]] == ["base_missing"]
        modules = Path(base, "modules.json").read_bytes()
        for name in files(base):
            if name != "modules.json":
                cloud.put(f"all/base/bert/{name}", Path(base, name).read_bytes())
        await running.wait_for("huggingface:base/bert", "rejected")

        async def told() -> bool:
            return "modules.json is missing" in (await running.models())[MODEL]["reasons"][0]["message"]

        await until(told)
        assert (await running.models())[MODEL]["reasons"][0]["code"] == "base_not_ready"
        cloud.put("all/base/bert/modules.json", modules)
        await running.wait_for(MODEL, "ready", "loaded")
        vectors, _ = await running.embed(TEXTS, PATH)
        assert least_cosine(vectors, adapting.reference(base, lora, TEXTS)) > 0.9999


async def test_a_bucket_that_hangs_holds_up_neither_requests_nor_a_stop(
    cloud: Cloud, tmp_path: Path, made: list[str]
) -> None:
    cloud.upload(made[0], KEY)
    async with gateway(cloud, tmp_path / "state") as running:
        await running.wait_for(MODEL, "ready", "loaded")
        async with Clients(running, [PATH] * 2) as clients:
            cloud.hang()
            await running.wait_for_log("volume_unreadable")
            await clients.more(4)
        assert clients.statuses() == {200}
        await running.stop()  # with a look that hangs
    cloud.go_on()
