"""A directory that changes while it is served, by whatever means: requests go on being answered, by what was whole."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from tests import making
from tests.e2e.clients import TEXTS, Clients, reference, until
from tests.running import RunningGateway

pytestmark = pytest.mark.asyncio(loop_scope="module")
QUICK = ("--settle-seconds=0.2", "--settle-in-place-seconds=0.5", "--settle-writer-seconds=0.1", "--scan-interval=1")
SERVED = ("ready", "loading", "loaded")
# without the right of root to read what nobody may read, so that the tests hold for root too
AS_ANYBODY = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("volume")
    (base / "models" / "finetuned").mkdir(parents=True)
    return base


@pytest.fixture(scope="module")
def made(base: Path) -> list[Path]:
    """Models of one name and one shape that differ in their weights."""
    return [Path(making.encoder(base / "made" / str(seed), seed=seed)) for seed in range(4)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(base: Path) -> AsyncIterator[RunningGateway]:
    running = RunningGateway(base / "models", base / "state", "--device=cpu", "--log-level=debug", *QUICK)
    if os.geteuid() == 0 and can_be_anybody():
        running.command = [*AS_ANYBODY, *running.command]
    async with running:
        yield running


def can_be_anybody() -> bool:
    return bool(shutil.which("setpriv")) and not subprocess.run([*AS_ANYBODY, "true"], check=False).returncode


@pytest.fixture
def place(base: Path, request: pytest.FixtureRequest) -> Path:
    """Where this test's model lies, or will."""
    test = str(request.node.originalname)
    return base / "models" / "finetuned" / test.removeprefix("test_")[:40]


def name(place: Path) -> str:
    return f"huggingface:finetuned/{place.name}"


async def serve(gateway: RunningGateway, made: Path, place: Path) -> str:
    """Drops a copy by a rename; -> the generation that serves."""
    dropped(made, place)
    await gateway.wait_for(name(place), *SERVED)
    return (await gateway.embed(TEXTS, name(place)))[1]


def dropped(made: Path, place: Path) -> None:
    shutil.copytree(made, place.parent / f".{place.name}")
    (place.parent / f".{place.name}").rename(place)


def by_cp(made: Path, place: Path) -> None:
    """In place: each file is truncated and written anew."""
    subprocess.run(["cp", "-r", f"{made}/.", place], check=True)


def by_tar(made: Path, place: Path) -> None:
    """In place, as `kubectl cp` does: each file is unlinked and created anew."""
    subprocess.run(f"tar -C {made} -cf - . | tar -C {place} -xmf -", shell=True, check=True)


def by_two_renames(made: Path, place: Path) -> None:
    """The old one away, the new one in its place: between the two the gateway must not look for as long as this process
    may have to wait there, or the model is away, and is removed."""
    fresh, old = place.parent / ".fresh", place.parent / ".old"
    shutil.copytree(made, fresh)
    place.rename(old)
    fresh.rename(place)
    shutil.rmtree(old)


@contextlib.contextmanager
def stopped(gateway: RunningGateway) -> Iterator[None]:
    os.kill(gateway.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(gateway.pid, signal.SIGCONT)


def by_renaming_files(made: Path, place: Path) -> None:
    """As rsync does: every file beside its name, then over it."""
    for file in [path for path in made.rglob("*") if path.is_file()]:
        target = place / file.relative_to(made)
        shutil.copyfile(file, target.with_name(f".{target.name}.Xa12Bc"))
        target.with_name(f".{target.name}.Xa12Bc").rename(target)


@pytest.mark.parametrize("copy", [by_cp, by_tar, by_two_renames, by_renaming_files])
async def test_new_content_is_swapped_in_and_no_request_fails(
    gateway: RunningGateway, made: list[Path], base: Path, copy: Callable[[Path, Path], None]
) -> None:
    place = base / "models" / "finetuned" / f"swapped-{copy.__name__}"
    old = await serve(gateway, made[0], place)
    expected = {old: reference(made[0], TEXTS)}
    async with Clients(gateway, [name(place)] * 3) as clients:
        await clients.more(10)
        with stopped(gateway) if copy is by_two_renames else contextlib.nullcontext():
            await asyncio.to_thread(copy, made[1], place)
        await clients.until(lambda model, status, body: body.get("generation") not in (old, None))
        await clients.more(10)
    assert clients.statuses() == {200}
    (new,) = set(clients.generations()) - {old}
    expected[new] = reference(made[1], TEXTS)
    for _, _, body in clients.answers:  # each answer is that of the generation that it names
        assert np.abs(np.array(body["embeddings"]) - expected[body["generation"]]).max() < 1e-5
    assert (await gateway.wait_for_log("model_swapped", previous=old))["generation"] == new
    listed = await settled(gateway, place)  # what a slow copy wrote behind the weights is looked at once more
    assert (listed["previous"], listed["pending"], listed["reasons"]) == ([old], None, [])
    vectors, generation = await gateway.embed(TEXTS, f"{name(place)}@{old}")  # which can still be asked for
    assert generation == old
    assert np.abs(vectors - expected[old]).max() < 1e-5


async def test_a_touch_is_no_new_content(gateway: RunningGateway, made: list[Path], place: Path) -> None:
    generation = await serve(gateway, made[0], place)
    seen = len(gateway.log)
    for file in place.rglob("*"):
        os.utime(file)
    await gateway.wait_for_log("model_copying", after=seen, model=f"finetuned/{place.name}")
    await settled(gateway, place)
    assert (await gateway.embed(TEXTS, name(place)))[1] == generation
    assert not [each for each in gateway.log[seen:] if each.get("event") in {"model_swapped", "generation_loaded"}]


async def settled(gateway: RunningGateway, place: Path) -> dict[str, Any]:
    """The listing once nothing of it is being copied or judged."""

    listed: dict[str, Any] = {}

    async def quiet() -> bool:
        listed.update((await gateway.models())[name(place)])
        return listed["state"] != "copying" and (listed["pending"] or {}).get("state") not in {"copying", "loading"}

    await until(quiet)
    return listed


async def refused(gateway: RunningGateway, place: Path) -> dict[str, Any]:
    """The listing once it has reasons."""

    async def has_reasons() -> bool:
        listed = (await gateway.models()).get(name(place))
        return bool(listed and listed["reasons"])

    await until(has_reasons)
    return await settled(gateway, place)


async def healed(gateway: RunningGateway, place: Path) -> None:
    async def has_none() -> bool:
        listed = (await gateway.models())[name(place)]
        return listed["generation"] is not None and not listed["reasons"] and not listed["pending"]

    await until(has_none)


async def test_an_unreadable_directory_is_named_with_its_remedy_and_heals(
    gateway: RunningGateway, made: list[Path], place: Path
) -> None:
    if os.geteuid() == 0 and not can_be_anybody():
        pytest.skip("root may read everything, and there is no setpriv to take that from it")
    generation = await serve(gateway, made[0], place)
    weights = place / "model.safetensors"
    weights.chmod(0)
    listed = await refused(gateway, place)
    (reason,) = listed["reasons"]
    assert (reason["code"], reason["kind"], reason["file"]) == ("file_unreadable", "unreadable", "model.safetensors")
    assert "chmod" in reason["remedy"]
    assert listed["generation"] == generation
    assert (await gateway.embed(TEXTS, name(place)))[1] == generation
    weights.chmod(0o644)
    await healed(gateway, place)
    place.chmod(0)
    listed = await refused(gateway, place)
    assert [reason["code"] for reason in listed["reasons"]] == ["folder_unreadable"]
    assert (await gateway.embed(TEXTS, name(place)))[1] == generation
    place.chmod(0o755)
    await healed(gateway, place)
    assert (await gateway.embed(TEXTS, name(place)))[1] == generation


async def test_a_broken_drop_over_a_good_model_keeps_the_good_one_and_says_why(
    gateway: RunningGateway, made: list[Path], place: Path
) -> None:
    generation = await serve(gateway, made[0], place)
    async with Clients(gateway, [name(place)] * 2) as clients:
        await clients.more(5)
        content = (made[1] / "model.safetensors").read_bytes()
        (place / "model.safetensors").write_bytes(content[: len(content) // 2])
        listed = await refused(gateway, place)
        assert [reason["code"] for reason in listed["reasons"]] == ["weights_truncated"]
        assert listed["pending"] == {"state": "rejected", "why": listed["reasons"][0]["message"]}
        assert (listed["generation"], listed["state"]) == (generation, "loaded")
        await clients.more(5)
        (place / "model.safetensors").unlink()

        async def missing() -> bool:
            return [reason["code"] for reason in (await refused(gateway, place))["reasons"]] == ["weights_missing"]

        await until(missing)
        await clients.more(5)
        assert set(clients.generations()) == {generation}
        shutil.copyfile(made[1] / "model.safetensors", place / "model.safetensors")
        await clients.until(lambda model, status, body: body.get("generation") not in (generation, None))
    assert clients.statuses() == {200}
    told = await gateway.wait_for_log("model_rejected", model=f"finetuned/{place.name}")
    assert told["serving"] == generation


async def test_a_successor_that_cannot_be_loaded_never_goes_live(
    gateway: RunningGateway, made: list[Path], place: Path
) -> None:
    """Whole in form, but without one of its tensors: loading finds it out."""
    from safetensors.torch import load_file, save_file

    generation = await serve(gateway, made[0], place)
    tensors = load_file(made[1] / "model.safetensors")
    lost = next(key for key in sorted(tensors) if key.endswith("intermediate.dense.weight"))
    del tensors[lost]
    async with Clients(gateway, [name(place)] * 2) as clients:
        await clients.more(5)
        save_file(tensors, place / ".fresh", metadata={"format": "pt"})
        (place / ".fresh").chmod(0o644)
        (place / ".fresh").rename(place / "model.safetensors")
        listed = await refused(gateway, place)
        await clients.more(5)
    assert clients.statuses() == {200}
    assert set(clients.generations()) == {generation}
    (reason,) = listed["reasons"]
    assert (reason["code"], listed["generation"]) == ("load_failed", generation)
    assert lost.removeprefix("bert.") in reason["message"]


async def test_a_model_whose_directory_has_gone_is_gone(gateway: RunningGateway, made: list[Path], place: Path) -> None:
    generation = await serve(gateway, made[0], place)
    shutil.rmtree(place)
    removed = await gateway.wait_for_log("model_removed", model=f"finetuned/{place.name}")
    assert removed["generation"] == generation
    status, body = await gateway.try_embed(TEXTS, name(place))
    assert (status, body["error"]["code"]) == (404, "model_not_found")
    assert name(place) not in await gateway.models()
    assert await serve(gateway, made[0], place) == generation  # and back


async def test_names_that_are_no_models_are_listed_with_the_reason(gateway: RunningGateway, base: Path) -> None:
    for wrong in ("with space", "-dash", "naïve"):
        (base / "models" / "finetuned" / wrong).mkdir()
    (base / "models" / "finetuned" / "1_Pooling").mkdir()

    async def ignored() -> dict[str, str]:
        async with gateway.session.get("/models") as answer:
            return {each["name"]: each["why"] for each in (await answer.json())["ignored"]}

    async def all_there() -> bool:
        return len(await ignored()) == 4

    await until(all_there)
    found = await ignored()
    assert all(shown.isascii() for shown in found)
    assert "copy the whole directory" in found["finetuned/1_Pooling"]
    assert "letter or digit" in found["finetuned/with space"]


async def test_truncating_what_was_dropped_changes_nothing_that_is_served(
    gateway: RunningGateway, made: list[Path], place: Path
) -> None:
    """The host maps its weights: had it mapped these, the next answer would be its end."""
    await serve(gateway, made[0], place)
    expected, generation = await gateway.embed(TEXTS, name(place))
    starts = [each for each in gateway.log if each.get("event") == "host_started"]
    os.truncate(place / "model.safetensors", 1000)
    for _ in range(3):
        vectors, still = await gateway.embed(TEXTS, name(place))
        assert still == generation
        assert np.array_equal(vectors, expected)
    async with gateway.session.post(f"/models/finetuned/{place.name}/unload") as answer:
        assert answer.status == 200
    vectors, still = await gateway.embed(TEXTS, name(place))  # and loaded anew from the private copy
    assert still == generation
    assert np.array_equal(vectors, expected)
    assert [each for each in gateway.log if each.get("event") == "host_started"] == starts
    assert [reason["code"] for reason in (await refused(gateway, place))["reasons"]] == ["weights_truncated"]


async def test_content_that_its_checksums_do_not_know_is_refused_and_heals(
    gateway: RunningGateway, made: list[Path], place: Path
) -> None:
    shutil.copytree(made[0], place.parent / ".sums")
    files = [path for path in sorted(made[1].rglob("*")) if path.is_file()]
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(made[1])}" for path in files]
    (place.parent / ".sums" / "SHA256SUMS").write_text("\n".join(lines) + "\n")  # of the other model
    (place.parent / ".sums").rename(place)
    listed = await gateway.wait_for(name(place), "rejected")
    (reason,) = listed["reasons"]
    assert (reason["code"], reason["file"]) == ("checksum_mismatch", "model.safetensors")
    assert "SHA256SUMS" in reason["message"]
    status, body = await gateway.try_embed(TEXTS, name(place))
    assert (status, body["error"]["code"]) == (409, "model_rejected")
    shutil.copyfile(made[1] / "model.safetensors", place / "model.safetensors")
    await gateway.wait_for(name(place), *SERVED)
    vectors, _ = await gateway.embed(TEXTS, name(place))
    assert np.abs(vectors - reference(made[1], TEXTS)).max() < 1e-5
