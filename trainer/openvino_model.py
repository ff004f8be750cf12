"""A model whose network is OpenVINO's: the layout of sentence-transformers' own OpenVINO backend, without its library.

    config.json, tokenizer, modules.json, 1_Pooling/ ...    as of any model
    openvino/openvino_model.xml, openvino/openvino_model.bin    the network, in place of model.safetensors

In goes `input_ids` and `attention_mask`, out come token vectors; pooling and what follows are sentence-transformers'.
"""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from pathlib import Path
from typing import Any

from trainer.errors import NotAModel
from trainer.openvino_files import FOLDER, INPUTS, XML, library


def is_one(directory: Path) -> bool:
    return (directory / FOLDER / XML).is_file() and not (directory / "model.safetensors").is_file()


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


def write(network: Any, directory: Path) -> None:
    """The network of a transformers model with int8 weights, as the two files in `directory`. Computed with are float32
    numbers: only what lies on the disk, and is read for each product, is int8."""
    openvino = library()
    import logging  # noqa: PLC0415

    import nncf  # noqa: PLC0415  an extra

    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):  # nncf draws its bar there
        model = nncf.compress_weights(_converted(network, openvino), mode=nncf.CompressWeightsMode.INT8_ASYM)
    (directory / FOLDER).mkdir()
    openvino.save_model(model, str(directory / FOLDER / XML), compress_to_fp16=False)


def _converted(network: Any, openvino: Any) -> Any:
    """Traced over two texts of different lengths, so that nothing of either's length stays in it."""
    import torch  # noqa: PLC0415  seconds

    class Tokens(torch.nn.Module):
        """Ids and mask in, token vectors out."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network.eval()

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.network(input_ids=input_ids, attention_mask=attention_mask, return_dict=True)[0]

    pad = getattr(network.config, "pad_token_id", None) or 0
    ids = torch.tensor([[pad + 1] * 5, [pad + 1] * 3 + [pad] * 2])
    mask = torch.tensor([[1] * 5, [1] * 3 + [0] * 2])
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice on tracing: what it would get wrong, the measuring finds
        return openvino.convert_model(
            Tokens(),
            example_input=dict(zip(INPUTS, (ids, mask), strict=True)),
            input=[(name, [-1, -1], openvino.Type.i64) for name in INPUTS],
        )
