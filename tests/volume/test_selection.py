"""Which files of a repository are fetched: what is loaded, its licence, and nothing that runs."""

from __future__ import annotations

from typing import Final, NamedTuple

import pytest

from gateway.errors import NothingToServe
from gateway.volume.selection import is_weights, select


class File(NamedTuple):
    path: str


ENCODER: Final = [
    "config.json", "model.safetensors", "modules.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt",
    "README.md", "LICENSE", "1_Pooling/config.json",
]  # fmt: skip


def chosen(*paths: str, folders: tuple[str, ...] = ("", "1_Pooling"), allow_pickle: bool = False) -> list[str]:
    return [file.path for file in select([File(path) for path in paths], folders, allow_pickle=allow_pickle)]


def test_an_encoder_is_fetched_with_the_files_of_its_modules() -> None:
    assert sorted(chosen(*ENCODER)) == sorted(ENCODER)


def test_weights_come_last() -> None:
    found = chosen(*ENCODER)
    assert [is_weights(path) for path in found] == [False] * 8 + [True]


@pytest.mark.parametrize(
    "path",
    [
        "pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack", "rust_model.ot",
        "onnx/model.onnx", "onnx/config.json", "openvino/openvino_model.bin", "modeling.py", "configuration.py",
        "checkpoint-5/model.safetensors", "checkpoint-5/config.json", ".gitattributes", "model.gguf", "train.parquet",
        "model.fp16.safetensors", "consolidated.safetensors", "training_args.bin", "2_Dense/model.safetensors",
        "scripts/install.sh", "../outside.json", "a//b.json", "model.onnx.index.json",
    ],
)  # fmt: skip
def test_what_is_not_loaded_is_not_fetched(path: str) -> None:
    assert path not in chosen(*ENCODER, path)


def test_every_shard_and_its_index_are_fetched() -> None:
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    assert set(shards) <= set(chosen("config.json", *shards))


@pytest.mark.parametrize("name", ["spiece.model", "sentencepiece.bpe.model", "merges.txt", "chat_template.jinja"])
def test_every_kind_of_tokenizer_is_fetched(name: str) -> None:
    assert name in chosen(*ENCODER, name)


def test_an_adapter_is_fetched_with_its_own_weights() -> None:
    assert chosen("adapter_config.json", "adapter_model.safetensors") == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_pickles_are_fetched_where_there_is_nothing_else_and_they_are_allowed() -> None:
    dense = ("2_Dense/config.json", "2_Dense/pytorch_model.bin")
    folders = ("", "1_Pooling", "2_Dense")
    found = chosen(*ENCODER, "pytorch_model.bin", *dense, folders=folders, allow_pickle=True)
    assert set(dense) <= set(found)
    assert "pytorch_model.bin" not in found
    with pytest.raises(NothingToServe, match="2_Dense are pickles"):
        chosen(*ENCODER, *dense, folders=folders)


def test_a_repository_without_weights_is_refused() -> None:
    with pytest.raises(NothingToServe, match="no weights in safetensors"):
        chosen("config.json", "model.gguf")
