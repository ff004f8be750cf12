"""An adapter of a language model and its base become one plain model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import numpy as np

from trainer import quiet
from trainer.errors import InvalidInput, QualityGate
from trainer.language import golden, speaker
from trainer.language.golden import Form, Spoken

CLOSE: Final = 1e-5  # of logits, relative to the largest; measured: 3e-7
WORDS: Final = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja"),
)


def merge(adapter: Path, base: Path, stage: Path) -> tuple[Spoken, float]:
    """Saves to `stage` -> what the merged model answers, and how far its logits are from the adapter's. Raises
    InvalidInput where peft cannot, QualityGate where the two differ, or the files answer otherwise than the memory."""
    import torch  # noqa: PLC0415  heavy

    loaded = speaker.whole(adapter, base, device="cpu", dtype="float32", nf4=False)
    form = Form(threads=torch.get_num_threads(), templated=bool(loaded.tokenizer.chat_template))
    endings = sorted(loaded.endings)
    adapted = golden.speak(loaded.model, loaded.tokenizer, endings, form)
    try:
        model = loaded.model.merge_and_unload(safe_merge=True)
    except (ValueError, RuntimeError, KeyError) as error:  # peft has no list of what it raises
        raise InvalidInput(f"{adapter}: peft cannot merge it into {base}: {quiet.one_line(error)}") from error
    merged = golden.speak(model, loaded.tokenizer, endings, form)
    difference = _difference(adapted, merged)
    model.save_pretrained(str(stage))
    _copy_words(adapter if loaded.own_words else base, stage)
    again = golden.again(stage, None, form)
    if not np.array_equal(again.logits, merged.logits):
        worst = float(np.abs(again.logits - merged.logits).max())
        raise QualityGate(f"loaded anew, the merged model answers otherwise than in memory, by up to {worst:.1e}")
    return merged, difference


def _difference(adapted: Spoken, merged: Spoken) -> float:
    largest = max(1.0, float(np.abs(adapted.logits).max()))
    found = float(np.abs(adapted.logits - merged.logits).max()) / largest
    if not found <= CLOSE:  # not a number is no success
        raise QualityGate(f"merged, the model answers otherwise than with its adapter: by up to {found:.1e}")
    return found


def _copy_words(source: Path, stage: Path) -> None:
    """The tokenizer and the template, as they lie."""
    for name in WORDS:
        if (source / name).is_file():
            shutil.copyfile(source / name, stage / name)
