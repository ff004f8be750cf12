"""modules.json: which steps make one vector of a text, each checked, in the order in which they are applied.

As in sentence-transformers the order is that of the list, and `idx` is not looked at. Class names are compared with
our own list and never imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.model import Dense, LayerNorm, Normalize, Pooling, Stage
from gateway.volume.documents import Document, shown
from gateway.volume.files import Folder, safe_relative
from gateway.volume.reasons import Unfit, unfit
from gateway.volume.weights import Shape, Weights, find_weights

FILE: Final = "modules.json"
MAX_MODULES: Final = 32
HOMES: Final = {  # class -> the package it lives in since 5.x, and its module there
    "Transformer": ("base", "transformer"),
    "Dense": ("base", "dense"),
    "Normalize": ("base", "normalize"),
    "Pooling": ("sentence_transformer", "pooling"),
    "LayerNorm": ("sentence_transformer", "layer_norm"),
    "Dropout": ("sentence_transformer", "dropout"),
}
SPELLINGS: Final = {
    f"sentence_transformers.{path}.{name}": name
    for name, (package, module) in HOMES.items()
    for path in (
        "models",
        f"models.{name}",
        f"{package}.modules.{module}",
        "sentence_transformer.modules",
    )
}
LEGACY_MODES: Final = {  # in the order in which the library joins them: pooling.py, _LEGACY_POOLING_MODE_KWARGS
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
MODES: Final = tuple(LEGACY_MODES.values())
ACTIVATIONS: Final = {  # of torch.nn: those with no parameters, no randomness and no change of width
    "CELU",
    "ELU",
    "GELU",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "LogSigmoid",
    "Mish",
    "ReLU",
    "ReLU6",
    "SELU",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "Softshrink",
    "Softsign",
    "Tanh",
    "Tanhshrink",
}
DEFAULT_ACTIVATION: Final = "torch.nn.modules.activation.Tanh"
IDENTITY: Final = "torch.nn.modules.linear.Identity"


@dataclass(frozen=True, slots=True)
class Module:
    kind: str
    path: str


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The steps after the transformer. `dim` is the width of what comes out, `weights` those of the steps."""

    stages: tuple[Stage, ...]
    dim: int
    files: tuple[str, ...]
    weights: tuple[Weights, ...]


def read_modules(folder: Folder) -> list[Module]:
    """The modules in order: one Transformer and what makes vectors of its tokens, or it alone, which a reranker is.
    Raises Unfit."""
    entries = folder.json(FILE)
    if not isinstance(entries, list) or not 0 < len(entries) <= MAX_MODULES:
        raise unfit("modules_invalid", f"{FILE} is {shown(entries)}, expected a list of modules", FILE)
    documents = [Document.of(entry, FILE, "modules_invalid") for entry in entries]
    names = [document.text("name") for document in documents]
    if len(set(names)) != len(names):
        raise unfit("modules_invalid", f"{FILE} has two modules of one name", FILE)
    modules = [_module(document) for document in documents]
    kinds = [module.kind for module in modules if module.kind != "Dropout"]
    if kinds != ["Transformer"] and (
        kinds[:2] != ["Transformer", "Pooling"] or kinds.count("Transformer") != 1 or kinds.count("Pooling") != 1
    ):
        raise disordered(modules)
    return modules


def disordered(modules: Sequence[Module]) -> Unfit:
    """To be raised: these are no pipeline."""
    order = ", ".join(module.kind for module in modules if module.kind != "Dropout")
    return unfit("modules_invalid", f"{FILE}: {order}; expected one Transformer, one Pooling, then others", FILE)


def _module(document: Document) -> Module:
    spelling = document.text("type")
    kind = SPELLINGS.get(spelling)
    if kind is None:
        message = f"{FILE}: the class {shown(spelling)} is not served by this version"
        raise unfit("module_not_supported", message, FILE)
    path = safe_relative(document.text("path"))
    if path is None:
        message = f"{FILE}: the path {shown(document.fields['path'])} is not a plain relative one"
        raise unfit("path_outside_model", message, FILE)
    return Module(kind, path)


def read_pipeline(folder: Folder, modules: Sequence[Module], hidden: int, *, allow_pickle: bool) -> Pipeline:
    """The steps of all modules but the transformer, whose token vectors have `hidden` numbers. Raises Unfit."""
    stages: list[Stage] = []
    files: list[str] = []
    weights: list[Weights] = []
    dim = hidden
    for module in modules:
        if module.kind in ("Transformer", "Dropout"):  # a dropout does nothing once the training is over
            continue
        config = _config(folder, module)
        if config.name in files:
            raise unfit("modules_invalid", f"{FILE}: two modules share the folder {shown(module.path)}", FILE)
        if module.kind != "Normalize" or folder.has(config.name):
            files.append(config.name)
        stage = _stage(module, config, dim)
        if isinstance(stage, Dense | LayerNorm):
            weights.append(_stage_weights(folder, stage, allow_pickle))
        stages.append(stage)
        dim = len(stage.modes) * dim if isinstance(stage, Pooling) else getattr(stage, "out_features", dim)
    return Pipeline(tuple(stages), dim, tuple(files), tuple(weights))


def _config(folder: Folder, module: Module) -> Document:
    name = f"{module.path}/config.json" if module.path else "config.json"
    if folder.has(name):
        return Document.read(folder, name, "module_config_invalid")
    if module.kind == "Normalize":  # has no settings; and copying tools leave its empty folder out
        return Document(name, "module_config_invalid", {})
    raise unfit("module_config_missing", f"{name} is missing", name)


def _stage(module: Module, config: Document, dim: int) -> Stage:
    for key in ("module_input_name", "module_output_name"):
        if config.text(key, "sentence_embedding") != "sentence_embedding":
            message = f"{config.name}: {key} = {shown(config.fields[key])} is not served by this version"
            raise unfit("setting_not_supported", message, config.name)
    if module.kind == "Pooling":
        return _pooling(config, dim)
    if module.kind == "Dense":
        return _dense(module.path, config, dim)
    if module.kind == "LayerNorm":
        _check_dimension(config, config.count("dimension"), dim)
        return LayerNorm(module.path, dim)
    return Normalize()


def _check_dimension(config: Document, declared: int, dim: int) -> None:
    if declared != dim:
        message = f"{config.name} expects vectors of {declared} numbers, and gets vectors of {dim}"
        raise unfit("dimension_mismatch", message, config.name)


def _pooling(config: Document, dim: int) -> Pooling:
    key = "embedding_dimension" if "embedding_dimension" in config.fields else "word_embedding_dimension"
    _check_dimension(config, config.count(key), dim)
    return Pooling(_modes(config), config.flag("include_prompt", True))


def _modes(config: Document) -> tuple[str, ...]:
    unknown = [k for k in config.fields if k.startswith("pooling_mode_") and k not in LEGACY_MODES]
    if unknown:
        raise config.fault(f"the pooling mode {shown(unknown[0])} is unknown")
    if not config.given("pooling_mode"):
        return tuple(mode for key, mode in LEGACY_MODES.items() if config.flag(key, False)) or ("mean",)
    value: Any = config.fields["pooling_mode"]
    modes = (value,) if isinstance(value, str) else config.texts("pooling_mode")
    if not modes or len(modes) > len(MODES) or any(mode not in MODES for mode in modes):
        raise config.fault(f"pooling_mode is {shown(value)}, expected one or some of {', '.join(MODES)}")
    return modes


def _dense(path: str, config: Document, dim: int) -> Dense:
    _check_dimension(config, config.count("in_features"), dim)
    if config.flag("use_residual", False):
        message = f"{config.name}: use_residual is not served by this version"
        raise unfit("setting_not_supported", message, config.name)
    return Dense(path, dim, config.count("out_features"), config.flag("bias", True), _activation(config))


def _activation(config: Document) -> str:
    spelling = config.text("activation_function") if "activation_function" in config.fields else DEFAULT_ACTIVATION
    package, _, name = spelling.rpartition(".")
    if spelling == IDENTITY or (package == "torch.nn.modules.activation" and name in ACTIVATIONS):
        return name
    message = f"{config.name}: the activation function {shown(spelling)} is not served"
    raise unfit("activation_not_supported", message, config.name)


def _stage_weights(folder: Folder, stage: Dense | LayerNorm, allow_pickle: bool) -> Weights:
    """The weights in a module's folder, with exactly the tensors that the module has."""
    weights = find_weights(folder, stage.path, allow_pickle=allow_pickle)
    if isinstance(stage, Dense):
        expected: dict[str, Shape] = {"linear.weight": (stage.out_features, stage.in_features)}
        expected |= {"linear.bias": (stage.out_features,)} if stage.bias else {}
    else:
        expected = {"norm.weight": (stage.dimension,), "norm.bias": (stage.dimension,)}
    if weights.shapes is not None and dict(weights.shapes) != expected:
        file = weights.files[0]
        wanted = ", ".join(f"{tensor} {list(shape)}" for tensor, shape in expected.items())
        raise unfit("weights_mismatch", f"{file} does not hold exactly {wanted}", file)
    return weights
