"""Language models in memory: a base and its tokenizer, and the adapter beside its weights. Never anyone's code, and
never the network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from trainer import lora, modelling, quiet
from trainer.contents import read_json
from trainer.errors import InvalidInput, NotAModel
from trainer.language.config import LanguageConfig

MANY: Final = 10**9  # a tokenizer without a limit says an astronomic number
OF_TOKENIZER: Final = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True, slots=True)
class Speaker:
    """`limit` is how many tokens the base takes; `own_words` says that the tokenizer is not just the base's."""

    model: Any
    tokenizer: Any
    limit: int
    endings: frozenset[int]
    own_words: bool = False

    @property
    def pad(self) -> int:
        found = self.tokenizer.pad_token_id
        return int(found if found is not None else next(iter(sorted(self.endings)), 0))


def load(directory: Path, *, device: str = "cpu", dtype: str = "float32", nf4: bool = False) -> Speaker:
    """A causal language model. Raises NotAModel for what is none, or cannot be loaded."""
    modelling.check(directory)
    named = read_json(directory / "config.json").get("architectures") or []
    if not any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in named):
        raise NotAModel(f"{directory}: no causal language model: its architectures are {named}")
    if not any((directory / name).is_file() for name in OF_TOKENIZER):
        raise NotAModel(f"{directory}: no tokenizer")
    quiet.libraries()
    import torch  # noqa: PLC0415  heavy
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415  heavy

    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    chosen = {"dtype": getattr(torch, dtype), **(_four_bits(device, dtype) if nf4 else {})}
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(directory), **options)
        model = AutoModelForCausalLM.from_pretrained(str(directory), **options, **chosen)
    except Exception as error:  # anything can be wrong with a directory, and each library says so in its own way
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise NotAModel(f"{directory}: cannot be loaded: {reason}") from error
    model = _prepared(model) if nf4 else model.to(device)
    model.eval()
    return Speaker(model, tokenizer, _limit(model, tokenizer), _endings(model, tokenizer))


def _prepared(model: Any) -> Any:
    """What is not in 4 bits, in float32: in training, and wherever else it is loaded, so that it answers the same."""
    from peft import prepare_model_for_kbit_training  # noqa: PLC0415  heavy

    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def _four_bits(device: str, dtype: str) -> dict[str, Any]:
    import torch  # noqa: PLC0415  heavy
    from transformers import BitsAndBytesConfig  # noqa: PLC0415  heavy

    # without double quantization it was seen to corrupt itself once it is saved
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )
    return {"quantization_config": settings, "device_map": {"": device}}


def _limit(model: Any, tokenizer: Any) -> int:
    found = (getattr(model.config, "max_position_embeddings", None), tokenizer.model_max_length)
    return min([int(each) for each in found if each and each < MANY], default=MANY)


def _endings(model: Any, tokenizer: Any) -> frozenset[int]:
    found: set[int] = set()
    for each in (tokenizer.eos_token_id, model.config.eos_token_id, model.generation_config.eos_token_id):
        found |= {int(token) for token in (each if isinstance(each, list) else [each]) if token is not None}
    return frozenset(found)


def with_template(speaker: Speaker, asked: str) -> Speaker:
    """`asked` as the setting has it. Raises InvalidInput for a file that is no template."""
    if asked == "auto":
        return speaker
    own = asked != "none"
    if own:
        try:
            speaker.tokenizer.chat_template = Path(asked).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"chat_template {asked}: auto, none, or a file that can be read: {error}") from error
    return Speaker(speaker.model, speaker.tokenizer, speaker.limit, speaker.endings, own)


def adapted(speaker: Speaker, config: LanguageConfig) -> tuple[Speaker, tuple[str, ...]]:
    """With a new adapter, its first weights drawn from the seed -> what it changes, too. Raises InvalidInput."""
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415  heavy
    from torch import nn  # noqa: PLC0415  heavy
    from transformers import set_seed  # noqa: PLC0415  heavy

    linear = [name for name, module in speaker.model.named_modules() if isinstance(module, nn.Linear)]
    chosen = lora.chosen(linear, config.lora_targets)
    if config.qlora:  # who needs 4 bits has no room for what each layer made
        speaker.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    set_seed(config.seed)  # here, and not only in the loop: the adapter is drawn before the loop exists
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=list(chosen),
    )
    wrapped = get_peft_model(speaker.model, settings)
    return Speaker(wrapped, speaker.tokenizer, speaker.limit, speaker.endings, speaker.own_words), chosen


def whole(directory: Path, base: Path | None, *, device: str, dtype: str, nf4: bool) -> Speaker:
    """A model by itself; an adapter over its base, with its own tokenizer where it has one."""
    if (directory / "config.json").is_file():
        return load(directory, device=device, dtype=dtype, nf4=nf4)
    if base is None:
        raise NotAModel(f"{directory}: an adapter, and its base was not given")
    quiet.libraries()
    from peft import PeftModel  # noqa: PLC0415  heavy
    from transformers import AutoTokenizer  # noqa: PLC0415  heavy

    speaker = load(base, device=device, dtype=dtype, nf4=nf4)
    model = PeftModel.from_pretrained(speaker.model, str(directory)).eval()
    own = (directory / "tokenizer.json").is_file()
    tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True) if own else speaker.tokenizer
    return Speaker(model, tokenizer, speaker.limit, speaker.endings, own)
