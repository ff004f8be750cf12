"""What `trainer quantize` made, dropped over the model that it was made of: served as measured, and taken back."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests import making
from tests.running import RunningGateway
from trainer import drift, golden, metadata, reload
from trainer.forms import FORMS
from trainer.publish import publish
from trainer.quantize import quantize
from trainer.texts import TEXTS

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("bitsandbytes", "accelerate", "torchao", "openvino", "nncf"))),
    reason="the extra for quantized models is not installed",
)
ALONE = {"bnb-int8": 0.999}  # it rounds by the largest numbers of a call, and calls are made of other texts there


def cosines(left: golden.Matrix, right: golden.Matrix) -> golden.Matrix:
    return (left * right).sum(axis=1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)


async def test_every_form_is_served_as_it_was_measured_and_rolled_back(tmp_path: Path) -> None:
    source = Path(making.encoder(tmp_path / "float32", dim=64))
    metadata.write(source, {"display_name": "Physics"})
    models = tmp_path / "models"
    models.mkdir()
    for form in FORMS:
        publish(source, f"finetuned/{form}", models)
    made = {
        form: quantize(source, tmp_path / form, form, answered=here, min_cosine=0.9, max_loss=1.0) for form in FORMS
    }
    async with RunningGateway(models, tmp_path / "state") as gateway:
        for form, done in made.items():
            name = f"finetuned/{form}"
            model = f"huggingface:{name}"
            await gateway.wait_for(model, "ready", "loaded")  # equal content is loaded once
            exact, first = await gateway.embed(list(TEXTS), model)
            publish(done.path, name, models)
            swapped = await gateway.wait_for_log("model_swapped", model=name)
            vectors, generation = await gateway.embed(list(TEXTS), model)
            assert generation == swapped["generation"][: len(generation)] != first
            own = reload.encode(reload.load(done.path), TEXTS)
            assert cosines(vectors, own).min() > ALONE.get(form, 0.9999), form
            measured, served = done.measured.drift.cosine, drift.between(exact, vectors).cosine
            assert measured is not None
            assert served is not None
            assert served.mean == pytest.approx(measured.mean, abs=0.002), form
            assert served.min == pytest.approx(measured.min, abs=0.01), form

            await rolled_back(gateway, model)
            again, back = await gateway.embed(list(TEXTS), model)
            assert back == first
            np.testing.assert_allclose(again, exact, atol=1e-6)


async def rolled_back(gateway: RunningGateway, model: str) -> None:
    async with gateway.session.post(f"/models/{model}/rollback") as answer:
        assert answer.status == 200, json.dumps(await answer.json())


def here(directory: Path, texts: Sequence[str], *, role: reload.Role = "") -> reload.Answer:
    """As `reload.answered`, without a process of its own: tests/trainer/test_quantize.py shows that one."""
    return reload.Answer(reload.encode(reload.load(directory), texts, role), 0.1)
