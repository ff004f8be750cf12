"""Texts to token ids, exactly those that sentence-transformers feeds the same model.

A Tokenizer never changes after it is made, so that many threads may use one: truncation is set once, and what
it cut off comes back as overflow, which tells a text that was too long from one that just fits.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, models, normalizers
from tokenizers import Tokenizer as Backend

from gateway.errors import InputTooLong, InvalidInput, LoadFailed
from gateway.host import library
from gateway.model import Generation

TokenIds = npt.NDArray[np.int64]


class Tokenizer:
    """The tokenizer of one generation. `max_tokens` counts the special tokens too."""

    def __init__(self, generation: Generation) -> None:
        """Reads the generation's tokenizer files. Raises LoadFailed if they cannot be used."""
        manifest = generation.manifest
        loaded = _load(os.path.join(generation.path, manifest.tokenizer_path), generation.short)
        self.max_tokens = manifest.max_tokens
        self._special_ids = frozenset(loaded.all_special_ids)
        self._backend: Backend = loaded.backend_tokenizer
        self._backend.encode_special_tokens = loaded.split_special_tokens
        if isinstance(self._backend.model, models.BPE):
            # tokenizers 0.23 caches words for each BPE in each thread, and frees none of it with the tokenizer:
            # megabytes with every load. Without the cache encoding takes up to a third longer.
            self._backend.model._resize_cache(0)
        self._backend.no_padding()
        self._backend.enable_truncation(self.max_tokens, strategy="longest_first", direction=loaded.truncation_side)
        self._added = self._backend.num_special_tokens_to_add(False)
        if manifest.lower_case:
            self._backend.normalizer = lower_casing(self._backend.normalizer)

    def encode(self, texts: Sequence[str], *, prompt: str = "", truncate: bool = True) -> list[TokenIds]:
        """One array of ids for each text, `prompt` put before it, special tokens included.

        Raises InvalidInput for a text without tokens or outside Unicode, and InputTooLong, unless `truncate`, for
        one over `max_tokens`.
        """
        encodings = self._encodings([prompt + text for text in texts] if prompt else list(texts))
        for index, encoding in enumerate(encodings):
            if not truncate and encoding.overflowing:
                raise self._too_long(index, encoding)
            if not encoding.ids:
                raise InvalidInput(f"input {index} has no tokens", index=index)
        return [np.asarray(encoding.ids, dtype=np.int64) for encoding in encodings]

    def prompt_tokens(self, prompt: str) -> int:
        """How many tokens at the front pooling leaves out when the model does not include its prompts.

        As sentence-transformers counts: the prompt alone, without a special token at its end.
        """
        if not prompt:
            return 0
        ids = self._encodings([prompt])[0].ids
        return len(ids) - (bool(ids) and ids[-1] in self._special_ids)

    def _encodings(self, texts: list[str]) -> list[Encoding]:
        try:
            return self._backend.encode_batch_fast(texts)
        except (TypeError, UnicodeError):
            for index, text in enumerate(texts):
                if any("\ud800" <= letter <= "\udfff" for letter in text):
                    raise InvalidInput(f"input {index} holds half of a surrogate pair", index=index) from None
            raise

    def _too_long(self, index: int, encoding: Encoding) -> InputTooLong:
        parts = [encoding, *encoding.overflowing]
        tokens = self._added + sum(len(part.ids) - self._added for part in parts)
        message = f"input {index} has {tokens} tokens, and the model takes {self.max_tokens}"
        return InputTooLong(message, index=index, tokens=tokens, max_tokens=self.max_tokens)


def lower_casing(normalizer: Any) -> Any:
    """`normalizer` behind a Lowercase, unless it has one: what `do_lower_case` does in sentence-transformers."""
    steps: list[Any] = [normalizer]
    if isinstance(normalizer, normalizers.Sequence):
        steps = list(normalizer)  # type: ignore[call-overload]  # the stubs do not know that it is iterable
    if any(isinstance(step, normalizers.Lowercase) for step in steps):
        return normalizer
    return normalizers.Sequence([normalizers.Lowercase(), *(step for step in steps if step is not None)])


def _load(path: str, generation: str) -> Any:
    transformers = library.transformers()
    try:
        loaded = transformers.AutoTokenizer.from_pretrained(path, **library.LOCAL)
    except Exception as error:  # the library has no list of what it raises
        message = f"the tokenizer could not be read: {error}"
        raise LoadFailed(message, reason="tokenizer_unreadable", generation=generation) from error
    if not loaded.is_fast:
        message = f"{type(loaded).__name__} has no fast tokenizer: bring a tokenizer.json"
        raise LoadFailed(message, reason="tokenizer_not_fast", generation=generation)
    return loaded
