"""What OpenVINO wrote is served when it is whole and made of arithmetic; weights of fewer bits when they are known."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.model import Accepted, Rejected
from gateway.volume.manifest import judge
from tests import making

XML = """<?xml version="1.0"?>
<net name="m" version="11"><layers>
<layer id="0" name="input_ids" type="Parameter" version="opset1"><data shape="?,?" element_type="i64"/></layer>
<layer id="1" name="x" type="Parameter" version="opset1"><data shape="?,?" element_type="i64"/>
<output><port id="0" names="attention_mask"><dim>-1</dim></port></output></layer>
<layer id="2" name="table" type="Const" version="opset1"><data element_type="u8" shape="{vocab}, 32" offset="0" size="{table}"/></layer>
<layer id="3" name="scale" type="Const" version="opset1"><data element_type="f16" shape="{vocab}, 1" offset="{table}" size="{scale}"/></layer>
<layer id="4" name="again" type="Const" version="opset1"><data element_type="f16" shape="{vocab}, 1" offset="{table}" size="{scale}"/></layer>
<layer id="5" name="g" type="Gather" version="opset8"/>
<layer id="6" name="r" type="Result" version="opset1"/>
</layers><edges/></net>
"""  # noqa: E501  as it is written


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = Path(making.encoder(tmp_path / "m"))
    (directory / "model.safetensors").unlink()
    vocab = json.loads((directory / "config.json").read_text())["vocab_size"]
    (directory / "openvino").mkdir()
    xml = XML.format(vocab=vocab, table=32 * vocab, scale=2 * vocab)
    (directory / "openvino/openvino_model.xml").write_text(xml)
    (directory / "openvino/openvino_model.bin").write_bytes(bytes(34 * vocab))
    return directory


def code(directory: Path) -> str:
    verdict = judge(str(directory))
    assert isinstance(verdict, Rejected)
    return verdict.reasons[0].code


def test_a_whole_network_stands_in_for_weights(model: Path) -> None:
    verdict = judge(str(model))
    assert isinstance(verdict, Accepted), verdict
    manifest = verdict.manifest
    assert manifest.weights == ("openvino/openvino_model.xml", "openvino/openvino_model.bin")
    assert set(manifest.weights) < set(manifest.files), "they are copied, and make up the generation"
    assert (manifest.quantization, manifest.stored_dtype) == ("openvino", "U8")
    size = (model / "openvino/openvino_model.bin").stat().st_size
    assert manifest.stored_bytes == size
    assert manifest.parameters == size - size // 34, "what two constants share is counted once"


def test_safetensors_are_taken_where_both_are_there(model: Path, tmp_path: Path) -> None:
    whole = Path(making.encoder(tmp_path / "whole"))
    (whole / "model.safetensors").rename(model / "model.safetensors")
    verdict = judge(str(model))
    assert isinstance(verdict, Accepted)
    assert (verdict.manifest.weights, verdict.manifest.quantization) == (("model.safetensors",), None)


def test_a_network_is_truncated_until_its_very_last_byte(model: Path) -> None:
    path = model / "openvino/openvino_model.bin"
    whole = path.read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert code(model) == "weights_truncated"
    path.write_bytes(whole + b"x")
    assert code(model) == "network_invalid"
    path.unlink()
    assert code(model) == "file_missing"


def test_the_list_of_operations_is_incomplete_until_its_last_line(model: Path) -> None:
    path = model / "openvino/openvino_model.xml"
    whole = path.read_text()
    for length in (0, 1, len(whole) // 2, len(whole.rstrip()) - 1):
        path.write_text(whole[:length])
        assert code(model) == "network_invalid"


BOMB = '<!DOCTYPE net [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('<net name="m" version="11">', BOMB + '<net name="&b;" version="11">', "network_invalid"),
        ('version="11"', 'version="10"', "network_not_served"),
        ('type="Gather"', 'type="Loop"', "network_not_served"),
        ('type="Gather"', 'type="MyExtension"', "network_not_served"),
        ('type="Gather"', 'type="Result"', "network_not_served"),
        ('name="input_ids"', 'name="pixels"', "network_not_served"),
        ('shape="?,?"', 'shape="1,128"', "network_not_served"),
        ('element_type="u8"', 'element_type="u64"', "network_invalid"),
        ('element_type="u8"', 'element_type="string"', "network_invalid"),
        ('offset="0"', 'offset="-1"', "network_invalid"),
        ('offset="0"', 'offset="99999999999999999999999"', "network_invalid"),
        ('offset="0"', 'offset="900"', "weights_truncated"),
        (", 32", ", 31", "network_invalid"),
        (", 32", ", 4, 8", "weights_mismatch"),
        ("<edges/>", "<a>" * 100 + "</a>" * 100, "network_invalid"),
    ],
)
def test_what_openvino_would_not_write_is_refused_by_name(old: str, new: str, expected: str, model: Path) -> None:
    path = model / "openvino/openvino_model.xml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert code(model) == expected


@pytest.mark.parametrize(
    ("library", "form"),
    [("openvino", "openvino"), ("bitsandbytes", "quantized"), ("accelerate", "quantized"), ("torchao", "quantized")],
)
def test_a_library_that_is_not_installed_is_named_with_what_installs_it(
    library: str, form: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    described = TORCHAO if library == "torchao" else BITSANDBYTES
    other = Path(making.encoder(tmp_path / "other", config={"quantization_config": described}))
    verdict = judge(str(model if library == "openvino" else other))
    assert isinstance(verdict, Rejected)
    [reason] = verdict.reasons
    assert (reason.code, reason.kind) == ("library_missing", "refused")
    assert library in reason.message
    assert f"pip install 'dropgate[{form}]'" in reason.remedy


BITSANDBYTES: dict[str, Any] = {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}
BY_ROW = {"_type": "PerRow", "_version": 1, "_data": {"dim": -1}}
INT8 = {"_type": "Int8WeightOnlyConfig", "_version": 2, "_data": {"granularity": BY_ROW, "group_size": None}}
TORCHAO: dict[str, Any] = {"quant_method": "torchao", "quant_type": {"default": INT8}}


@pytest.mark.parametrize("described", [BITSANDBYTES, TORCHAO, BITSANDBYTES | {"bnb_4bit_quant_type": "nf4"}])
def test_known_quantizations_are_served(described: dict[str, Any], tmp_path: Path) -> None:
    verdict = judge(making.encoder(tmp_path / "m", config={"quantization_config": described}))
    assert isinstance(verdict, Accepted), verdict
    assert verdict.manifest.quantization == described["quant_method"]
    assert verdict.manifest.bytes_as("float32") == verdict.manifest.stored_bytes


def odd_type(**fields: Any) -> dict[str, Any]:
    return TORCHAO | {"quant_type": {"default": INT8 | fields}}


@pytest.mark.parametrize(
    "described",
    [
        BITSANDBYTES | {"load_in_4bit": True},
        BITSANDBYTES | {"llm_int8_has_fp16_weight": True},
        BITSANDBYTES | {"llm_int8_threshold": "6"},
        BITSANDBYTES | {"llm_int8_skip_modules": [1]},
        BITSANDBYTES | {"bnb_4bit_quant_storage": "__import__"},
        BITSANDBYTES | {"anything": 1},
        TORCHAO | {"quant_type": "int8_weight_only"},
        TORCHAO | {"quant_type": {"default": INT8, "other": INT8}},
        odd_type(_type="Int4WeightOnlyConfig"),
        odd_type(_data={"granularity": {"_type": "PerGroup", "_data": {}}}),
        odd_type(_data={"granularity": BY_ROW, "group_size": 32}),
        odd_type(more=1),
        {"quant_method": "gptq"},
    ],
)
def test_what_is_not_known_of_a_quantization_is_refused_by_its_name(described: dict[str, Any], tmp_path: Path) -> None:
    directory = making.encoder(tmp_path / "m", config={"quantization_config": described})
    assert code(Path(directory)) == "quantization_not_served"


@pytest.mark.parametrize("make", [making.reranker, lambda path, **more: making.encoder(path, weights="bin", **more)])
def test_quantized_rerankers_and_pickles_are_refused(make: Callable[..., str], tmp_path: Path) -> None:
    verdict = judge(make(tmp_path / "m", config={"quantization_config": BITSANDBYTES}), allow_pickle=True)
    assert isinstance(verdict, Rejected)
    assert "quantization_not_served" in {reason.code for reason in verdict.reasons}
