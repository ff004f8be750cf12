"""LoRA: an adapter beside the weights of the base, trained in their place and merged into them at the end."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from trainer.errors import InvalidInput

HEADS: Final = re.compile(r"(?:.+\.)?(?:pooler|lm_head|classifier|score)(?:\..+)?")  # not a part of a sentence's vector


def targets(linear: Iterable[str]) -> tuple[str, ...]:
    """The shortest endings of names that mean all linear layers but the heads.

    For BERT: query, key, value, intermediate.dense and output.dense; `dense` alone would mean the pooler's too.
    """
    names = list(linear)
    heads = [name for name in names if HEADS.fullmatch(name)]
    chosen = {_shortest(name, heads) for name in names if not HEADS.fullmatch(name)}
    return tuple(sorted(end for end in chosen if not any(_ends(end, other) for other in chosen - {end})))


def _shortest(name: str, unlike: list[str]) -> str:
    parts = name.split(".")
    ends = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
    return next(end for end in ends if not any(_ends(other, end) for other in unlike))


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def linear_layers(model: Any) -> list[str]:
    """Names of the linear layers in the transformer of a SentenceTransformer."""
    from torch import nn  # noqa: PLC0415  heavy

    return [name for name, module in model.transformers_model.named_modules() if isinstance(module, nn.Linear)]


def chosen(linear: Iterable[str], asked: tuple[str, ...]) -> tuple[str, ...]:
    """What is changed: as asked, else all. Raises InvalidInput for layers that there are not."""
    names = list(linear)
    if unknown := [end for end in asked if not any(_ends(name, end) for name in names)]:
        raise InvalidInput(f"lora_targets {', '.join(unknown)}: no such layer; there are {', '.join(targets(names))}")
    return asked or targets(names)


def add(model: Any, *, r: int, alpha: int, dropout: float, asked: tuple[str, ...], seed: int) -> tuple[str, ...]:
    """Adds an adapter and returns what it changes. Its first weights are drawn from `seed`."""
    from peft import LoraConfig  # noqa: PLC0415  heavy
    from transformers import set_seed  # noqa: PLC0415  heavy

    found = chosen(linear_layers(model), asked)
    set_seed(seed)  # here, and not only in the loop: the adapter is drawn before the loop exists
    model.add_adapter(
        LoraConfig(
            task_type="FEATURE_EXTRACTION", r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(found)
        )
    )
    return found


def load_weights(inner: Any, directory: Path) -> None:
    """Puts an adapter's saved weights in place of those of the adapter that the network `inner` has."""
    from peft import set_peft_model_state_dict  # noqa: PLC0415  heavy
    from safetensors.torch import load_file  # noqa: PLC0415  heavy

    weights = load_file(directory / "adapter_model.safetensors")
    missing = set_peft_model_state_dict(inner, weights, adapter_name="default").unexpected_keys
    if missing:
        raise InvalidInput(f"{directory}: weights of another adapter: {missing[0]}")
