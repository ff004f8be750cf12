"""An adapter changes all linear layers of the encoder, and none of its heads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests import making
from trainer import lora
from trainer.errors import InvalidInput
from trainer.modelling import load

TEXTS = ["light and sound", "water", "the state of a system"]


def adapted(folder: Path, seed: int = 1, **options: object):  # type: ignore[no-untyped-def]  # a SentenceTransformer
    model = load(making.encoder(folder))
    asked = {"r": 4, "alpha": 8, "dropout": 0.0, "asked": (), "seed": seed, **options}
    return model, lora.add(model, **asked)


def test_all_linear_layers_but_the_heads_are_meant_by_the_shortest_names() -> None:
    layers = [f"encoder.layer.{n}.{part}" for n in (0, 1) for part in ("attention.self.query", "output.dense")]
    assert lora.targets([*layers, "pooler.dense"]) == ("output.dense", "query")
    assert lora.targets(layers) == ("dense", "query")


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "mpnet"])
def test_every_family_has_its_layers_adapted_and_no_head(tmp_path: Path, family: str) -> None:
    model = load(making.encoder(tmp_path / "m", family=family))
    chosen = lora.add(model, r=4, alpha=8, dropout=0.0, asked=(), seed=0)
    names = [name for name, _ in model.transformers_model.named_parameters() if "lora_A" in name]
    linear = lora.linear_layers(load(making.encoder(tmp_path / "n", family=family)))
    assert chosen
    assert len(names) == len([name for name in linear if "pooler" not in name])


def test_a_layer_that_is_not_there_is_an_error_that_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"q_proj.*query"):
        adapted(tmp_path / "m", asked=("q_proj",))


def test_the_first_weights_of_an_adapter_follow_from_the_seed_alone(tmp_path: Path) -> None:
    made = []
    for seed in (1, 1, 2):
        torch.rand(3)  # whoever drew before does not matter
        model, _ = adapted(tmp_path / "m", seed)
        made.append({n: p.clone() for n, p in model.transformers_model.named_parameters() if "lora_A" in n})
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
    assert not all(torch.equal(made[0][name], made[2][name]) for name in made[0])


def test_saved_weights_take_the_place_of_an_adapters(tmp_path: Path) -> None:
    one, _ = adapted(tmp_path / "m", 1)
    other, _ = adapted(tmp_path / "m", 2)
    for name, parameter in other.transformers_model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(0))
    other.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    lora.load_weights(one.transformers_model, tmp_path / "saved")
    assert np.array_equal(one.encode(TEXTS), other.encode(TEXTS))
