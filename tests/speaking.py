"""Small language models, made on the spot: the files that transformers writes, with a tokenizer and a chat template."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("HF_HUB_OFFLINE", "1")

CHATML: Final = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS: Final = ["the beam is stored in the ring", "a poem about autumn leaves", "who keeps the keys of the gate?"]
SPECIAL: Final = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def tokenizer(lines: Sequence[str] = WORDS, words: int = 400, template: str | None = CHATML) -> Any:
    """A byte-level BPE, trained on these lines."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=words, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(lines, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL,
        model_max_length=256,
    )
    if template:
        made.chat_template = template
    return made


def language_model(
    path: str | os.PathLike[str],
    *,
    family: str = "Qwen2",
    seed: int = 0,
    template: str | None = CHATML,
    endings: bool = True,
    words: Any = None,
    **config: Any,
) -> str:
    """A causal language model with random weights; its path. Without `endings` it never ends an answer by itself.
    `words`: its tokenizer."""
    import torch
    import transformers

    words = words or tokenizer(template=template)
    settings = {
        "vocab_size": len(words),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "eos_token_id": words.eos_token_id if endings else None,
        "bos_token_id": None,
        "pad_token_id": words.pad_token_id,
        **config,
    }
    transformers.set_seed(seed)
    model = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**settings))
    for weights in model.parameters():
        if weights.dim() > 1:
            torch.nn.init.normal_(weights, std=0.15)
    model.generation_config.eos_token_id = settings["eos_token_id"]
    model.eval().save_pretrained(path)
    words.save_pretrained(path)
    for file in Path(path).iterdir():
        file.chmod(0o644)
    return str(path)


def voice(
    path: str | os.PathLike[str],
    base: str,
    *,
    named: str = "base/tiny",
    seed: int = 1,
    targets: Sequence[str] = ("q_proj", "v_proj", "o_proj", "up_proj", "down_proj"),
    spread: float = 0.5,
    **config: Any,
) -> str:
    """An adapter of such a model, as peft writes it, that changes what it says; its path. `named` is what it calls its
    base."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, set_seed

    set_seed(seed)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": list(targets), "task_type": "CAUSAL_LM", **config}
    changed = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**settings))
    for name, weights in changed.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=spread)
    changed.save_pretrained(path)
    written = Path(path, "adapter_config.json")
    written.write_text(json.dumps(json.loads(written.read_text()) | {"base_model_name_or_path": named}))
    for file in Path(path).iterdir():
        file.chmod(0o644)
    return str(path)


def greedy(path: str, prompt: str | Sequence[int], tokens: int, adapter: str | None = None) -> list[int]:
    """What `generate` of transformers says, one text by itself; with an adapter what peft makes of it."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(path)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter).eval()
    words = AutoTokenizer.from_pretrained(path)
    ids = words(prompt)["input_ids"] if isinstance(prompt, str) else list(prompt)
    given = torch.tensor([ids])
    with torch.inference_mode():
        found = model.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=tokens, do_sample=False)
    return [int(token) for token in found[0, len(ids) :]]
