"""What sentence-transformers keeps beside a transformer: how long a text may be, and whether it is lower-cased.

The rules are those of sentence_transformers/base/modules/transformer.py (6.2), reproduced without loading anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from gateway.volume.architectures import Architecture
from gateway.volume.documents import Document, shown
from gateway.volume.files import Folder
from gateway.volume.reasons import unfit

NAMES: Final = tuple(  # the first one is written today; the library still reads all, in this order
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
HARMLESS: Final = {  # arguments for loading that leave the vectors as they are, up to rounding
    "model": {
        "add_pooling_layer",
        "attn_implementation",
        "dtype",
        "torch_dtype",
        "trust_remote_code",
        "use_safetensors",
    },
    "tokenizer": {"model_max_length", "padding_side", "trust_remote_code", "use_fast"},
    "config": {"trust_remote_code", "use_cache"},
}
ARGUMENTS: Final = {
    "model_args": "model",
    "model_kwargs": "model",
    "tokenizer_args": "tokenizer",
    "processor_kwargs": "tokenizer",
    "config_args": "config",
    "config_kwargs": "config",
}
UNSERVED: Final = ("processing_kwargs", "query_length", "document_length", "query_expansion")


Form = tuple[str, str, str]  # task, what comes out of the module, and what of the network that is
ENCODER: Final[Form] = ("feature-extraction", "token_embeddings", "last_hidden_state")
RERANKER: Final[Form] = ("sequence-classification", "scores", "logits")


@dataclass(frozen=True, slots=True)
class Settings:
    """`max_seq_length` in tokens, special ones counted; None where the file gives none."""

    file: str | None = None
    max_seq_length: int | None = None
    lower_case: bool = False


def read_settings(folder: Folder, path: str, form: Form = ENCODER) -> Settings:
    """The sentence_*_config.json in the sub-folder `path`, of a model of this form.

    Raises Unfit (setting_not_supported, modules_invalid).
    """
    prefix = path + "/" if path else ""
    for name in NAMES:
        if folder.has(prefix + name):
            document = Document.read(folder, prefix + name, "modules_invalid")
            _check_form(document, form)
            limit = document.count("max_seq_length") if document.given("max_seq_length") else _argued_limit(document)
            return Settings(prefix + name, limit, document.flag("do_lower_case", False))
    return Settings()


def _refuse(document: Document, key: str, value: Any) -> None:
    message = f"{document.name}: {key} = {shown(value)} is not served by this version"
    raise unfit("setting_not_supported", message, document.name)


def _check_form(document: Document, form: Form) -> None:
    """Text in, and out what the form says: nothing else is served."""
    task, output, method_output = form
    if document.text("transformer_task", task) != task:
        _refuse(document, "transformer_task", document.fields["transformer_task"])
    if document.text("module_output_name", output) != output:
        _refuse(document, "module_output_name", document.fields["module_output_name"])
    if document.given("modality_config"):
        text = Document.of(document.inner("modality_config").fields.get("text"), document.name, document.code)
        if (text.text("method", ""), text.text("method_output_name", "")) != ("forward", method_output):
            _refuse(document, "modality_config", text.fields)
    for key in UNSERVED:
        if document.fields.get(key):
            _refuse(document, key, document.fields[key])
    for key, kind in ARGUMENTS.items():
        for argument, value in document.inner(key).fields.items():
            if argument not in HARMLESS[kind]:
                _refuse(document, f"{key}.{shown(argument)}", value)


def _argued_limit(document: Document) -> int | None:
    for key in ("tokenizer_args", "processor_kwargs"):
        arguments = document.inner(key)
        if arguments.given("model_max_length"):
            return arguments.count("model_max_length")
    return None


def max_tokens(settings: Settings, tokenizer_limit: int | None, architecture: Architecture) -> int:
    """How many tokens of a text are read, special ones counted.

    As the library: `max_seq_length` if the file gives one, unchecked; else the tokenizer's `model_max_length`, at
    most `max_position_embeddings`. Then, and there the library would crash instead, at most the positions that the
    architecture has (for RoBERTa two fewer than the number in its configuration).
    """
    if settings.max_seq_length is not None:
        wanted = settings.max_seq_length
    else:
        wanted = min(tokenizer_limit or architecture.max_position_embeddings, architecture.max_position_embeddings)
    return wanted if architecture.positions is None else min(wanted, architecture.positions)
