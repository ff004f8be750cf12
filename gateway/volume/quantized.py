"""Weights that are stored in fewer bits: which kinds of them are served, and what they need to be installed here.

What a library reads from `quantization_config` decides what it does with the tensors, so nothing goes on to it that
is not known here: an unknown key, or a value of another kind, is refused by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, Final

from gateway.volume.documents import Document, shown
from gateway.volume.reasons import Unfit, unfit

KEY: Final = "quantization_config"
BITSANDBYTES: Final = "bitsandbytes"
TORCHAO: Final = "torchao"
OPENVINO: Final = "openvino"
LIBRARIES: Final = {BITSANDBYTES: ("bitsandbytes", "accelerate"), TORCHAO: ("torchao",), OPENVINO: ("openvino",)}
EXTRAS: Final = {BITSANDBYTES: "quantized", TORCHAO: "quantized", OPENVINO: "openvino"}

Check = Callable[[Any], bool]


def _is(*values: Any) -> Check:
    return lambda found: any(found is value or (type(found) is type(value) and found == value) for value in values)


def _names(found: Any) -> bool:
    return found is None or (isinstance(found, list) and all(isinstance(name, str) for name in found))


def _number(found: Any) -> bool:
    return isinstance(found, int | float) and not isinstance(found, bool) and 0 <= found < 1e9


TYPED: Final = frozenset({"_type", "_version", "_data"})


def _is_int8_weights(found: Any) -> bool:
    """Whether this is int8 for the weights alone, a scale for each row, as torchao spells it since 0.18."""
    only = found.get("default") if isinstance(found, dict) and len(found) == 1 else None
    if not isinstance(only, dict) or only.get("_type") != "Int8WeightOnlyConfig" or set(only) - TYPED:
        return False
    data = only.get("_data")
    if not isinstance(data, dict) or set(data) - {"granularity", "group_size", "set_inductor_config"}:
        return False
    rows = data.get("granularity")
    if not isinstance(rows, dict) or set(rows) - TYPED:
        return False
    by_row = rows.get("_type") == "PerRow" and rows.get("_data") == {"dim": -1}
    return by_row and data.get("group_size") is None


OF_BITSANDBYTES: Final[Mapping[str, Check]] = {
    "quant_method": _is(BITSANDBYTES),
    **dict.fromkeys(("_load_in_8bit", "_load_in_4bit", "load_in_8bit", "load_in_4bit"), _is(True, False)),
    "bnb_4bit_use_double_quant": _is(True, False),
    **dict.fromkeys(("llm_int8_enable_fp32_cpu_offload", "llm_int8_has_fp16_weight"), _is(False)),
    "llm_int8_threshold": _number,
    "llm_int8_skip_modules": _names,
    "bnb_4bit_quant_type": _is("nf4", "fp4"),
    "bnb_4bit_quant_storage": _is("uint8"),
    "bnb_4bit_compute_dtype": _is("float32", "float16", "bfloat16"),
}
OF_TORCHAO: Final[Mapping[str, Check]] = {
    "quant_method": _is(TORCHAO),
    "modules_to_not_convert": _names,
    **dict.fromkeys(("include_input_output_embeddings", "untie_embedding_weights"), _is(False)),
    "quant_type": _is_int8_weights,
}


def read_quantization(config: Document) -> str | None:
    """The library that made the weights of this config.json; None where they are plain. Raises Unfit
    (quantization_not_served, library_missing)."""
    if not config.given(KEY):
        return None
    fields = config.inner(KEY)
    method = fields.text("quant_method", "unknown")
    known = {BITSANDBYTES: OF_BITSANDBYTES, TORCHAO: OF_TORCHAO}.get(method)
    if known is None:
        message = f"the weights are quantized ({shown(method)}), which this version does not serve"
        raise unfit("quantization_not_served", message, config.name)
    for key, value in fields.fields.items():
        if key not in known or not known[key](value):
            raise _odd(method, key, value, config.name)
    if method == BITSANDBYTES and fields.flag("load_in_8bit", False) == fields.flag("load_in_4bit", False):
        raise _odd(method, "load_in_8bit", fields.fields.get("load_in_8bit"), config.name)
    demand_library(method, config.name)
    return method


def demand_library(method: str, file: str) -> None:
    """Raises Unfit (library_missing) where what reads these weights is not installed."""
    missing = [name for name in LIBRARIES[method] if find_spec(name) is None]
    if missing:
        extra = f"dropgate[{EXTRAS[method]}]"
        message = f"the weights are of {method}, and {' and '.join(missing)} is not installed here ({extra})"
        raise unfit("library_missing", message, file, heals=extra)


def _odd(method: str, key: str, value: Any, file: str) -> Unfit:
    message = f"the weights are quantized ({method}) with {shown(key)} = {shown(value)}, which is not served"
    return unfit("quantization_not_served", message, file)
