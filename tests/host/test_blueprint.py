"""A config is either understood in full, or left to transformers."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from gateway.host import blueprint


@pytest.mark.parametrize("family", blueprint.FAMILIES)
def test_what_a_config_leaves_out_is_what_transformers_takes_for_it(family: str) -> None:
    known = CONFIG_MAPPING[family]()
    ours = blueprint.FAMILIES[family]
    fixed = blueprint.FIXED.get(family, {})
    assert {field: getattr(known, key) for field, key in ours.keys.items() if field not in fixed} == {
        field: default for field, default in ours.defaults.items() if field not in fixed
    }


@pytest.mark.parametrize("family", blueprint.FAMILIES)
def test_the_usual_values_are_those_of_transformers(family: str) -> None:
    known = CONFIG_MAPPING[family]().to_dict()
    for key, usual in blueprint.USUAL.items():
        assert key not in known or known[key] in usual, key


def test_sizes_are_read_under_the_names_of_the_family() -> None:
    plan = blueprint.read({"model_type": "distilbert", "dim": 64, "n_heads": 4, "hidden_dim": 128, "n_layers": 3})
    assert plan is not None
    assert (plan.width, plan.heads, plan.inner, plan.layers, plan.skipped) == (64, 4, 128, 3, None)


def test_positions_of_roberta_are_counted_from_behind_the_padding() -> None:
    plan = blueprint.read({"model_type": "xlm-roberta", "pad_token_id": 3})
    assert plan is not None
    assert plan.skipped == 3


@pytest.mark.parametrize(
    "changed",
    [
        {"hidden_act": "silu"},
        {"hidden_act": "gelu_fast"},
        {"hidden_act": None},
        {"position_embedding_type": "relative_key"},
        {"is_decoder": True},
        {"add_cross_attention": True},
        {"pruned_heads": {"0": [1]}},
        {"quantization_config": {"quant_method": "bitsandbytes"}},
        {"embedding_size": 128},
        {"hidden_size": "768"},
        {"hidden_size": 770},
        {"num_hidden_layers": 0},
        {"num_attention_heads": True},
        {"num_attention_heads": -12},
        {"layer_norm_eps": None},
        {"model_type": "electra"},
        {"model_type": ["bert"]},
        {"model_type": "mpnet", "relative_attention_num_buckets": 64},
        {"model_type": "roberta", "pad_token_id": None},
        {"model_type": "distilbert", "hidden_size": 768},
    ],
    ids=str,
)
def test_what_is_not_exactly_understood_has_no_blueprint(changed: dict[str, Any]) -> None:
    assert blueprint.read({"model_type": "bert"}) is not None
    assert blueprint.read({"model_type": "bert"} | changed) is None


@pytest.mark.parametrize("config", [None, [], "bert", 7, {}])
def test_what_is_no_config_has_no_blueprint(config: Any) -> None:
    assert blueprint.read(config) is None
