"""Gateways over one volume whose events never come, each with a state directory of its own, that never speak to each
other: what one serves the other serves, and nobody who asks notices what happens to it."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import making
from tests.e2e.clients import TEXTS, Clients, Vectors, drop, least_cosine, reference, until
from tests.running import RunningGateway

NAMES = ("a", "b")
PATHS = tuple(f"finetuned/{name}" for name in NAMES)
POLLING = ("--device=cpu", "--watch=polling", "--scan-interval=0.2", "--settle-seconds=0.1")


def overwrite(source: str, target: Path) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True)


def hears(pid: int) -> bool:
    """Whether a process has the kernel tell it of files."""
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            if "inotify" in os.readlink(path):
                return True
    return False


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    base = tmp_path_factory.mktemp("made")
    return [making.encoder(base / str(seed), seed=seed) for seed in range(4)]


async def test_two_gateways_agree_on_what_is_live_and_lose_no_request(tmp_path: Path, made: list[str]) -> None:
    volume = tmp_path / "models"
    for path in PATHS:
        (volume / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(made[0], volume / path)
    states = [tmp_path / name for name in ("one", "two")]
    async with (
        RunningGateway(volume, states[0], *POLLING, "--settle-in-place-seconds=0.5") as one,
        RunningGateway(volume, states[1], *POLLING, "--settle-in-place-seconds=0.5") as two,
    ):
        both = (one, two)
        for running in both:
            watched = await running.wait_for_log("volume_watched")
            assert (watched["way"], watched["period"]) == ("polling", 0.2)
            assert not hears(running.pid)
            for path in PATHS:
                await running.wait_for(f"huggingface:{path}", "ready", "loaded")
        sources: dict[str, str] = {(await one.embed(TEXTS, "finetuned/a"))[1]: made[0]}

        async def agree(path: str, source: str) -> None:
            """Until both serve another generation than before; it is one and the same."""
            found: set[str] = set()

            async def swapped() -> bool:
                found.clear()
                found.update([(await running.embed(TEXTS, path))[1] for running in both])
                others = {generation for generation, made_from in sources.items() if made_from != source}
                return len(found) == 1 and not found & others

            await until(swapped)
            sources[found.pop()] = source

        async def rejected(path: str, code: str) -> None:
            async def shown() -> bool:
                each = [(await running.models())[f"huggingface:{path}"]["reasons"] for running in both]
                return all(reasons and reasons[0]["code"] == code for reasons in each)

            await until(shown)

        async with Clients(one, list(PATHS) * 2) as here, Clients(two, list(PATHS) * 2) as there:
            drop(made[1], volume / "finetuned/a")
            await agree("finetuned/a", made[1])
            overwrite(made[2], volume / "finetuned/b")
            await agree("finetuned/b", made[2])
            (volume / "finetuned/a/config.json").write_text("{")
            await rejected("finetuned/a", "json_invalid")
            os.truncate(volume / "finetuned/b/model.safetensors", 1000)
            await rejected("finetuned/b", "weights_truncated")
            overwrite(made[3], volume / "finetuned/b")
            await agree("finetuned/b", made[3])
            drop(made[0], volume / "finetuned/a")
            await agree("finetuned/a", made[0])
        for clients in (here, there):
            assert clients.statuses() == {200}
            assert len(set(clients.generations())) >= 3
            for _, _, body in clients.answers:
                assert right(body, sources)
        shutil.rmtree(volume / "finetuned/a")
        for running in both:
            await running.wait_for_log("model_removed", model="finetuned/a")
            assert (await running.try_embed(TEXTS, "finetuned/a"))[0] == 404
            assert (await running.try_embed(TEXTS, "finetuned/b"))[0] == 200


def right(body: dict[str, Any], sources: dict[str, str]) -> bool:
    """Whether the vectors are those of the generation that the answer names: never of a mixture."""
    vectors = np.array(body["embeddings"], dtype=np.float32)
    return least_cosine(vectors, truth(sources[body["generation"]])) > 0.9999


@functools.cache
def truth(source: str) -> Vectors:
    """Made once for the many answers that are held to it."""
    return reference(source, TEXTS)
