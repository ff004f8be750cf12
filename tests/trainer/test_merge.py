"""Merge: what comes out answers as the adapter did, loads to exactly that, and is made of the right base alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests import making
from trainer import merge, metadata, reload
from trainer.bases import find_base
from trainer.cli import main
from trainer.errors import InvalidInput, NotAModel, QualityGate
from trainer.golden import TEXTS


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return Path(making.encoder(tmp_path / "models/base/tiny"))


def adapter(base: Path, path: Path, *, plain: bool = False, **options: Any) -> Path:
    """As peft writes it, or sentence-transformers; its second factors are set, as if it had been trained."""
    from peft import LoraConfig

    torch.manual_seed(0)
    model = reload.load(base)
    targets = ["query", "key", "value", "dense"]
    model.add_adapter(LoraConfig(task_type="FEATURE_EXTRACTION", r=4, target_modules=targets, **options))
    for name, tensor in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(tensor, std=0.05)
    if plain:
        model.transformers_model.save_pretrained(str(path))
    else:
        model.save_pretrained(str(path), create_model_card=False)
    return path


def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process is enough where the other one is not what is tested."""
    monkeypatch.setattr(reload, "vectors", reload.embed)


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"use_rslora": True}], ids=["lora", "dora", "rslora"])
@pytest.mark.parametrize("plain", [True, False], ids=["peft", "sentence-transformers"])
def test_merged_answers_as_adapted_and_is_a_plain_float32_model(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: bool, options: dict[str, Any]
) -> None:
    in_process(monkeypatch)
    made = adapter(base, tmp_path / "adapter", plain=plain, **options)
    adapted = reload.embed(made, TEXTS, base=base)
    assert np.abs(adapted - reload.embed(base, TEXTS)).max() > 1e-3, "the adapter does something"
    done = merge.join(made, tmp_path / "merged")
    assert np.abs(reload.embed(done.path, TEXTS) - adapted).max() <= 1e-6
    assert done.difference <= 1e-6
    tensors = load_file(done.path / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert not [name for name in tensors if "lora" in name]
    assert not (done.path / "adapter_config.json").exists()


@pytest.mark.usefixtures("cold")
def test_the_verb_proves_it_in_another_process_and_says_so(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = adapter(base, tmp_path / "adapter")
    assert main(["merge", str(made), "--output", str(tmp_path / "merged"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["difference"] <= 1e-6
    assert told["reload"] == "equal"
    assert (tmp_path / "merged/model.safetensors").stat().st_mode & 0o044, "another user can read it"


def test_an_adapter_over_an_older_layout_keeps_its_own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_process(monkeypatch)
    base = Path(making.encoder(tmp_path / "base", folder="0_Transformer", spelling="old", dense=16))
    made = adapter(base, tmp_path / "adapter", plain=True)
    merged = merge.merge(made, base, tmp_path / "merged")
    assert reload.embed(merged, TEXTS).shape == (len(TEXTS), 16)


def test_a_base_is_found_by_the_name_and_the_digest_that_were_written_down(base: Path, tmp_path: Path) -> None:
    made = Path(making.adapter(tmp_path / "models/finetuned/x", base="/another/machine/tiny"))
    other = Path(making.encoder(tmp_path / "models/finetuned/tiny", seed=1))
    metadata.write(made, {"base": {"name": "tiny", "digest": metadata.weights_digest(base)}})
    assert find_base(made).samefile(base)
    metadata.write(made, {"base": {"name": "tiny", "digest": metadata.weights_digest(other)}})
    assert find_base(made).samefile(other)


def test_another_model_is_not_taken_for_the_base(base: Path, tmp_path: Path) -> None:
    made = Path(making.adapter(tmp_path / "adapter", base=str(base)))
    metadata.write(made, {"base": {"name": "tiny", "digest": "sha256:" + "0" * 64}})
    for given in (base, None):
        with pytest.raises(InvalidInput, match="not the model that"):
            merge.join(made, tmp_path / "merged", given)
    assert not (tmp_path / "merged").exists()


def test_a_base_that_is_nowhere_is_named(tmp_path: Path) -> None:
    made = Path(making.adapter(tmp_path / "adapter", base="org/lost"))
    with pytest.raises(InvalidInput, match="its base org/lost was not found"):
        merge.join(made, tmp_path / "merged")


def test_a_quantized_base_is_refused(base: Path, tmp_path: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    quantized = config | {"quantization_config": {"quant_method": "bitsandbytes"}}
    (base / "config.json").write_text(json.dumps(quantized))
    with pytest.raises(InvalidInput, match="a quantized base"):
        merge.join(Path(making.adapter(tmp_path / "adapter", base=str(base))), tmp_path / "merged")


def test_what_is_no_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(NotAModel, match="a whole model already"):
        merge.join(base, tmp_path / "merged")
    other = Path(making.adapter(tmp_path / "adapter", base=str(base), config={"peft_type": "IA3"}))
    with pytest.raises(InvalidInput, match="LoRA alone"):
        merge.join(other, tmp_path / "merged")


def test_a_merge_that_loads_to_something_else_leaves_nothing(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = adapter(base, tmp_path / "adapter")
    monkeypatch.setattr(reload, "vectors", lambda directory, texts: reload.embed(directory, texts) + 1e-7)
    with pytest.raises(QualityGate, match="loaded anew it answers otherwise"):
        merge.join(made, tmp_path / "out" / "merged")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_is_there_stays_unless_it_may_be_replaced(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_process(monkeypatch)
    made, place = adapter(base, tmp_path / "adapter"), tmp_path / "merged"
    shutil.copytree(base, place)
    with pytest.raises(InvalidInput, match="is there already"):
        merge.join(made, place)
    before = reload.embed(place, TEXTS)
    merge.join(made, place, overwrite=True)
    assert np.abs(reload.embed(place, TEXTS) - before).max() > 1e-3
