"""A directory is accepted exactly when it is whole and all its parts agree; whatever it holds, judging never raises."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from gateway.model import Accepted, Dense, LayerNorm, Manifest, Normalize, Pooling, Reason, Rejected, Verdict
from gateway.volume import reasons
from gateway.volume.architectures import FAMILIES
from gateway.volume.files import Folder
from gateway.volume.manifest import WORD_EMBEDDING, judge
from gateway.volume.metadata import read_metadata
from gateway.volume.modules import ACTIVATIONS, LEGACY_MODES, SPELLINGS
from gateway.volume.reasons import Findings
from gateway.volume.tokenizer import MOST_VALUES, read_tokenizer
from tests import making

Edit = Callable[[Any], Any]


def accepted(path: str | Path, **options: Any) -> Manifest:
    verdict = judge(str(path), **options)
    assert isinstance(verdict, Accepted), verdict
    return verdict.manifest


def rejected(path: str | Path, **options: Any) -> dict[str, Reason]:
    """The reasons by code."""
    verdict = judge(str(path), **options)
    assert isinstance(verdict, Rejected), verdict
    assert verdict.reasons
    return {found.code: found for found in verdict.reasons}


def edit(path: str | Path, name: str, change: Edit) -> None:
    file = Path(path, name)
    content = json.loads(file.read_text())
    changed = change(content)
    file.write_text(json.dumps(content if changed is None else changed))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A whole small model with every kind of module, as sentence-transformers writes it today. Not to be changed."""
    path = tmp_path_factory.mktemp("made")
    return making.encoder(path, dense=24, layer_norm=True, prompts={"query": "query: "}, default_prompt="query")


@pytest.fixture
def model(made: str, tmp_path: Path) -> str:
    """A copy of `made`, to be broken."""
    return shutil.copytree(made, str(tmp_path / "model"))


# what is accepted


def test_the_real_minilm_is_accepted_for_what_it_is(minilm: str) -> None:
    found = accepted(minilm)
    assert (found.library, found.model_type, found.architecture) == ("sentence-transformers", "bert", "BertModel")
    assert (found.dim, found.max_tokens, found.vocab_size) == (384, 256, 30522)
    assert found.stages == (Pooling(("mean",)), Normalize())
    assert (found.parameters, found.stored_bytes, found.stored_dtype) == (22_713_728, 90_856_960, "F32")
    assert found.weights == ("model.safetensors",)
    assert found.files == (
        "1_Pooling/config.json",
        "config.json",
        "config_sentence_transformers.json",
        "model.safetensors",
        "modules.json",
        "sentence_bert_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    )
    assert found.warnings == ()


def test_every_kind_of_module_is_read(made: str) -> None:
    found = accepted(made)
    dense = Dense("2_Dense", 32, 24, bias=True, activation="Tanh")
    assert found.stages == (Pooling(("mean",)), dense, LayerNorm("3_LayerNorm", 24), Normalize())
    assert (found.dim, found.prompts, found.default_prompt_name) == (24, {"query": "query: "}, "query")
    assert found.weights == ("model.safetensors",)
    assert {"2_Dense/model.safetensors", "3_LayerNorm/model.safetensors", "4_Normalize/config.json"} <= set(found.files)
    assert list(found.files) == sorted(found.files)
    assert found.stored_bytes == sum(
        tensor.nbytes for file in Path(made).rglob("*.safetensors") for tensor in load_file(file).values()
    )


@pytest.mark.parametrize(
    "options",
    [
        {"family": "roberta"},
        {"family": "mpnet", "folder": "0_Transformer"},
        {"family": "distilbert", "spelling": "old", "pooling": ("cls", "max", "mean")},
        {"family": "modernbert", "pooling": ("mean", "cls"), "normalize": False},
        {"family": "xlm-roberta", "shards": 3, "lower_case": True},
        {"family": "bert", "tokenizer_json": False},
        {"family": "bert", "plain": True},
        {"family": "t5", "spelling": "old"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_what_the_library_loads_is_read_as_the_library_loads_it(tmp_path: Path, options: dict[str, Any]) -> None:
    from sentence_transformers import SentenceTransformer

    path = making.encoder(tmp_path / "model", **options)
    found = accepted(path)
    library = SentenceTransformer(path, device="cpu")
    pooling = library[1]
    modes = (pooling.pooling_mode,) if isinstance(pooling.pooling_mode, str) else tuple(pooling.pooling_mode)
    assert found.dim == library.get_embedding_dimension()
    assert found.max_tokens == library.max_seq_length
    assert found.stages[0] == Pooling(modes, pooling.include_prompt)
    assert found.normalized == any(type(module).__name__ == "Normalize" for module in library)
    assert found.vocab_size == library[0].auto_model.config.vocab_size
    assert found.lower_case == library[0].do_lower_case
    assert found.parameters == sum(
        tensor.size for file in found.weights for tensor in load_file(f"{path}/{file}").values()
    )


def test_a_plain_directory_is_pooled_by_the_mean_and_not_normalized(tmp_path: Path) -> None:
    found = accepted(making.encoder(tmp_path, plain=True))
    assert (found.library, found.stages, found.normalized) == ("transformers", (Pooling(("mean",)),), False)


def test_roberta_takes_fewer_tokens_than_its_configuration_says(tmp_path: Path) -> None:
    path = making.encoder(tmp_path, family="roberta", positions=50, max_tokens=1000, spelling="old")
    assert accepted(path).max_tokens == 48


def test_a_tokenizer_without_a_limit_is_limited_by_the_model(tmp_path: Path) -> None:
    path = making.encoder(tmp_path, plain=True, positions=70)
    edit(path, "tokenizer_config.json", lambda config: config.update(model_max_length=int(1e30)))
    assert accepted(path).max_tokens == 70


def test_only_what_is_loaded_is_among_the_files(model: str) -> None:
    before = accepted(model).files
    for name in ("README.md", "modeling.py", "pytorch_model.bin", "optimizer.pt", "model_metadata.json", "vocab.txt"):
        Path(model, name).write_text("{}")
    Path(model, "onnx").mkdir()
    Path(model, "onnx", "model.onnx").write_text("x")
    assert accepted(model).files == before


def test_an_empty_normalize_folder_need_not_be_there(model: str) -> None:
    shutil.rmtree(Path(model, "4_Normalize"))
    assert accepted(model).normalized


def test_links_are_followed_inside_the_root_and_not_outside(model: str, tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    shutil.move(Path(model, "config.json"), blobs / "abc")
    Path(model, "config.json").symlink_to("../blobs/abc")
    assert accepted(model, root=str(tmp_path)).dim == 24
    assert rejected(model)["outside_volume"].file == "config.json"


# a copy that is not finished


def copies(source: str, order: list[str], target: Path) -> Iterator[dict[str, int]]:
    """Yields after each step of a copy: file -> how many of its bytes are there. Large files grow sparsely."""
    there: dict[str, int] = {}
    for name in order:
        size = os.path.getsize(os.path.join(source, name))
        (target / name).parent.mkdir(exist_ok=True)
        with open(os.path.join(source, name), "rb") as stream:
            begin = stream.read(min(size, 500_000))
        for cut in sorted(
            {0, min(1, size), min(8, size), min(100, size), size // 3, size // 2, max(size - 2, 0), size}
        ):
            with open(target / name, "wb") as stream:
                stream.write(begin[:cut])
                stream.truncate(cut)
            there[name] = cut
            yield there


NEEDED = {
    "config.json",
    "model.safetensors",
    "modules.json",
    "1_Pooling/config.json",
    "tokenizer.json",
    "tokenizer_config.json",
}
OPTIONAL = {"config_sentence_transformers.json", "sentence_bert_config.json", "special_tokens_map.json"}


@pytest.mark.parametrize("order", ["lexical", "reverse", "config and weights first", "large last"])
def test_a_copy_is_accepted_exactly_when_every_needed_file_is_whole(minilm: str, tmp_path: Path, order: str) -> None:
    names = sorted(str(file.relative_to(minilm)) for file in Path(minilm).rglob("*") if file.is_file())
    keys: dict[str, Callable[[str], Any]] = {
        "lexical": lambda name: name,
        "reverse": lambda name: [-ord(character) for character in name],
        "config and weights first": lambda name: (name not in ("config.json", "model.safetensors"), name),
        "large last": lambda name: os.path.getsize(os.path.join(minilm, name)),
    }
    whole = {name: len(_stripped(os.path.join(minilm, name))) for name in names}
    seen = set()
    for there in copies(minilm, sorted(names, key=keys[order]), tmp_path):
        expected = all(there.get(name, 0) >= whole[name] for name in NEEDED)
        expected &= all(there.get(name, whole[name]) >= whole[name] for name in OPTIONAL)
        found = isinstance(judge(str(tmp_path)), Accepted)
        assert found == expected, there
        seen.add(found)
    assert seen == {False, True}


def _stripped(path: str) -> bytes:
    """A JSON file without its last line end is whole already."""
    with open(path, "rb") as stream:
        content = stream.read()
    return content.rstrip() if path.endswith(".json") else content


@pytest.mark.parametrize(
    ("missing", "code"),
    [
        ("config.json", "config_missing"),
        ("model.safetensors", "weights_missing"),
        ("modules.json", "modules_missing"),
        ("tokenizer.json", "tokenizer_missing"),
        ("tokenizer_config.json", "tokenizer_config_missing"),
        ("1_Pooling/config.json", "module_config_missing"),
        ("2_Dense/config.json", "module_config_missing"),
        ("2_Dense/model.safetensors", "weights_missing"),
        ("3_LayerNorm/model.safetensors", "weights_missing"),
    ],
)
def test_a_missing_file_is_named_and_copying_it_heals(model: str, missing: str, code: str) -> None:
    shutil.move(Path(model, missing), Path(model, "aside"))
    found = rejected(model)
    assert set(found) == {code}
    assert (found[code].kind, found[code].file) == ("incomplete", missing)
    shutil.move(Path(model, "aside"), Path(model, missing))
    assert accepted(model).dim == 24


@pytest.mark.parametrize("hint", ["prompts", "settings", "folder", "readme"])
def test_any_hint_of_sentence_transformers_demands_modules_json(tmp_path: Path, hint: str) -> None:
    path = Path(making.encoder(tmp_path, plain=True))
    accepted(path)
    if hint == "folder":
        (path / "1_Pooling").mkdir()
    elif hint == "readme":
        (path / "README.md").write_text("---\ntags: [a]\nlibrary_name: sentence-transformers\n---\n# Model\n")
    else:
        name = "config_sentence_transformers.json" if hint == "prompts" else "sentence_roberta_config.json"
        (path / name).write_text("{}")
    assert rejected(path)["modules_missing"].kind == "incomplete"


def test_a_readme_of_another_library_is_no_hint(tmp_path: Path) -> None:
    path = making.encoder(tmp_path, plain=True)
    Path(path, "README.md").write_text("---\nlibrary_name: transformers\n---\nlibrary_name: sentence-transformers\n")
    assert accepted(path).library == "transformers"


def test_all_reasons_are_told_at_once(model: str) -> None:
    for name in ("tokenizer.json", "model.safetensors", "1_Pooling/config.json"):
        Path(model, name).unlink()
    assert set(rejected(model)) == {"tokenizer_missing", "weights_missing", "module_config_missing"}


def test_an_empty_directory_and_one_that_is_not_there_are_incomplete(tmp_path: Path) -> None:
    assert rejected(tmp_path)["config_missing"].kind == "incomplete"
    assert rejected(tmp_path / "nowhere")["file_missing"].kind == "incomplete"


# tokenizers


def test_a_vocabulary_list_alone_must_have_every_line(tmp_path: Path) -> None:
    path = making.encoder(tmp_path, tokenizer_json=False)
    file = Path(path, "vocab.txt")
    content = file.read_bytes()
    lines = content.splitlines(keepends=True)
    for cut in (b"", b"".join(lines[:-1]), content[:-1], b"".join(lines[: len(lines) // 2])):
        file.write_bytes(cut)
        assert rejected(path)["vocabulary_truncated"].kind == "incomplete"
    file.write_bytes(content + b"more\n")
    assert "vocabulary_mismatch" in rejected(path)
    file.write_bytes(content)
    assert "vocab.txt" in accepted(path).files


def test_a_cut_vocabulary_list_beside_a_whole_tokenizer_is_harmless_and_told(model: str) -> None:
    Path(model, "vocab.txt").write_text("[PAD]\n[UNK]\n")
    found = accepted(model)
    assert "vocab.txt" not in found.files
    assert any("vocab.txt is cut short" in warning for warning in found.warnings)


def test_a_tokenizer_with_more_tokens_than_embeddings_is_a_mismatch(model: str) -> None:
    size = accepted(model).vocab_size
    added = {"id": size, "content": "<new>", "special": True}
    edit(model, "tokenizer.json", lambda content: content["added_tokens"].append(added))
    assert str(size) in rejected(model)["vocabulary_mismatch"].message


def test_a_byte_level_vocabulary_needs_its_merges(tmp_path: Path) -> None:
    path = making.encoder(tmp_path, family="roberta")
    vocabulary = json.loads(Path(path, "tokenizer.json").read_text())["model"]["vocab"]
    Path(path, "tokenizer.json").unlink()
    Path(path, "vocab.json").write_text(json.dumps(vocabulary))
    assert "tokenizer_missing" in rejected(path)
    Path(path, "merges.txt").write_text("#version: 0.2")
    assert "vocabulary_truncated" in rejected(path)
    Path(path, "merges.txt").write_text("#version: 0.2\n")
    assert {"vocab.json", "merges.txt"} <= set(accepted(path).files)


def test_of_a_tokenizer_only_the_vocabulary_is_built(model: str) -> None:
    edit(model, "tokenizer.json", put(more=[[]] * 200_000))
    findings = Findings()
    tracemalloc.start()
    try:
        read_tokenizer(Folder(model, model), "", None, findings, config_required=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not findings.reasons
    assert peak < 5_000_000  # bytes; the lists alone have more than twice as many


def test_bytes_of_a_tokenizer_that_are_not_built_are_text_all_the_same(model: str) -> None:
    edit(model, "tokenizer.json", put(more="here"))
    file = Path(model, "tokenizer.json")
    content = file.read_bytes()
    file.write_bytes(content.replace(b"here", b"h\xffre"))
    assert set(rejected(model)) == {"json_invalid"}
    file.write_bytes(content.replace(b"here", b"h\x00re"))
    assert set(rejected(model)) == {"json_invalid"}


def test_a_vocabulary_of_more_tokens_than_any_model_has_is_refused_before_it_is_built(model: str) -> None:
    file = Path(model, "tokenizer.json")
    file.write_text('{"model": {"vocab": [' + "0," * MOST_VALUES + "0]}}")
    assert set(rejected(model)) == {"file_too_large"}


def test_a_sentencepiece_model_alone_says_what_to_save(model: str) -> None:
    Path(model, "tokenizer.json").rename(Path(model, "sentencepiece.bpe.model"))
    found = rejected(model)["tokenizer_not_supported"]
    assert "tokenizer.json" in found.remedy


def test_a_plain_model_without_tokenizer_config_is_accepted_with_its_tokenizer_json(tmp_path: Path) -> None:
    path = making.encoder(tmp_path, plain=True)
    Path(path, "tokenizer_config.json").unlink()
    assert accepted(path).max_tokens == 128


# what is wrong, and what is refused


def put(**fields: Any) -> Edit:
    return lambda content: content.update(fields)


def at(index: int, **fields: Any) -> Edit:
    return lambda content: content[index].update(fields)


@pytest.mark.parametrize(
    ("name", "change", "code"),
    [
        ("config.json", lambda _: [], "config_invalid"),
        ("config.json", put(hidden_size="32"), "config_invalid"),
        ("config.json", put(vocab_size=True), "config_invalid"),
        ("config.json", put(vocab_size=10**30), "config_invalid"),
        ("config.json", put(max_position_embeddings=None), "config_invalid"),
        ("config.json", put(model_type=None), "config_invalid"),
        ("config.json", put(model_type="clip"), "architecture_not_served"),
        ("config.json", put(model_type="evil", auto_map={"AutoModel": "evil.Evil"}), "custom_code"),
        ("config.json", put(quantization_config={"quant_method": "gptq"}), "quantization_not_served"),
        ("config.json", put(vocab_size=5000), "weights_mismatch"),
        ("config.json", put(hidden_size=64), "weights_mismatch"),
        ("modules.json", lambda _: {}, "modules_invalid"),
        ("modules.json", lambda _: [], "modules_invalid"),
        ("modules.json", lambda content: content[:1], "modules_invalid"),
        ("modules.json", lambda content: content[1:], "modules_invalid"),
        ("modules.json", lambda content: [content[0], *content[2:]], "modules_invalid"),
        ("modules.json", lambda content: [*content, content[-1]], "modules_invalid"),
        ("modules.json", lambda content: content * 50, "modules_invalid"),
        ("modules.json", at(2, type="os.system"), "module_not_supported"),
        ("modules.json", at(2, type="evil.Pooling"), "module_not_supported"),
        ("modules.json", at(2, type="sentence_transformers.models.CNN"), "module_not_supported"),
        ("modules.json", at(2, path="../other"), "path_outside_model"),
        ("modules.json", at(2, path="/etc"), "path_outside_model"),
        ("modules.json", at(2, path=None), "modules_invalid"),
        ("modules.json", at(2, path="1_Pooling"), "modules_invalid"),
        ("1_Pooling/config.json", put(embedding_dimension=16), "dimension_mismatch"),
        ("1_Pooling/config.json", put(pooling_mode="median"), "module_config_invalid"),
        ("1_Pooling/config.json", put(pooling_mode=[]), "module_config_invalid"),
        ("1_Pooling/config.json", put(pooling_mode={"mean": True}), "module_config_invalid"),
        ("1_Pooling/config.json", put(pooling_mode_new=True), "module_config_invalid"),
        ("1_Pooling/config.json", put(include_prompt="no"), "module_config_invalid"),
        ("2_Dense/config.json", put(in_features=16), "dimension_mismatch"),
        ("2_Dense/config.json", put(activation_function="os.getcwd"), "activation_not_supported"),
        (
            "2_Dense/config.json",
            put(activation_function="torch.nn.modules.activation.PReLU"),
            "activation_not_supported",
        ),
        ("2_Dense/config.json", put(activation_function=None), "module_config_invalid"),
        ("2_Dense/config.json", put(module_input_name="token_embeddings"), "setting_not_supported"),
        ("2_Dense/config.json", put(module_output_name="other"), "setting_not_supported"),
        ("2_Dense/config.json", put(use_residual=True), "setting_not_supported"),
        ("2_Dense/config.json", put(bias=False), "weights_mismatch"),
        ("2_Dense/config.json", put(out_features=25), "weights_mismatch"),
        ("3_LayerNorm/config.json", put(dimension=32), "dimension_mismatch"),
        ("4_Normalize/config.json", put(module_input_name="token_embeddings"), "setting_not_supported"),
        ("sentence_bert_config.json", put(transformer_task="fill-mask"), "setting_not_supported"),
        ("sentence_bert_config.json", put(modality_config={"image": {}}), "modules_invalid"),
        ("sentence_bert_config.json", put(query_length=32), "setting_not_supported"),
        ("sentence_bert_config.json", put(config_args={"is_decoder": True}), "setting_not_supported"),
        ("sentence_bert_config.json", put(max_seq_length=0), "modules_invalid"),
        ("config_sentence_transformers.json", put(default_prompt_name="absent"), "modules_invalid"),
        ("config_sentence_transformers.json", put(prompts={"query": 5}), "modules_invalid"),
        ("config_sentence_transformers.json", put(prompts={"query": "\ud800"}), "modules_invalid"),
        ("config_sentence_transformers.json", put(model_type="CrossEncoder"), "kind_not_served"),
        ("config_sentence_transformers.json", put(truncate_dim=8), "setting_not_supported"),
        ("tokenizer.json", lambda content: content.pop("model") and None, "tokenizer_invalid"),
        ("tokenizer.json", lambda content: content["model"].update(vocab={}), "tokenizer_invalid"),
        ("tokenizer.json", lambda content: content["model"].update(vocab={"a": -1}), "tokenizer_invalid"),
        ("tokenizer.json", lambda content: content["model"].update(vocab=None), "tokenizer_invalid"),
        ("tokenizer.json", lambda content: content["model"].update(type="Other"), "tokenizer_invalid"),
        ("tokenizer.json", put(model=[]), "tokenizer_invalid"),
        ("tokenizer.json", put(added_tokens=[{"id": "7"}]), "tokenizer_invalid"),
        ("tokenizer.json", put(added_tokens=[{}]), "tokenizer_invalid"),
        ("tokenizer_config.json", put(model_max_length="long"), "tokenizer_invalid"),
    ],
)
def test_a_wrong_value_is_told_under_its_own_code(model: str, name: str, change: Edit, code: str) -> None:
    edit(model, name, change)
    found = rejected(model)
    assert code in found
    assert found[code].remedy
    assert msgspec.json.encode(found[code])


@pytest.mark.parametrize("head", ["LlamaForCausalLM", "BertForTokenClassification", "T5ForConditionalGeneration"])
def test_another_kind_of_model_is_recognised_and_not_served(tmp_path: Path, head: str) -> None:
    path = making.encoder(tmp_path, plain=True)
    edit(path, "config.json", put(architectures=[head]))
    found = rejected(path)
    assert set(found) == {"kind_not_served"}
    assert "not served by this version" in found["kind_not_served"].message


def test_a_decoder_is_served_only_with_modules_json(tmp_path: Path) -> None:
    path = making.encoder(tmp_path / "plain", plain=True)
    edit(path, "config.json", put(model_type="qwen3", architectures=["Qwen3Model"]))
    assert set(rejected(path)) == {"kind_not_served"}
    path = making.encoder(tmp_path / "modules", pooling="lasttoken")
    edit(path, "config.json", put(model_type="qwen3", architectures=["Qwen3ForCausalLM"]))
    assert accepted(path).model_type == "qwen3"


def test_a_language_model_is_a_generator_by_its_head(tmp_path: Path) -> None:
    path = making.encoder(tmp_path, family="qwen3", plain=True, shards=3)
    edit(path, "config.json", put(architectures=["Qwen3ForCausalLM"]))
    found = accepted(path)
    assert (found.kind, found.stages) == ("generator", ())
    config = json.loads((tmp_path / "config.json").read_text())
    heads = config["num_key_value_heads"] * config["head_dim"]
    assert found.cache_width == 2 * config["num_hidden_layers"] * heads
    os.remove(tmp_path / "model-00002-of-00003.safetensors")
    os.truncate(tmp_path / "tokenizer.json", 100)
    assert set(rejected(path)) == {"shards_missing", "json_invalid"}


def test_what_a_language_model_is_spoken_to_with_belongs_to_it(tmp_path: Path) -> None:
    path = making.encoder(tmp_path, family="qwen3", plain=True)
    edit(path, "config.json", put(architectures=["Qwen3ForCausalLM"]))
    before = accepted(path).files
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    assert set(accepted(path).files) - set(before) == {"chat_template.jinja", "generation_config.json"}
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": "one"}')
    assert set(rejected(path)) == {"config_invalid"}
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    assert set(rejected(path)) == {"config_invalid"}


def test_a_table_of_tokens_that_is_narrower_than_the_model_is_taken_where_the_configuration_says_so(
    tmp_path: Path,
) -> None:
    path = making.encoder(tmp_path, family="rembert")
    assert accepted(path).dim == 32
    edit(path, "config.json", put(input_embedding_size=24))
    assert "[261, 24]" in rejected(path)["weights_mismatch"].message


def test_code_beside_a_known_model_type_is_ignored_and_told(model: str) -> None:
    edit(model, "config.json", put(auto_map={"AutoModel": "evil.Evil"}))
    assert any("auto_map" in warning for warning in accepted(model).warnings)


def test_pickles_count_only_when_the_operator_allows_them(tmp_path: Path) -> None:
    path = making.encoder(tmp_path, weights="bin", dense=8)
    assert rejected(path)["pickle_weights"].kind == "refused"
    found = accepted(path, allow_pickle=True)
    assert (found.weights, found.dim) == (("pytorch_model.bin",), 8)
    assert "2_Dense/pytorch_model.bin" in found.files


def test_weights_without_a_word_embedding_belong_to_something_else(model: str) -> None:
    save_file({"vision.patches": np.ones((4, 4), np.float32)}, Path(model, "model.safetensors"))
    assert "no word embedding" in rejected(model)["weights_mismatch"].message


def test_a_fifo_in_place_of_a_configuration_is_refused_at_once(model: str) -> None:
    Path(model, "config.json").unlink()
    os.mkfifo(Path(model, "config.json"))
    assert rejected(model)["not_a_file"].file == "config.json"


# the metadata


def test_metadata_is_kept_with_all_its_keys(model: str) -> None:
    Path(model, "model_metadata.json").write_text('{"display_name": "X", "own": {"score": 0.5}}')
    assert read_metadata(model, model) == ({"display_name": "X", "own": {"score": 0.5}}, None)


@pytest.mark.parametrize("content", ["", "{", "[]", "5", "[" * 200_000])
def test_broken_metadata_is_told_and_blocks_nothing(model: str, content: str) -> None:
    Path(model, "model_metadata.json").write_text(content)
    metadata, found = read_metadata(model, model)
    assert metadata == {}
    assert found is not None
    assert (found.code, found.file) == ("metadata_invalid", "model_metadata.json")
    assert accepted(model).dim == 24


def test_no_metadata_is_nothing_to_tell(model: str) -> None:
    assert read_metadata(model, model) == ({}, None)


# our lists, held to the libraries


def test_every_model_type_that_is_served_is_known_to_transformers_with_its_names() -> None:
    import torch
    from transformers import AutoConfig, AutoModel, T5EncoderModel

    for model_type, family in FAMILIES.items():
        config = AutoConfig.for_model(model_type)
        written = config.to_diff_dict()
        assert {family.width, "vocab_size"} <= set(written), model_type
        assert "max_position_embeddings" in written or family.width == "d_model", model_type
        build = T5EncoderModel if "t5" in model_type else AutoModel.from_config
        with torch.device("meta"):
            tensors = build(config).state_dict()
        tables = [tensor for name, tensor in tensors.items() if WORD_EMBEDDING.search(name)]
        assert tables, model_type
        assert tables[0].shape[0] == written["vocab_size"], model_type
        positions = [t.shape[0] for name, t in tensors.items() if re.search(r"position_embeddings\.weight$", name)]
        assert not (positions and family.positions == "unbounded"), model_type


def test_every_spelling_of_a_module_is_the_class_that_the_library_imports() -> None:
    from sentence_transformers.util import import_from_string

    for spelling, name in SPELLINGS.items():
        assert import_from_string(spelling).__name__ == name, spelling


def test_pooling_modes_and_their_order_are_the_librarys() -> None:
    from sentence_transformers.sentence_transformer.modules import pooling

    assert list(LEGACY_MODES.items()) == list(pooling._LEGACY_POOLING_MODE_KWARGS.items())


def test_every_activation_exists_in_torch_and_has_no_parameters() -> None:
    from torch import nn

    assert all(not list(getattr(nn.modules.activation, name)().parameters()) for name in ACTIVATIONS)


def test_every_reason_has_a_kind_and_a_remedy_that_can_be_filled() -> None:
    for code, kind in reasons.codes().items():
        found = reasons.reason(code, "message", "some/file.json")
        assert (found.code, found.kind) == (code, kind)
        assert kind in ("incomplete", "invalid", "refused", "unreadable")
        assert found.remedy.endswith(".")
        assert "{" not in found.remedy


# hostile content

JSON_FILES = (
    "config.json",
    "modules.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    "2_Dense/config.json",
    "3_LayerNorm/config.json",
)
HOSTILE = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 2**31, 10**400, 1e308, float("nan"), float("inf"), -0.0]),
    st.sampled_from(["", "..", "/", "\0", "\ud800", "x" * 10_000, "os.system", "{file}", "%s"]),
    st.recursive(st.none(), lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner)),
)


def _places(document: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield place
    items: Any = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in list(items)[:30]:
        if isinstance(value, dict | list):
            yield from _places(value, (*place, key))
        else:
            yield (*place, key)


def _replaced(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    changed = copy.deepcopy(document)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return changed


@settings(max_examples=400, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_stands_in_a_json_file_the_answer_is_a_verdict(
    made: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = _scratch(made, tmp_path_factory)
    name = data.draw(st.sampled_from(JSON_FILES))
    original = Path(made, name).read_text()
    document = json.loads(original)
    changed = _replaced(document, data.draw(st.sampled_from(list(_places(document)))), data.draw(HOSTILE))
    try:
        Path(path, name).write_text(json.dumps(changed))
        _must_be_a_verdict(judge(path, allow_pickle=True))
        cut = data.draw(st.integers(0, len(original)))
        Path(path, name).write_bytes(original.encode()[:cut] + data.draw(st.binary(max_size=4)))
        _must_be_a_verdict(judge(path, allow_pickle=True))
    finally:
        Path(path, name).write_text(original)


def _scratch(made: str, factory: pytest.TempPathFactory) -> str:
    path = factory.getbasetemp() / "scratch"
    return str(path) if path.exists() else shutil.copytree(made, str(path))


def _must_be_a_verdict(verdict: Verdict) -> None:
    """Of the right type through and through, and fit for the wire: it comes back from JSON as it was."""
    assert msgspec.json.decode(msgspec.json.encode(verdict), type=Accepted | Rejected) == verdict
    assert isinstance(verdict, Accepted) or verdict.reasons


RERANKER_JSON = ("config.json", "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json")


@pytest.mark.parametrize("form", ["plain", "saved"])
def test_a_cross_encoder_with_one_label_is_a_reranker(form: Any, tmp_path: Path) -> None:
    path = making.reranker(tmp_path, form=form)
    manifest = accepted(path)
    assert (manifest.kind, manifest.dim, manifest.stages, manifest.max_tokens) == ("reranker", 1, (), 64)
    assert manifest.activation == "Sigmoid"
    assert ("modules.json" in manifest.files) == (form == "saved")
    assert manifest.warnings == ()


def test_the_readme_of_an_older_cross_encoder_asks_for_no_modules(tmp_path: Path) -> None:
    path = making.reranker(tmp_path)
    Path(path, "README.md").write_text("---\nlibrary_name: sentence-transformers\n---\n")
    assert accepted(path).kind == "reranker"


@pytest.mark.parametrize("gone", ["config.json", "modules.json", "model.safetensors", "tokenizer.json"])
def test_a_cross_encoder_that_is_caught_while_it_is_copied_is_incomplete(gone: str, tmp_path: Path) -> None:
    path = making.reranker(tmp_path, form="saved")
    Path(path, gone).unlink()
    found = rejected(path)
    assert {reason.kind for reason in found.values()} == {"incomplete"}
    assert any(gone in reason.message for reason in found.values())


def test_an_encoder_says_what_it_is_by_its_modules_whatever_head_its_transformer_has(tmp_path: Path) -> None:
    path = making.encoder(tmp_path)
    edit(path, "config.json", put(architectures=["BertForSequenceClassification"]))
    assert accepted(path).kind == "encoder"
    Path(path, "modules.json").unlink()
    assert "modules_missing" in rejected(path)


@pytest.mark.parametrize("labels", [2, 5])
def test_a_cross_encoder_with_more_labels_is_a_classifier(labels: int, tmp_path: Path) -> None:
    found = rejected(making.reranker(tmp_path, labels=labels))
    assert set(found) == {"classifier"}
    assert f"{labels} labels" in found["classifier"].message
    assert "one label" in found["classifier"].remedy


def test_a_configuration_that_says_nothing_of_labels_has_two(tmp_path: Path) -> None:
    path = making.reranker(tmp_path)
    edit(path, "config.json", lambda config: config.pop("id2label") and config)
    assert set(rejected(path)) == {"classifier"}
    edit(path, "config.json", put(num_labels=1))
    assert accepted(path).kind == "reranker"


@pytest.mark.parametrize(
    ("file", "change", "code"),
    [
        ("config.json", put(num_labels=3), "config_invalid"),
        ("config.json", put(id2label="one"), "config_invalid"),
        ("config.json", put(architectures=["BertModel"]), "modules_invalid"),
        ("config_sentence_transformers.json", put(model_type="SentenceTransformer"), "kind_not_served"),
        (
            "config_sentence_transformers.json",
            put(activation_fn="torch.nn.modules.rnn.LSTM"),
            "activation_not_supported",
        ),
        ("config_sentence_transformers.json", put(activation_fn=7), "modules_invalid"),
        (
            "config_sentence_transformers.json",
            put(prompts={"query": "query: "}, default_prompt_name="query"),
            "setting_not_supported",
        ),
        ("sentence_bert_config.json", put(transformer_task="feature-extraction"), "setting_not_supported"),
    ],
)
def test_a_reranker_that_says_what_is_not_served_is_refused(file: str, change: Any, code: str, tmp_path: Path) -> None:
    path = making.reranker(tmp_path, form="saved")
    edit(path, file, change)
    assert set(rejected(path)) == {code}


def test_an_activation_of_ones_own_is_never_imported_and_told(tmp_path: Path) -> None:
    path = making.reranker(tmp_path, form="saved", activation="evil.Activation")
    manifest = accepted(path)
    assert manifest.activation == "Sigmoid"  # as sentence-transformers does without trust_remote_code
    assert any("evil.Activation" in warning for warning in manifest.warnings)


def test_a_reranker_of_a_type_that_transformers_runs_otherwise_is_refused(tmp_path: Path) -> None:
    found = rejected(making.reranker(tmp_path, family="qwen3"))
    assert set(found) == {"kind_not_served"}
    assert "reranker" in found["kind_not_served"].message


def test_weights_without_the_head_are_those_of_another_model(tmp_path: Path) -> None:
    path = making.reranker(tmp_path / "whole")
    body = making.encoder(tmp_path / "body", plain=True)
    shutil.copy(Path(body, "model.safetensors"), Path(path, "model.safetensors"))
    found = rejected(path)
    assert set(found) == {"weights_mismatch"}
    assert "one label" in found["weights_mismatch"].message


@settings(max_examples=200, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_stands_in_a_json_file_of_a_reranker_the_answer_is_a_verdict(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = str(tmp_path_factory.getbasetemp() / "reranker")
    if not Path(path).exists():
        making.reranker(path, form="saved", activation="torch.nn.modules.linear.Identity")
    name = data.draw(st.sampled_from(RERANKER_JSON))
    original = Path(path, name).read_text()
    document = json.loads(original)
    changed = _replaced(document, data.draw(st.sampled_from(list(_places(document)))), data.draw(HOSTILE))
    try:
        Path(path, name).write_text(json.dumps(changed))
        _must_be_a_verdict(judge(path))
    finally:
        Path(path, name).write_text(original)
