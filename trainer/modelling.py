"""Models to train: found, and loaded without the network and without anyone's code.

A directory is loaded as it lies. A name of the hub is asked for by being named: what is in the cache is taken, and only
what is not there is fetched; with `HF_HUB_OFFLINE=1` nothing is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from trainer import quiet
from trainer.errors import InvalidInput, NotAModel, TrainerError

HUB_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
SNAPSHOT: Final = re.compile(r"models--(.+?)--(.+)")
WANTED: Final = ("*.json", "*.txt", "*.safetensors", "*.model", "*.jinja")
UNWANTED: Final = ("onnx/*", "openvino/*")


def find(name: str) -> Path:
    """The directory of a model that is named by its directory or as the hub names it. Raises InvalidInput."""
    if not name:
        raise InvalidInput("no base model; name one: --base-model sentence-transformers/all-MiniLM-L6-v2")
    directory = Path(name)
    if directory.is_dir():
        return directory.resolve()
    if not HUB_NAME.fullmatch(name):
        raise NotAModel(f"{name}: no such directory")
    return _from_hub(name)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415  heavy
    from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415

    repository = name if "/" in name else f"sentence-transformers/{name}"
    options: dict[str, Any] = {"allow_patterns": list(WANTED), "ignore_patterns": list(UNWANTED)}
    try:
        return Path(snapshot_download(repository, local_files_only=True, **options))
    except LocalEntryNotFoundError:
        pass
    try:
        return Path(snapshot_download(repository, **options))
    except Exception as error:  # the hub's errors have no root of their own
        told = quiet.one_line(error)
        raise TrainerError(f"{name}: neither a directory nor a model that the hub gave: {told}") from error


def logical_name(name: str, directory: Path) -> str:
    """What a model is called wherever it lies: NAMESPACE/NAME. A path on this machine says nothing elsewhere."""
    if not Path(name).is_dir():
        return name
    for part in directory.parts:
        if cached := SNAPSHOT.fullmatch(part):
            return f"{cached[1]}/{cached[2]}"
    return "/".join(part for part in directory.parts[-2:] if part != directory.anchor)


def load(path: str | Path, device: str = "cpu") -> Any:
    """A SentenceTransformer in float32. Raises NotAModel for what is none, or none that can be trained."""
    directory = find(str(path))
    check(directory)
    quiet.libraries()
    import torch  # noqa: PLC0415  heavy
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415  heavy

    try:
        return SentenceTransformer(
            str(directory),
            device=None if device == "auto" else device,
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"dtype": torch.float32},
        )
    except Exception as error:  # anything can be wrong with a directory, and each library says so in its own way
        raise NotAModel(f"{directory}: cannot be loaded: {quiet.one_line(error)}") from error


def check(directory: Path) -> None:
    """Raises NotAModel for what cannot be trained, as far as its files say it."""
    config = directory / "config.json"
    if (directory / "adapter_config.json").is_file() and not config.is_file():
        raise NotAModel(f"{directory}: an adapter; `trainer merge` makes a model of it, which can be trained")
    if not config.is_file():
        if not (directory / "modules.json").is_file():  # older ones have the transformer in a folder
            raise NotAModel(f"{directory}: no model: it has neither config.json nor modules.json")
        return
    try:
        fields = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NotAModel(f"{config}: {error}") from error
    if isinstance(fields, dict) and fields.get("quantization_config"):
        raise NotAModel(f"{directory}: quantized; train from the model that it was made of")


def dimension(model: Any) -> int:
    """Of the model's vectors."""
    return int(model.get_embedding_dimension())


def token_counts(model: Any, texts: Sequence[str]) -> list[int]:
    """Tokens of each text, uncut, with what the model puts around it."""
    encoded = model.tokenizer(list(texts), truncation=False, padding=False, verbose=False)
    return [len(ids) for ids in encoded["input_ids"]]


def limit(model: Any) -> int:
    """The most tokens of a text that the model takes."""
    return int(model.max_seq_length or model.tokenizer.model_max_length)
