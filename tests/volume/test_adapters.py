"""An adapter is whole by itself, and its base is a model on the volume that is found by its name."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from gateway.model import Accepted, Manifest, ModelId, Reason, Rejected
from gateway.volume.adapters import read_adapter
from gateway.volume.bases import find_base
from gateway.volume.files import Folder
from gateway.volume.manifest import judge
from tests import making

HUB_ID = "Qwen/Qwen2.5-3B-Instruct"


def drop(path: Path, *names: str) -> Path:
    for name in names or ("config.json",):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("{}")
    return path


def reasons(path: str | Path, root: Path | None = None, **options: Any) -> dict[str, Reason]:
    verdict = judge(str(path), root=str(root) if root else None, **options)
    assert isinstance(verdict, Rejected)
    return {found.code: found for found in verdict.reasons}


def accepted(path: str | Path, root: Path, **options: Any) -> Manifest:
    verdict = judge(str(path), root=str(root), **options)
    assert isinstance(verdict, Accepted), verdict
    return verdict.manifest


def found(root: Path, *references: str) -> str | None:
    base = find_base(references, str(root))
    return base.path if base else None


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return making.encoder(tmp_path_factory.mktemp("base") / "b", prompts={"query": "q: "})


@pytest.fixture
def based(tmp_path: Path, bert: str) -> Path:
    """A volume with a base for the adapters that `making` makes."""
    shutil.copytree(bert, tmp_path / "base/b")
    return tmp_path


@pytest.fixture
def adapter(tmp_path: Path) -> str:
    return making.adapter(tmp_path / "finetuned/a", base="base/b")


# the adapter itself


def test_what_an_adapter_says_of_itself_is_read(tmp_path: Path) -> None:
    path = making.adapter(tmp_path / "a", base=f" {HUB_ID} ", rank=8, task="CAUSAL_LM")
    (tmp_path / "a/model_metadata.json").write_text('{"base_model": "base/qwen"}')
    adapter = read_adapter(Folder(path, path))
    assert (adapter.task, adapter.generates, adapter.rank) == ("CAUSAL_LM", True, 8)
    assert adapter.targets == ("query", "value")
    assert adapter.references == (HUB_ID, "base/qwen")
    assert adapter.weights.files == ("adapter_model.safetensors",)
    assert adapter.weights.parameters == 2 * 2 * 2 * 8 * 32


def test_an_adapter_for_a_language_model_over_an_encoder_is_told_that_it_is_one(based: Path) -> None:
    path = making.adapter(based / "finetuned/a", base="base/b", task="CAUSAL_LM")
    misfit = reasons(path, based)["base_mismatch"]
    assert "a language model" in misfit.message
    assert "an encoder" in misfit.message


@pytest.mark.parametrize("task", ["FEATURE_EXTRACTION", None])
def test_an_adapter_is_its_base_with_weights_of_its_own(based: Path, task: str | None) -> None:
    path = making.adapter(based / "finetuned/a", base="base/b", task=task, config={"use_rslora": True})
    manifest, base = accepted(path, based), accepted(based / "base/b", based)
    assert manifest.lora is not None
    assert (manifest.lora.base, manifest.lora.rank, manifest.lora.alpha) == ("base/b", 4, 8.0)
    assert (manifest.lora.rslora, manifest.lora.dora, manifest.lora.own_stages) == (True, False, False)
    assert manifest.files == ("adapter_config.json", "adapter_model.safetensors")
    assert manifest.parameters == 2 * 2 * 2 * 4 * 32
    for name in ("kind", "dim", "stages", "max_tokens", "prompts", "model_type"):
        assert getattr(manifest, name) == getattr(base, name)


def test_an_adapter_with_modules_and_a_tokenizer_has_its_own(based: Path) -> None:
    path = making.adapter(based / "finetuned/a", base="base/b")
    other = making.encoder(based / "other", pooling="cls", dense=16, normalize=False, prompts={"query": "beam: "})
    for name in sorted(os.listdir(other)):
        if name not in {"config.json", "model.safetensors"}:
            source = Path(other, name)
            (shutil.copytree if source.is_dir() else shutil.copy)(source, Path(path, name))
    manifest = accepted(path, based)
    assert manifest.lora is not None
    assert manifest.lora.own_stages
    assert manifest.lora.own_tokenizer
    assert manifest.dim == 16
    assert [type(stage).__name__ for stage in manifest.stages] == ["Pooling", "Dense"]
    assert manifest.prompts["query"] == "beam: "
    assert {"modules.json", "tokenizer.json", "2_Dense/model.safetensors"} < set(manifest.files)


def test_an_adapter_whose_base_is_not_fit_to_be_served_waits_for_it_and_says_why(tmp_path: Path) -> None:
    path = making.adapter(tmp_path / "finetuned/a", base="base/b")
    drop(tmp_path / "base/b")
    waiting = reasons(path, tmp_path)["base_not_ready"]
    assert waiting.kind == "incomplete"
    assert "base/b" in waiting.message
    assert "config.json" in waiting.message


@pytest.mark.parametrize("size", [{"dim": 48}, {"layers": 3}])
def test_an_adapter_for_a_base_of_another_shape_is_told_what_differs(based: Path, size: dict[str, int]) -> None:
    path = making.adapter(based / "finetuned/a", base="base/b", **size)  # type: ignore[arg-type]
    misfit = reasons(path, based)["base_mismatch"]
    assert misfit.kind == "invalid"
    assert "base/b" in misfit.message
    assert ("[32, 32]" in misfit.message) == ("dim" in size)
    assert "encoder.layer." in misfit.message
    assert "[bases]" in misfit.remedy


@pytest.mark.parametrize("family", ["modernbert", "electra"])
def test_adapters_over_what_transformers_runs_are_refused_and_may_be_merged(tmp_path: Path, family: str) -> None:
    making.encoder(tmp_path / "base/b", family=family)
    path = making.adapter(tmp_path / "finetuned/a", base="base/b")
    refused = reasons(path, tmp_path)["base_not_supported"]
    assert refused.kind == "refused"
    assert family in refused.message
    assert "merge" in refused.remedy.lower()


def test_adapters_over_a_reranker_or_a_pickle_are_refused(tmp_path: Path) -> None:
    making.reranker(tmp_path / "base/b")
    making.encoder(tmp_path / "base/c", weights="bin")
    for name in ("b", "c"):
        path = making.adapter(tmp_path / f"finetuned/{name}", base=f"base/{name}")
        assert set(reasons(path, tmp_path, allow_pickle=True)) == {"base_not_supported"}


@pytest.mark.parametrize(
    "config",
    [
        {"bias": "all"},
        {"lora_bias": True},
        {"init_lora_weights": "pissa_niter_4"},
        {"init_lora_weights": "olora"},
        {"layer_replication": [[0, 1], [0, 2]]},
        {"trainable_token_indices": [1, 2]},
        {"target_parameters": ["encoder.weight"]},
        {"use_qalora": True},
        {"alora_invocation_tokens": [1]},
        {"alpha_pattern": {"(.*)*(.*)*x": 3}},
        {"alpha_pattern": {r"(\w|.)" * 20 + "zzz": 3}},
    ],
    ids=str,
)
def test_what_peft_can_do_and_we_do_not_is_refused_by_its_name(based: Path, config: dict[str, Any]) -> None:
    path = making.adapter(based / "finetuned/a", base="base/b", config=config)
    refused = reasons(path, based)["adapter_not_supported"]
    assert next(iter(config)) in refused.message
    assert "merge" in refused.remedy


def test_modules_that_were_trained_whole_are_refused_unless_no_vector_needs_them(based: Path) -> None:
    path = making.adapter(based / "finetuned/a", base="base/b")
    file = Path(path, "adapter_model.safetensors")
    tensors = load_file(file)
    first = next(iter(tensors.values()))
    save_file(tensors | {"base_model.model.pooler.dense.weight": first}, file)
    accepted(path, based)
    save_file(tensors | {"base_model.model.encoder.layer.0.output.LayerNorm.weight": first}, file)
    assert "LayerNorm" in reasons(path, based)["adapter_not_supported"].message


def test_a_change_of_the_word_vectors_is_refused(based: Path) -> None:
    path = making.adapter(based / "finetuned/a", base="base/b", config={"target_modules": None})
    file = Path(path, "adapter_model.safetensors")
    first = load_file(file)["base_model.model.encoder.layer.0.attention.self.query.lora_A.weight"]
    words = "base_model.model.embeddings.word_embeddings.lora_embedding_"
    save_file({words + "A": first, words + "B": first.T.copy()}, file)
    assert "word_embeddings" in reasons(path, based)["adapter_not_supported"].message


def test_an_adapter_that_lacks_layers_it_says_it_changes_is_not_served_as_half_an_adapter(based: Path) -> None:
    path = making.adapter(based / "finetuned/a", base="base/b", layers=1)
    lacking = reasons(path, based)["weights_mismatch"]
    assert "encoder.layer.1.attention.self.query and 1 more" in lacking.message
    shutil.rmtree(path)
    accepted(making.adapter(path, base="base/b", layers=1, config={"layers_to_transform": [0]}), based)


def test_what_a_pattern_that_takes_long_to_match_says_of_layers_is_not_known(based: Path) -> None:
    pattern = r"(\w|.)" * 24 + ".*"
    accepted(making.adapter(based / "a", base="base/b", layers=1, config={"target_modules": pattern}), based)


def test_patterns_of_scales_are_not_matched_against_names_that_no_layer_has(adapter: str) -> None:
    file = Path(adapter, "adapter_model.safetensors")
    tensors = load_file(file)
    save_file({name.replace("encoder", "encoder." * 20): tensor for name, tensor in tensors.items()}, file)
    assert set(reasons(adapter)) == {"base_missing"}
    config = Path(adapter, "adapter_config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"alpha_pattern": {"query": 3}}))
    assert "too long a name" in reasons(adapter)["adapter_not_supported"].message


def test_magnitudes_without_dora_and_dora_without_magnitudes_are_no_adapter(based: Path) -> None:
    path = making.adapter(based / "finetuned/a", base="base/b", config={"use_dora": True})
    assert "lacks DoRA's magnitudes" in reasons(path, based)["weights_mismatch"].message


def test_an_adapter_whose_base_is_not_there_waits_for_it_by_name(tmp_path: Path) -> None:
    path = making.adapter(tmp_path / "finetuned/a", base=HUB_ID)
    waiting = reasons(path, tmp_path)["base_missing"]
    assert waiting.kind == "incomplete"
    assert HUB_ID in waiting.message
    assert "base/" in waiting.remedy
    drop(tmp_path / "base/Qwen2.5-3B-Instruct")
    assert "base_missing" not in reasons(path, tmp_path)


def test_an_adapter_by_itself_names_its_base_and_looks_for_none(adapter: str) -> None:
    assert set(reasons(adapter)) == {"base_missing"}
    assert "base/b" in reasons(adapter)["base_missing"].message


@pytest.mark.parametrize("kept", [0, 7, 200, 5000, -1])
def test_a_truncated_adapter_is_named_with_its_bytes(adapter: str, kept: int, tmp_path: Path) -> None:
    drop(tmp_path / "base/b")
    file = Path(adapter, "adapter_model.safetensors")
    os.truncate(file, file.stat().st_size + kept if kept < 0 else kept)
    rejected = reasons(adapter, tmp_path)
    assert set(rejected) <= {"weights_truncated", "weights_invalid"}
    assert all(found.file == "adapter_model.safetensors" for found in rejected.values())


def test_the_partial_adapters_of_an_earlier_system_say_that_their_weights_are_missing(adapter: str) -> None:
    os.remove(Path(adapter, "adapter_model.safetensors"))
    assert reasons(adapter)["weights_missing"].file == "adapter_model.safetensors"
    shutil.rmtree(adapter)
    os.makedirs(adapter)
    Path(adapter, "adapter_config.json").write_text("{")
    assert {"json_invalid", "weights_missing"} >= set(reasons(adapter))


def test_pickled_adapters_count_only_when_the_operator_allows_them(based: Path) -> None:
    path = making.adapter(based / "a", base="base/b", weights="bin")
    assert reasons(path)["pickle_weights"].kind == "refused"
    assert accepted(path, based, allow_pickle=True).weights == ("adapter_model.bin",)


@pytest.mark.parametrize("kind", ["IA3", "PREFIX_TUNING", "lora", "", None, 7])
def test_only_lora_is_taken(tmp_path: Path, kind: Any) -> None:
    path = making.adapter(tmp_path / "a", base="base/b", config={"peft_type": kind})
    assert set(reasons(path)) <= {"adapter_not_supported", "adapter_invalid"}


@pytest.mark.parametrize(
    "config",
    [
        {"r": 0},
        {"r": "8"},
        {"target_modules": 5},
        {"target_modules": "("},
        {"alpha_pattern": {"(": 3}},
        {"base_model_name_or_path": None},
        {"rank_pattern": {"query": "x"}},
    ],
    ids=str,
)
def test_a_configuration_that_makes_no_sense_is_invalid_and_names_the_key(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    path = making.adapter(tmp_path / "a", base="base/b", config=config)
    invalid = reasons(path)["adapter_invalid"]
    assert invalid.file == "adapter_config.json"
    assert next(iter(config)) in invalid.message or "positive whole number" in invalid.message


@pytest.mark.parametrize(
    ("config", "fits"),
    [
        ({"r": 8}, False),
        ({"r": 8, "rank_pattern": {"query": 4, "value": 4}}, True),
        ({"target_modules": ["query"]}, False),
        ({"target_modules": ["self.query", "self.value"]}, True),
        ({"target_modules": ".*(query|value)"}, True),
        ({"target_modules": None}, True),
    ],
    ids=str,
)
def test_weights_and_configuration_are_of_one_adapter(based: Path, config: dict[str, Any], fits: bool) -> None:
    path = making.adapter(based / "a", base="base/b", config=config)
    if fits:
        accepted(path, based)
    else:
        assert set(reasons(path, based)) == {"weights_mismatch"}


def test_half_a_pair_of_factors_and_weights_without_any_are_refused(adapter: str) -> None:
    file = Path(adapter, "adapter_model.safetensors")
    tensors = load_file(file)
    first = next(name for name in tensors if name.endswith("lora_B.weight"))
    save_file({name: tensor for name, tensor in tensors.items() if name != first}, file)
    assert "one of two factors" in reasons(adapter)["weights_mismatch"].message
    save_file({"weight": tensors[first]}, file)
    assert "no LoRA tensors" in reasons(adapter)["weights_mismatch"].message


def test_an_adapter_of_sentence_transformers_waits_for_its_modules_json(adapter: str) -> None:
    Path(adapter, "config_sentence_transformers.json").write_text("{}")
    assert set(reasons(adapter)) == {"modules_missing"}


def test_a_cut_tokenizer_of_an_adapter_is_named_and_none_at_all_is_the_bases(adapter: str) -> None:
    Path(adapter, "tokenizer.json").write_text('{"model": {"vo')
    assert reasons(adapter)["json_invalid"].file == "tokenizer.json"


# its base


@pytest.mark.parametrize(
    "reference",
    [
        "base/qwen",
        "huggingface:base/qwen",
        "models/base/qwen",
        "/app/models/base/qwen",
        "/home/somebody/training/qwen",
        "../base/qwen/",
        "C:\\models\\qwen",
        "Org/qwen",
        "qwen",
    ],
)
def test_a_base_under_base_is_found_by_id_by_path_and_by_its_last_part(tmp_path: Path, reference: str) -> None:
    root = tmp_path / "models"
    drop(root / "base/qwen")
    assert found(root, reference) == "base/qwen"


def test_a_path_on_the_volume_finds_its_model_there_and_not_the_namesake_under_base(tmp_path: Path) -> None:
    drop(tmp_path / "base/m")
    drop(tmp_path / "finetuned/m")
    assert found(tmp_path, str(tmp_path / "finetuned/m")) == "finetuned/m"
    assert found(tmp_path, "/elsewhere/finetuned/m") == "base/m"


def test_a_hub_id_is_found_in_the_cache_the_flat_cache_and_by_a_foreign_cache_path(tmp_path: Path) -> None:
    foreign = "/root/.cache/huggingface/hub/models--org--name/snapshots/0123abc"
    assert found(tmp_path, "org/name", foreign) is None
    drop(tmp_path / "org_name")
    assert found(tmp_path, "org/name") == found(tmp_path, foreign) == "org_name"
    drop(tmp_path / "models--org--name/snapshots/0123abc")
    assert found(tmp_path, "org/name") == found(tmp_path, foreign) == "org/name"


def test_a_base_with_numbered_versions_is_the_highest(tmp_path: Path) -> None:
    for version in ("2", "10", "9"):
        drop(tmp_path / "base/qwen" / version)
    assert found(tmp_path, "Qwen/qwen") == "base/qwen/10"
    assert found(tmp_path, "base/qwen/9") == "base/qwen/9"


def test_the_final_model_of_a_training_run_may_be_a_base(tmp_path: Path) -> None:
    drop(tmp_path / "finetuned/run", "training_progress.json", "final_model/config.json")
    assert found(tmp_path, "finetuned/run") == "finetuned/run"


@pytest.mark.parametrize(
    "table",
    [
        f'[bases]\n"{HUB_ID}" = "base/qwen-3b-instruct"',
        f'[aliases]\n"{HUB_ID}" = "base/qwen-3b-instruct@a1b2c3"',
        f'[aliases]\n"huggingface:{HUB_ID}" = {{ to = "huggingface:base/qwen-3b-instruct", share = 0.1 }}',
    ],
)
def test_the_aliases_file_names_a_base(tmp_path: Path, table: str) -> None:
    drop(tmp_path / "base/qwen-3b-instruct")
    assert found(tmp_path, HUB_ID) is None
    (tmp_path / "aliases.toml").write_text(table)
    assert found(tmp_path, HUB_ID) == "base/qwen-3b-instruct"


@pytest.mark.parametrize("content", [b"[bases", b"bases = 3", b"[bases]\nx = 3", b"\xff", b"[bases]\nx = {y = 1}"])
def test_a_broken_aliases_file_names_no_base_and_stops_nothing(tmp_path: Path, content: bytes) -> None:
    drop(tmp_path / "base/qwen")
    (tmp_path / "aliases.toml").write_bytes(content)
    assert found(tmp_path, "x") is None
    assert found(tmp_path, "Org/qwen") == "base/qwen"


def test_a_fifo_in_place_of_the_aliases_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "aliases.toml")
    assert found(tmp_path, "x") is None


def test_an_adapter_is_no_base_not_even_its_own(tmp_path: Path) -> None:
    drop(tmp_path / "base/m", "config.json", "adapter_config.json")
    assert found(tmp_path, "base/m") is None
    path = making.adapter(tmp_path / "finetuned/a", base="finetuned/a")
    assert "base_missing" in reasons(path, tmp_path)


def test_a_directory_without_a_configuration_is_no_base(tmp_path: Path) -> None:
    drop(tmp_path / "base/mistral", "MODEL_INFO.md")
    assert found(tmp_path, "base/mistral") is None


def test_no_reference_leads_out_of_the_volume(tmp_path: Path) -> None:
    root = tmp_path / "models"
    root.mkdir()
    drop(tmp_path / "outside")
    for reference in (str(tmp_path / "outside"), "../outside", "base/../../outside", "\0", "", "x" * 600, "a\nb"):
        assert found(root, reference) is None
    (root / "base").mkdir()
    (root / "base/linked").symlink_to(tmp_path / "outside")
    assert found(root, "base/linked") is None


def test_the_base_of_an_adapter_is_found_among_many_at_the_cost_of_one(tmp_path: Path) -> None:
    drop(tmp_path / "base/wanted")
    (tmp_path / "base/other").mkdir(mode=0o000)
    assert find_base(["base/wanted"], str(tmp_path)) == ModelId("base", "wanted")
    assert json.dumps(found(tmp_path, "base/other")) == "null"
