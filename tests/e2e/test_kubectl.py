"""The promise itself, with the real client: `kubectl cp` a directory, and it serves; never before it is whole."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests import making
from tests.kube import KubeServer, pod_path, require_kubectl
from tests.running import DEADLINE, RunningGateway

MODEL = "huggingface:finetuned/physics"
LOG_NAME = "finetuned/physics"
SERVED = ("ready", "loading", "loaded")
TEXTS = ["the spectrum of a synchrotron", "a beam of electrons", "a"]
MEGABYTE = 1024**2


@pytest.fixture(autouse=True)
def _kubectl() -> None:
    require_kubectl()


@pytest.fixture
def physics(tmp_path: Path, minilm: str) -> Path:
    """The real model of 90 MB, in the directory that the user copies."""
    return Path(shutil.copytree(minilm, tmp_path / "client" / "physics", ignore=shutil.ignore_patterns(".*")))


def reference(directory: Path) -> npt.NDArray[np.float32]:
    """What the model's own library says."""
    from sentence_transformers import SentenceTransformer  # seconds of import, for the tests that ask

    vectors = SentenceTransformer(str(directory), device="cpu").encode(TEXTS, convert_to_numpy=True)
    return np.asarray(vectors, dtype=np.float32)


def past_the_weights(directory: Path) -> int:
    """Bytes of the archive up to within tokenizer.json, which follows the weights in the client's order (lexical)."""
    files = [path for path in directory.iterdir() if path.is_file() and path.name <= "model.safetensors"]
    return sum(path.stat().st_size for path in files) + 128 * 1024


class Asking:
    """A client that asks without pause, and keeps each answer with its time."""

    def __init__(self, gateway: RunningGateway) -> None:
        self.gateway = gateway
        self.answers: list[tuple[float, int, dict[str, Any]]] = []

    async def __aenter__(self) -> Asking:
        self._task = asyncio.create_task(self._ask())
        return self

    async def __aexit__(self, *failure: object) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})
        if not self._task.cancelled():
            await self._task  # the connection broke: that is the failure to see

    async def until(self, wanted: Callable[[int, dict[str, Any]], bool]) -> float:
        """When the first answer came that is as wanted. Ends with the gateway's own deadline, through the task."""
        seen = 0
        while True:
            for when, status, body in self.answers[seen:]:
                if wanted(status, body):
                    return when
            seen = len(self.answers)
            if self._task.done():
                await self._task
            await asyncio.sleep(0.005)

    async def _ask(self) -> None:
        while True:
            status, body = await self.gateway.try_embed(TEXTS, MODEL)
            self.answers.append((time.monotonic(), status, body))
            await asyncio.sleep(0.005)  # leaves the machine's few cores to the copy


def code(body: dict[str, Any]) -> str:
    return str(body.get("error", {}).get("code"))


async def test_a_copied_model_is_served_when_it_is_whole_and_never_before(
    gateway: RunningGateway, physics: Path, volume: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    expected = reference(physics)
    slow = KubeServer(tmp_path, bytes_per_second=60 * MEGABYTE, stall_after=past_the_weights(physics))
    async with slow as kube, Asking(gateway) as asking:
        copying = asyncio.create_task(kube.kubectl("cp", physics, pod_path(volume / "finetuned" / "physics")))
        async with asyncio.timeout(DEADLINE):
            await asking.until(lambda status, body: code(body) == "model_copying")
        kube.release()
        done = await copying
        copied = time.monotonic()
        assert (done.status, done.err) == (0, "")
        async with asyncio.timeout(DEADLINE):
            served = await asking.until(lambda status, body: status == 200)
    record_property("seconds_from_last_byte_to_first_answer", round(served - copied, 3))
    print(f"\nserved {served - copied:.3f} s after kubectl had ended")
    before = [(status, code(body)) for when, status, body in asking.answers if when < served]
    assert {status for status, _ in before} <= {404, 409}
    assert {name for _, name in before} <= {"model_not_found", "model_copying"}
    assert (409, "model_copying") in before
    vectors, generation = await gateway.embed(TEXTS, MODEL)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert (await gateway.models())[MODEL]["generation"] == generation


async def test_a_copy_that_stalls_after_its_weights_is_not_served_until_it_goes_on(
    gateway: RunningGateway, physics: Path, volume: Path, tmp_path: Path
) -> None:
    async with KubeServer(tmp_path, stall_after=past_the_weights(physics)) as kube:
        client = await kube.start_kubectl("cp", physics, pod_path(volume / "finetuned" / "physics"))
        await kube.until_stalled()
        # two whole looks at the volume that see the directory as it lies, and do not take it
        await gateway.wait_for(MODEL, "copying")
        for _ in range(2):
            await gateway.wait_for_log("volume_scanned", after=len(gateway.log))
        assert (await gateway.models())[MODEL]["state"] == "copying"
        refused = await gateway.try_embed(TEXTS, MODEL)
        assert (refused[0], code(refused[1])) == (409, "model_copying")
        kube.release()
        await client.communicate()
    assert client.returncode == 0
    await gateway.wait_for(MODEL, *SERVED)
    assert (await gateway.embed(TEXTS, MODEL))[0].shape == (3, 384)


async def test_a_second_model_of_the_name_replaces_the_first_and_no_request_fails(
    gateway: RunningGateway, volume: Path, tmp_path: Path
) -> None:
    first = making.encoder(tmp_path / "first" / "physics", seed=1)
    second = making.encoder(tmp_path / "second" / "physics", seed=2)
    async with KubeServer(tmp_path) as kube:
        assert (await kube.kubectl("cp", first, pod_path(volume / "finetuned") + "/")).status == 0
        await gateway.wait_for(MODEL, *SERVED)
        old_vectors, old = await gateway.embed(TEXTS, MODEL)
        async with Asking(gateway) as asking:
            assert (await kube.kubectl("cp", second, pod_path(volume / "finetuned") + "/")).status == 0
            async with asyncio.timeout(DEADLINE):
                await asking.until(lambda status, body: body.get("generation") not in {old, None})
    new_vectors, new = await gateway.embed(TEXTS, MODEL)
    assert {status for _, status, _ in asking.answers} == {200}
    given = [body["generation"] for _, _, body in asking.answers]
    assert given == sorted(given, key=[old, new].index)  # the old one, and from one answer on the new one
    np.testing.assert_allclose(old_vectors, reference(Path(first)), atol=1e-5)
    np.testing.assert_allclose(new_vectors, reference(Path(second)), atol=1e-5)


async def test_an_identical_second_copy_that_nests_changes_nothing_that_is_served(
    gateway: RunningGateway, volume: Path, tmp_path: Path
) -> None:
    source = making.encoder(tmp_path / "client" / "physics", seed=1)
    async with KubeServer(tmp_path) as kube:
        assert (await kube.kubectl("cp", source, pod_path(volume / "finetuned" / "physics"))).status == 0
        await gateway.wait_for(MODEL, *SERVED)
        _, first = await gateway.embed(TEXTS, MODEL)
        seen = len(gateway.log)
        assert (await kube.kubectl("cp", source, pod_path(volume / "finetuned" / "physics"))).status == 0
        assert (volume / "finetuned" / "physics" / "physics" / "config.json").is_file()
        await gateway.wait_for_log("model_copying", after=seen, model=LOG_NAME)
        await gateway.wait_for(MODEL, *SERVED)
    assert (await gateway.embed(TEXTS, MODEL))[1] == first


async def test_a_copy_that_was_killed_is_named_as_incomplete_and_heals_when_it_is_completed(
    gateway: RunningGateway, physics: Path, volume: Path, tmp_path: Path
) -> None:
    async with KubeServer(tmp_path, stall_after=30 * MEGABYTE) as kube, Asking(gateway) as asking:
        client = await kube.start_kubectl("cp", physics, pod_path(volume / "finetuned" / "physics"))
        await kube.until_stalled()
        assert (await gateway.wait_for(MODEL, "copying"))["generation"] is None
        await kube.kill(client)
        rejected = await gateway.wait_for(MODEL, "rejected")
        assert "incomplete" in {reason["kind"] for reason in rejected["reasons"]}
        named = [reason for reason in rejected["reasons"] if reason["file"] == "model.safetensors"]
        assert named, json.dumps(rejected)
        assert all(reason["message"] and reason["remedy"] for reason in rejected["reasons"])
        refused = await gateway.try_embed(TEXTS, MODEL)
        assert (refused[0], code(refused[1])) == (409, "model_rejected")
        assert 200 not in {status for _, status, _ in asking.answers}

        done = await kube.kubectl("cp", f"{physics}/.", pod_path(volume / "finetuned" / "physics"))
        assert (done.status, done.err) == (0, "")
        await gateway.wait_for(MODEL, *SERVED)
    vectors, _ = await gateway.embed(TEXTS, MODEL)
    np.testing.assert_allclose(vectors, reference(physics), atol=1e-5)
