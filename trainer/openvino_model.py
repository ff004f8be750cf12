"""A model whose network is OpenVINO's: the layout of sentence-transformers' own OpenVINO backend, without its library.

    config.json, tokenizer, modules.json, 1_Pooling/ ...    as of any model
    openvino/openvino_model.xml, openvino/openvino_model.bin    the network, in place of model.safetensors

In goes `input_ids` and `attention_mask`, out come token vectors; pooling and what follows are sentence-transformers'.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from trainer.errors import NotAModel

FOLDER: Final = "openvino"
XML: Final = "openvino_model.xml"
BIN: Final = "openvino_model.bin"
INPUTS: Final = ("input_ids", "attention_mask")


def is_one(directory: Path) -> bool:
    return (directory / FOLDER / XML).is_file() and not (directory / "model.safetensors").is_file()


def library() -> Any:
    """The module. A package beside it tells the library's maker of each conversion, over the network; without it
    nothing is told."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: it is not to be found
    import openvino  # noqa: PLC0415  an extra

    return openvino


def load(directory: Path) -> Any:
    """A SentenceTransformer whose first module is the network. On the CPU, in float32."""
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415  seconds

    from trainer.openvino_network import OpenVinoTransformer  # noqa: PLC0415

    chain = json.loads((directory / "modules.json").read_bytes())
    if chain[0].get("path"):
        raise NotAModel(f"{directory}: the network's settings lie in {chain[0]['path']}, expected beside modules.json")
    modules = [OpenVinoTransformer(directory), *(_module(directory, entry) for entry in chain[1:])]
    settings = json.loads((directory / "config_sentence_transformers.json").read_bytes())
    names = ("prompts", "default_prompt_name", "similarity_fn_name")
    return SentenceTransformer(modules=modules, device="cpu", **{name: settings.get(name) for name in names})


def _module(directory: Path, entry: dict[str, Any]) -> Any:
    from sentence_transformers.util import import_from_string  # noqa: PLC0415

    kind = import_from_string(entry["type"])
    return kind.load(str(directory), subfolder=entry["path"], local_files_only=True)
