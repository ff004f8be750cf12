"""The ways in which a model may lie on the volume, over a whole gateway that serves large models in place."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from tests import making
from tests.e2e.clients import TEXTS, reference, until
from tests.running import RunningGateway

pytestmark = pytest.mark.asyncio(loop_scope="module")
QUICK = ("--settle-seconds=0.2", "--settle-in-place-seconds=0.5", "--settle-writer-seconds=0.1", "--scan-interval=1")
SERVED = ("ready", "loading", "loaded")
LARGE = 200_000  # bytes; the small models of these tests have less


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("layouts")
    (base / "models/finetuned").mkdir(parents=True)
    return base


@pytest.fixture(scope="module")
def made(base: Path) -> list[Path]:
    return [Path(making.encoder(base / f"made/{seed}", seed=seed, dim=16, layers=1, heads=2)) for seed in range(2)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(base: Path) -> AsyncIterator[RunningGateway]:
    options = (f"--copy-budget={LARGE}", "--device=cpu", *QUICK)
    async with RunningGateway(base / "models", base / "state", *options) as running:
        yield running


def placed(made: Path, place: Path) -> Path:
    """A copy by a rename."""
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(made, place.parent / f".{place.name}")
    return (place.parent / f".{place.name}").rename(place)


async def test_a_model_over_the_copy_budget_is_served_from_where_it_lies_also_after_a_touch(
    gateway: RunningGateway, base: Path
) -> None:
    large = Path(making.encoder(base / "made/large", dim=64, seed=7))
    name = "huggingface:finetuned/large"
    place = placed(large, base / "models/finetuned/large")
    await gateway.wait_for(name, *SERVED)
    vectors, generation = await gateway.embed(TEXTS, name)
    np.testing.assert_allclose(vectors, reference(large, TEXTS), atol=1e-5)
    assert "in place" in (await gateway.models())[name]["warnings"][0]
    held = sum(path.stat().st_size for path in (base / "state/generations").glob(f"{generation}*/**/*"))
    assert held < LARGE
    os.truncate(place / "model.safetensors", 100)  # who overwrites it, whatever the docs say, harms no answer
    np.testing.assert_array_equal((await gateway.embed(TEXTS, name))[0], vectors)
    shutil.copy(large / "model.safetensors", place / "model.safetensors")

    async def unloaded_and_loaded_again() -> bool:
        async with gateway.session.post(f"/models/{name}/unload") as answer:
            assert answer.status == 200
        status, body = await gateway.try_embed(TEXTS, name)
        assert status in (200, 503), body  # until the directory has settled it is not what was accepted
        return status == 200 and body["generation"] == generation

    await until(unloaded_and_loaded_again)
    np.testing.assert_array_equal((await gateway.embed(TEXTS, name))[0], vectors)


async def test_the_links_of_a_configmap_are_served_and_their_exchange_swaps(
    gateway: RunningGateway, base: Path, made: list[Path]
) -> None:
    place = base / "models/finetuned/.mounted"
    shutil.copytree(made[0], place / "..2026_01")
    for name in os.listdir(made[0]):
        (place / name).symlink_to(f"..data/{name}")
    (place / "..data").symlink_to("..2026_01")
    place.rename(base / "models/finetuned/mounted")
    place = base / "models/finetuned/mounted"
    model = "huggingface:finetuned/mounted"
    await gateway.wait_for(model, *SERVED)
    vectors, generation = await gateway.embed(TEXTS, model)
    np.testing.assert_allclose(vectors, reference(made[0], TEXTS), atol=1e-5)
    shutil.copytree(made[1], place / "..2026_02")
    (place / "..data_tmp").symlink_to("..2026_02")
    (place / "..data_tmp").rename(place / "..data")
    await gateway.wait_for_log("model_swapped", model="finetuned/mounted", previous=generation)
    vectors, _ = await gateway.embed(TEXTS, model)
    np.testing.assert_allclose(vectors, reference(made[1], TEXTS), atol=1e-5)


async def test_a_legacy_model_and_a_flat_cache_answer_to_the_names_that_old_clients_send(
    gateway: RunningGateway, base: Path, made: list[Path]
) -> None:
    placed(made[0], base / "models/ouragboros_finetuned")
    placed(made[1], base / "models/thellert_physbert_cased")
    await gateway.wait_for("huggingface:ouragboros_finetuned", *SERVED)
    await gateway.wait_for("huggingface:thellert_physbert_cased", *SERVED)
    legacy, _ = await gateway.embed(TEXTS, f"huggingface:{base}/models/ouragboros_finetuned")
    np.testing.assert_allclose(legacy, reference(made[0], TEXTS), atol=1e-5)
    flat, _ = await gateway.embed(TEXTS, "huggingface:thellert/physbert_cased")
    np.testing.assert_allclose(flat, reference(made[1], TEXTS), atol=1e-5)


async def test_a_numbered_version_answers_to_its_own_name(
    gateway: RunningGateway, base: Path, made: list[Path]
) -> None:
    placed(made[0], base / "models/finetuned/numbered/1")
    placed(made[1], base / "models/finetuned/numbered/2")
    for number, source in enumerate(made, 1):

        async def answers(number: int = number) -> bool:
            return (await gateway.try_embed(TEXTS, f"huggingface:finetuned/numbered/{number}"))[0] == 200

        await until(answers)
        vectors, _ = await gateway.embed(TEXTS, f"huggingface:finetuned/numbered/{number}")
        np.testing.assert_allclose(vectors, reference(source, TEXTS), atol=1e-5)
