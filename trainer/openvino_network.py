"""The first module of a SentenceTransformer, its network run by OpenVINO. Importing this takes seconds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.modules import InputModule
from torch import Tensor

from trainer.openvino_files import BIN, FOLDER, INPUTS, XML, library

# What is not set here OpenVINO chooses for itself: to compute in bfloat16 where the processor can, and to round what it
# computes with to int8 where the weights are, so that a vector depends on the texts beside it.
EXACT = {
    "INFERENCE_PRECISION_HINT": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    "ENABLE_CPU_PINNING": False,
    "NUM_STREAMS": 1,
}


class OpenVinoTransformer(InputModule):  # type: ignore[misc]  # the library ships no types
    """Texts in, token vectors out, as `Transformer` makes them."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        from transformers import AutoTokenizer  # noqa: PLC0415

        self.tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
        self._config = json.loads((directory / "config.json").read_bytes())
        settings = directory / "sentence_bert_config.json"
        self._settings = json.loads(settings.read_bytes()) if settings.is_file() else {}
        core, at = library().Core(), directory / FOLDER
        model = core.read_model(str(at / XML), str(at / BIN))
        compiled = core.compile_model(model, "CPU", EXACT | {"INFERENCE_NUM_THREADS": torch.get_num_threads()})
        self._request = compiled.create_infer_request()

    @property
    def max_seq_length(self) -> int:
        """Tokens of a text that are read: as the settings say, else the tokenizer, and never more than positions."""
        told = self._settings.get("max_seq_length") or self.tokenizer.model_max_length
        return min(int(told), int(self._config.get("max_position_embeddings", told)))

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Ids and mask; with a prompt also how many tokens it has, which some poolings leave out."""
        features = self._tokens([(prompt or "") + text for text in inputs])
        if prompt:
            alone = self._tokens([prompt])["input_ids"][0]
            ends = int(alone[-1]) in self.tokenizer.all_special_ids
            features["prompt_length"] = len(alone) - ends
        return features

    def _tokens(self, texts: list[str]) -> dict[str, Any]:
        if self._settings.get("do_lower_case"):
            texts = [text.lower() for text in texts]
        told = self.tokenizer(texts, padding=True, truncation=True, max_length=self.max_seq_length, return_tensors="pt")
        return {name: told[name] for name in INPUTS}

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        arrays = [features[name].numpy() for name in INPUTS]
        tokens: Tensor = torch.from_numpy(self._request.infer(arrays)[0].copy())
        tokens[features["attention_mask"] == 0] = 0.0  # what attends to nothing is not a number
        features["token_embeddings"] = tokens
        return features

    def get_embedding_dimension(self) -> int:
        return int(self._config.get("hidden_size") or self._config["dim"])

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("its files are copied, never written anew")
