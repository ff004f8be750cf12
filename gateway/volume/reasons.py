"""Every reason for which a directory is not served, in one table: code -> who can heal it, and how.

A code is stable: `/models`, the log and the console show it, and `docs/model-directory.md` lists each one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, ParamSpec, TypeVar

from gateway.model import Reason

P = ParamSpec("P")
T = TypeVar("T")
Kind = Literal["incomplete", "invalid", "refused", "unreadable"]

REASONS: Final[dict[str, tuple[Kind, str]]] = {
    # any file
    "file_missing": ("incomplete", "Copy {file} as well."),
    "link_broken": (
        "incomplete",
        "Copy the whole cache directory, or copy with 'cp -rL' so that links become the files that they point to.",
    ),
    "not_a_file": ("refused", "Replace {file} by a regular file."),
    "outside_volume": ("refused", "Replace the link {file} by the file itself ('cp -L')."),
    "folder_link": ("refused", "Replace the link {file} by the folder itself ('cp -rL')."),
    "file_too_large": ("refused", "Replace {file}: no model of a kind that is served has one of this size."),
    "file_unreadable": ("unreadable", "Run 'chmod a+r {file}', and 'chmod a+rx' on the folders above it."),
    "read_failed": ("unreadable", "Check the volume: reading {file} failed in the operating system."),
    "json_invalid": ("invalid", "Copy {file} again: it is cut short, or it is not JSON."),
    # what the directory is
    "config_missing": ("incomplete", "Copy config.json, which says what the model is."),
    "config_invalid": ("invalid", "Correct {file}, or save the model again with transformers."),
    "kind_not_served": (
        "refused",
        "Serve it elsewhere: this version serves text encoders, rerankers and language models.",
    ),
    "classifier": ("refused", "Use a cross-encoder with one label; classifiers are not served."),
    "architecture_not_served": ("refused", "Use a model of a type that is served; docs/model-directory.md lists them."),
    "custom_code": ("refused", "Use a model that transformers knows by itself; code from a volume is never run."),
    "quantization_not_served": (
        "refused",
        "Quantize the model with 'trainer quantize', or save it without quantization (float32, float16 or bfloat16).",
    ),
    "library_missing": ("refused", "Run pip install '{file}' where the gateway runs, and start it again."),
    "network_invalid": ("invalid", "Copy {file} again, or convert the model again: it is not what OpenVINO wrote."),
    "network_not_served": ("refused", "Convert the model with 'trainer quantize --form openvino-int8'."),
    "setting_not_supported": ("refused", "Remove the setting from {file} if the model does not need it."),
    # weights
    "weights_missing": ("incomplete", "Copy model.safetensors, or its index and every shard."),
    "weights_truncated": ("incomplete", "Copy {file} again: the copy stopped before its end."),
    "weights_invalid": ("invalid", "Save or copy {file} again: it is not a file that safetensors or torch wrote."),
    "weights_mismatch": ("invalid", "Copy the weights and the configuration of one and the same model."),
    "shards_missing": ("incomplete", "Copy every shard that {file} names."),
    "pickle_weights": ("refused", "Convert the weights to safetensors, or set DROPGATE_ALLOW_PICKLE=true."),
    "pickle_legacy": ("refused", "Convert the weights to safetensors: this old format cannot be checked."),
    # tokenizer
    "tokenizer_missing": ("incomplete", "Copy tokenizer.json, which save_pretrained of the tokenizer writes."),
    "tokenizer_config_missing": ("incomplete", "Copy tokenizer_config.json."),
    "tokenizer_invalid": ("invalid", "Copy {file} again, or save the tokenizer again with transformers."),
    "tokenizer_not_supported": ("refused", "Save the tokenizer again with transformers, which writes tokenizer.json."),
    "vocabulary_truncated": (
        "incomplete",
        "Copy {file} again, whole and with its last line end; or add tokenizer.json.",
    ),
    "vocabulary_mismatch": ("invalid", "Copy the tokenizer and the configuration of one and the same model."),
    # sentence-transformers
    "modules_missing": ("incomplete", "Copy modules.json: without it the pooling of this model is unknown."),
    "modules_invalid": ("invalid", "Correct {file}, or save the model again with sentence-transformers."),
    "module_not_supported": ("refused", "Use a model made of the modules that docs/model-directory.md lists."),
    "path_outside_model": ("refused", "Use relative paths without '..' in {file}."),
    "module_config_missing": ("incomplete", "Copy {file} as well."),
    "module_config_invalid": ("invalid", "Correct {file}, or save the model again with sentence-transformers."),
    "activation_not_supported": ("refused", "Use an activation function of torch.nn that has no parameters."),
    "dimension_mismatch": ("invalid", "Copy all modules of one and the same model."),
    # the directory as a whole
    "folder_unreadable": ("unreadable", "Run 'chmod -R a+rX' on the model's directory."),
    "too_many_files": ("refused", "Leave out what is not the model: at most 2,000 files and folders."),
    "too_deep": ("refused", "Leave out what is not the model: folders are nested at most 8 levels deep."),
    "checksum_mismatch": ("incomplete", "Copy {file} again, or write SHA256SUMS anew with sha256sum."),
    "nested_copy": (
        "invalid",
        "Copy to the folder above, with a slash at the end ('kubectl cp ./{file} NAMESPACE/POD:FOLDER/'); then remove "
        "the inner {file}.",
    ),
    # adapters
    "adapter_invalid": ("invalid", "Correct {file}, or save the adapter again with peft."),
    "adapter_not_supported": ("refused", "Use a LoRA adapter, or merge the adapter into its base."),
    "base_missing": (
        "incomplete",
        "Copy the base model to base/ or to the place of its id, or name it under [bases] in aliases.toml.",
    ),
    "base_not_ready": ("incomplete", "See what stands against serving its base; this model follows when it is served."),
    "base_mismatch": (
        "invalid",
        "Name the base that it was trained on under [bases] in aliases.toml, or train it again over this one.",
    ),
    "base_not_supported": (
        "refused",
        "Merge the adapter into its base (merge_and_unload of peft), and drop the whole model.",
    ),
    # the gateway's own copy of it
    "disk_full": ("unreadable", "Free space under the state directory, or move it to a larger disk (--state-dir)."),
    "store_unwritable": ("unreadable", "Let the gateway write to its state directory (--state-dir)."),
    # in a bucket
    "bucket_unreachable": ("unreadable", "Wait until the bucket answers again, and see whether it can be reached."),
    "bucket_forbids": ("unreadable", "Let the gateway's credentials list and read what is in the bucket."),
    "load_failed": ("invalid", "Copy a model that loads; touch one of its files to have this one tried again."),
    # at an upstream that serves it
    "upstream_unreachable": ("unreadable", "Start the upstream, or correct base_url in the file of --providers."),
    "upstream_without_adapters": (
        "refused",
        "Start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=true in its environment.",
    ),
    "upstream_path_missing": (
        "unreadable",
        "Let the upstream read the folder, and say where it finds it: adapters.paths in the file of --providers.",
    ),
    "upstream_base_missing": ("refused", "Correct adapters.bases in the file of --providers, or serve the base there."),
    "upstream_base_differs": (
        "refused",
        "Serve this generation of the base at the upstream, and name it in adapters.bases of the file of --providers.",
    ),
    "upstream_refused": (
        "refused",
        "Do what the message asks for, such as a higher --max-lora-rank; a change of the directory has it tried again.",
    ),
    "internal": ("invalid", "Report it with the gateway's log; touch one of the model's files to have it tried again."),
    "golden_mismatch": ("invalid", "Publish the model again: what was copied does not answer as it did when made."),
    # beside the model
    "golden_invalid": ("invalid", "Correct the golden vectors in {file}; the model is served without comparing them."),
    "metadata_invalid": ("invalid", "Correct {file}; the model is served without it."),
}


class Unfit(Exception):
    """Why one part of a directory cannot be served; `judge` turns it into a verdict."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.message)
        self.reason = reason


def codes() -> dict[str, str]:
    """Code -> kind, for every reason there is."""
    return {code: kind for code, (kind, _) in REASONS.items()}


def reason(code: str, message: str, file: str | None = None, *, heals: str = "") -> Reason:
    """The reason of this code; the remedy comes from the table. `file` is relative to the model, and what heals it
    where nothing else does."""
    kind, remedy = REASONS[code]
    return Reason(code=code, kind=kind, message=message, remedy=remedy.format(file=heals or file), file=file)


def unfit(code: str, message: str, file: str | None = None, *, heals: str = "") -> Unfit:
    """To be raised."""
    return Unfit(reason(code, message, file, heals=heals))


class Findings:
    """What the judging of one directory has found so far: all of it, for a person heals all in one go."""

    def __init__(self) -> None:
        self.reasons: list[Reason] = []
        self.warnings: list[str] = []

    def attempt(self, part: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T | None:
        """The answer of `part`, or None after its reason was noted."""
        try:
            return part(*args, **kwargs)
        except Unfit as error:
            if error.reason not in self.reasons:
                self.reasons.append(error.reason)
            return None

    def warn(self, message: str) -> None:
        self.warnings.append(message)
