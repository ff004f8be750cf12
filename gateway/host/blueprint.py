"""What a config.json says of a BERT-like network, for the families whose forward pass is our own.

Read strictly: a value that is not exactly understood gives no blueprint, and transformers runs the model. The
defaults are those of transformers' configuration classes, which leave out what equals them when they write.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.host.linear import Activation

ACTIVATIONS: Final[dict[str, Activation]] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


class Names(msgspec.Struct, frozen=True):
    """The tensors' names in the files, without `.weight` and `.bias`; those of a layer go behind `layer.<number>`."""

    prefix: str
    layer: str
    query: str
    key: str
    value: str
    out: str
    out_norm: str
    inner: str
    outer: str
    outer_norm: str
    types: str | None = "embeddings.token_type_embeddings"
    bias: str | None = None


class Family(msgspec.Struct, frozen=True):
    """`keys` are the names of our fields in config.json, `defaults` what an absent one means.

    `first` says where positions begin: at 0, or behind the id of the padding, whose tokens are not counted.
    """

    names: Names
    keys: Mapping[str, str]
    defaults: Mapping[str, Any]
    counted: bool = False


class Blueprint(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of a network. `skipped` is the id whose tokens have no position of their own, None if all have one."""

    names: Names
    vocab: int
    width: int
    layers: int
    heads: int
    inner: int
    positions: int
    types: int
    epsilon: float
    activation: Activation
    skipped: int | None


BERT_NAMES: Final = Names(
    prefix="bert.",
    layer="encoder.layer",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    out="attention.output.dense",
    out_norm="attention.output.LayerNorm",
    inner="intermediate.dense",
    outer="output.dense",
    outer_norm="output.LayerNorm",
)
MPNET_NAMES: Final = msgspec.structs.replace(
    BERT_NAMES,
    prefix="mpnet.",
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    out="attention.attn.o",
    out_norm="attention.LayerNorm",
    types=None,
    bias="encoder.relative_attention_bias",
)
DISTILBERT_NAMES: Final = Names(
    prefix="distilbert.",
    layer="transformer.layer",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    out="attention.out_lin",
    out_norm="sa_layer_norm",
    inner="ffn.lin1",
    outer="ffn.lin2",
    outer_norm="output_layer_norm",
    types=None,
)
BERT_KEYS: Final = {
    "vocab": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "inner": "intermediate_size",
    "positions": "max_position_embeddings",
    "activation": "hidden_act",
    "epsilon": "layer_norm_eps",
    "types": "type_vocab_size",
    "pad": "pad_token_id",
}
DISTILBERT_KEYS: Final = BERT_KEYS | {
    "width": "dim",
    "layers": "n_layers",
    "heads": "n_heads",
    "inner": "hidden_dim",
    "activation": "activation",
}
BERT_DEFAULTS: Final = {
    "vocab": 30522,
    "width": 768,
    "layers": 12,
    "heads": 12,
    "inner": 3072,
    "positions": 512,
    "activation": "gelu",
    "epsilon": 1e-12,
    "types": 2,
    "pad": 0,
}
ROBERTA_NAMES: Final = msgspec.structs.replace(BERT_NAMES, prefix="roberta.")
ROBERTA_DEFAULTS: Final = BERT_DEFAULTS | {"pad": 1}

FAMILIES: Final[dict[str, Family]] = {
    "bert": Family(BERT_NAMES, BERT_KEYS, BERT_DEFAULTS),
    "roberta": Family(ROBERTA_NAMES, BERT_KEYS, ROBERTA_DEFAULTS | {"vocab": 50265}, counted=True),
    "xlm-roberta": Family(ROBERTA_NAMES, BERT_KEYS, ROBERTA_DEFAULTS, counted=True),
    "camembert": Family(ROBERTA_NAMES, BERT_KEYS, ROBERTA_DEFAULTS, counted=True),
    "distilbert": Family(DISTILBERT_NAMES, DISTILBERT_KEYS, BERT_DEFAULTS | {"layers": 6}),
    "mpnet": Family(MPNET_NAMES, BERT_KEYS, ROBERTA_DEFAULTS | {"vocab": 30527}, counted=True),
}
# whatever the file says
FIXED: Final[dict[str, dict[str, Any]]] = {
    "distilbert": {"epsilon": 1e-12, "types": 0},
    "mpnet": {"types": 0, "pad": 1},
}
# Anything but these values changes what a network computes, or how its tensors are to be read.
USUAL: Final[dict[str, tuple[Any, ...]]] = {
    "is_decoder": (False,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "position_embedding_type": ("absolute",),
    "relative_attention_num_buckets": (32,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "embedding_size": (),
    "head_dim": (),
}


def read(config: Any) -> Blueprint | None:
    """The blueprint in a parsed config.json, or None for what only transformers should run."""
    kind = str(config.get("model_type")) if isinstance(config, dict) else ""
    if kind not in FAMILIES:
        return None
    if any(key in config and config[key] not in usual for key, usual in USUAL.items()):
        return None
    family = FAMILIES[kind]
    if any(key in config for key in set(BERT_KEYS.values()) - set(family.keys.values())):
        return None  # two spellings of one size
    found = {field: config.get(key, family.defaults[field]) for field, key in family.keys.items()}
    return _blueprint(family, found | FIXED.get(kind, {}))


def _blueprint(family: Family, found: dict[str, Any]) -> Blueprint | None:
    pad = found.pop("pad")
    found["activation"] = ACTIVATIONS.get(str(found["activation"]))
    try:
        plan = msgspec.convert(found | {"names": family.names, "skipped": pad if family.counted else None}, Blueprint)
    except msgspec.ValidationError:
        return None
    sizes = (plan.vocab, plan.width, plan.layers, plan.heads, plan.inner, plan.positions)
    if min(sizes) < 1 or plan.width % plan.heads or (family.counted and plan.skipped is None):
        return None
    return plan
