"""The tokenizer that is made without transformers is the one that transformers makes, or none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend

from gateway.host import library, wordpieces
from tests import making

Edit = Callable[[dict[str, Any], dict[str, Any]], None]  # of tokenizer.json and tokenizer_config.json
OLD = {"max_length": 128, "stride": 0, "truncation_side": "right", "truncation_strategy": "longest_first"}
FLAGS = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}


def build(path: Path, model_type: str = "bert") -> Backend | None:
    return wordpieces.build(str(path), os.listdir(path), model_type)


def transformers_tokenizer(path: Path) -> Any:
    return library.transformers().AutoTokenizer.from_pretrained(path, **library.LOCAL)


def written(backend: Backend) -> dict[str, Any]:
    """All that it is; how long a text may be, and what it is padded with, is set by whoever uses it."""
    document: dict[str, Any] = json.loads(backend.to_str())
    return document | {"truncation": None, "padding": None}


def edited(path: Path, edit: Edit) -> Path:
    files = [path / "tokenizer.json", path / "tokenizer_config.json"]
    documents = [json.loads(file.read_text()) for file in files]
    edit(*documents)
    for file, document in zip(files, documents, strict=True):
        file.write_text(json.dumps(document))
    return path


def added_tokens_of(document: dict[str, Any]) -> dict[str, Any]:
    return {str(token["id"]): {"content": token["content"]} | FLAGS for token in document["added_tokens"]}


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("family", ["bert", "distilbert", "electra"])
def test_it_is_that_of_transformers_in_every_part(family: str, lower: bool, tmp_path: Path) -> None:
    path = Path(making.encoder(tmp_path / "m", family=family, lower=lower))
    ours = build(path, family)
    assert ours is not None
    loaded = transformers_tokenizer(path)
    assert written(ours) == written(loaded.backend_tokenizer)
    assert set(ours.get_added_tokens_decoder()) == set(loaded.all_special_ids)
    assert (loaded.truncation_side, loaded.split_special_tokens) == ("right", False)


def test_so_is_that_of_minilm_as_older_releases_wrote_it(minilm: str) -> None:
    ours = build(Path(minilm))
    assert ours is not None
    assert written(ours) == written(transformers_tokenizer(Path(minilm)).backend_tokenizer)


USUAL: dict[str, Edit] = {
    "older settings": lambda document, config: config.update(OLD, do_basic_tokenize=True, never_split=None),
    "fast class": lambda document, config: config.update(tokenizer_class="BertTokenizerFast"),
    "special tokens listed again": lambda document, config: config.update(
        added_tokens_decoder=added_tokens_of(document), additional_special_tokens=[], extra_special_tokens={}
    ),
    "truncation in the file": lambda document, config: document.update(
        truncation={"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
    ),
    "Chinese and accents": lambda document, config: (
        config.update(tokenize_chinese_chars=False, strip_accents=False),
        document["normalizer"].update(handle_chinese_chars=False, strip_accents=False),
    )[0],
}


@pytest.mark.parametrize("edit", USUAL.values(), ids=USUAL)
def test_what_real_models_say_besides_changes_nothing(edit: Edit, tmp_path: Path) -> None:
    path = edited(Path(making.encoder(tmp_path / "m")), edit)
    ours = build(path)
    assert ours is not None
    assert written(ours) == written(transformers_tokenizer(path).backend_tokenizer)


UNUSUAL: dict[str, Edit] = {
    "another class": lambda document, config: config.update(tokenizer_class="PreTrainedTokenizerFast"),
    "no class": lambda document, config: config.pop("tokenizer_class"),
    "something unheard of": lambda document, config: config.update(shiny=True),
    "files that disagree": lambda document, config: config.update(do_lower_case=False),
    "another special token": lambda document, config: config.update(cls_token="[START]"),
    "more special tokens": lambda document, config: config.update(extra_special_tokens=["[E1]"]),
    "special tokens split": lambda document, config: config.update(split_special_tokens=True),
    "cut on the left": lambda document, config: config.update(truncation_side="left"),
    "cut on the left in the file": lambda document, config: document.update(
        truncation={"direction": "Left", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
    ),
    "an added word": lambda document, config: document["added_tokens"].append(
        {"id": 5, "content": "beam"} | FLAGS | {"special": False}
    ),
    "a mask that takes its space": lambda document, config: document["added_tokens"][4].update(lstrip=True),
    "an id that the vocabulary lacks": lambda document, config: document["added_tokens"][4].update(id=7),
    "a listed token of another id": lambda document, config: config.update(
        added_tokens_decoder=added_tokens_of(document) | {"9": {"content": "[MASK]"} | FLAGS}
    ),
    "another normalizer": lambda document, config: document.update(normalizer={"type": "Lowercase"}),
    "another pre-tokenizer": lambda document, config: document.update(pre_tokenizer={"type": "Whitespace"}),
    "other pieces": lambda document, config: document["model"].update(continuing_subword_prefix="@@"),
    "no special tokens around a text": lambda document, config: document.update(post_processor=None),
    "ids that are no numbers": lambda document, config: document["model"]["vocab"].update(beam="6"),
    "ids below zero": lambda document, config: document["model"]["vocab"].update(beam=-6),
}


@pytest.mark.parametrize("edit", UNUSUAL.values(), ids=UNUSUAL)
def test_anything_unusual_is_left_to_transformers(edit: Edit, tmp_path: Path) -> None:
    assert build(edited(Path(making.encoder(tmp_path / "m")), edit)) is None


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("harm", ["missing", "cut"])
def test_files_that_are_not_whole_are_left_to_transformers(name: str, harm: str, tmp_path: Path) -> None:
    path = Path(making.encoder(tmp_path / "m"))
    os.truncate(path / name, 99) if harm == "cut" else os.remove(path / name)
    assert build(path) is None


def test_a_map_of_special_tokens_may_say_what_is_so_anyway_and_nothing_else(tmp_path: Path) -> None:
    path = Path(making.encoder(tmp_path / "m"))
    told = {"cls_token": "[CLS]", "mask_token": {"content": "[MASK]", "lstrip": False, "single_word": False}}
    (path / "special_tokens_map.json").write_text(json.dumps(told))
    ours = build(path)
    assert ours is not None
    assert written(ours) == written(transformers_tokenizer(path).backend_tokenizer)
    (path / "special_tokens_map.json").write_text(json.dumps(told | {"cls_token": "[MASK]"}))
    assert build(path) is None


def test_tokens_in_a_file_of_their_own_are_left_to_transformers(tmp_path: Path) -> None:
    path = Path(making.encoder(tmp_path / "m"))
    (path / "added_tokens.json").write_text("{}")
    assert build(path) is None


def test_other_families_are_left_to_transformers(tmp_path: Path) -> None:
    path = Path(making.encoder(tmp_path / "m"))
    assert build(path, "mpnet") is None


def test_a_plain_tokenizer_is_loaded_without_importing_transformers(minilm: str, tmp_path: Path) -> None:
    copy = shutil.copytree(minilm, tmp_path / "m")
    program = (
        "import sys\n"
        "from gateway.host.tokenize import shared\n"
        "from gateway.model import Accepted, Generation\n"
        "from gateway.volume.manifest import judge\n"
        "verdict = judge(sys.argv[1])\n"
        "assert isinstance(verdict, Accepted)\n"
        "ids = shared(Generation('0' * 64, sys.argv[1], verdict.manifest)).encode(['the beam'])\n"
        "print(ids[0].tolist(), 'transformers' in sys.modules)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", program, str(copy)], check=True, capture_output=True, text=True, env={**os.environ}
    )
    assert said.stdout == "[101, 1996, 7504, 102] False\n"
