"""Texts to token ids, exactly those that sentence-transformers feeds the same model.

A Tokenizer never changes after it is made, so that many threads may use one, and many generations: truncation is set
once, and what it cut off comes back as overflow, which tells a text that was too long from one that just fits.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import deque
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final
from weakref import WeakValueDictionary

import msgspec
import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, models, normalizers
from tokenizers import Tokenizer as Backend

from gateway.errors import InputTooLong, InvalidInput, LoadFailed
from gateway.host import frame, library, panic, wordpieces
from gateway.host.excerpt import can_be_cut, excerpt
from gateway.host.frame import Frame, PairFrame, Row
from gateway.host.wire import Side
from gateway.model import Generation

TokenIds = npt.NDArray[np.int64]

SHORT: Final = 512  # characters that are tokenized in less time than another thread takes to be told of them
# A text is read up to here first: more than the tokens that count take in any language, and never worth a cut below.
CHARACTERS_PER_TOKEN: Final = 16
LEAST_EXCERPT: Final = 4096
FARTHER: Final = 4  # times as much is read where the beginning was not enough
KEPT: Final = 4  # tokenizers that are kept for a while after the last model that used them has gone
KEPT_WORDS: Final = 100_000  # in each of them, at most: a word takes some 100 bytes
# What transformers looks at in config.json when it chooses and mends a tokenizer.
CHOOSING: Final = ("_name_or_path", "model_name", "model_type", "tokenizer_class", "transformers_version")
# What a tokenizer is made of: these names, and the vocabularies of older kinds, which are no JSON.
JSON: Final = frozenset(
    {
        "added_tokens.json",
        "config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
    }
)
VOCABULARIES: Final = (".txt", ".model")


class Tokenizer:
    """The tokenizer of one generation. `max_tokens` counts the special tokens too."""

    def __init__(self, generation: Generation) -> None:
        """Reads the generation's tokenizer files. Raises LoadFailed if they cannot be used."""
        manifest = generation.manifest
        self.max_tokens = manifest.max_tokens
        self._backend, self._special_ids, self.side, self._types = _read(generation)
        if isinstance(self._backend.model, models.BPE):
            # tokenizers 0.23 caches words for each BPE in each thread, and frees none of it with the tokenizer:
            # megabytes with every load. Without the cache encoding takes up to a third longer.
            self._backend.model._resize_cache(0)
        self.words = self._backend.get_vocab_size()
        self._backend.no_padding()
        self._backend.enable_truncation(self.max_tokens, strategy="longest_first", direction=self.side)
        self._added = self._backend.num_special_tokens_to_add(False)
        if manifest.lower_case:
            self._backend.normalizer = lower_casing(self._backend.normalizer)
        self._excerpt = max(LEAST_EXCERPT, CHARACTERS_PER_TOKEN * self.max_tokens)
        self._can_be_cut = can_be_cut(self._backend)

    def encode(
        self, texts: Sequence[str], *, prompt: str = "", truncate: bool = True, side: Side | None = None
    ) -> list[TokenIds]:
        """One array of ids for each text, `prompt` put before it, special tokens included.

        Raises InvalidInput for a text without tokens or outside Unicode, and InputTooLong, unless `truncate`, for
        one over `max_tokens`. It is cut on `side`, by default the tokenizer's own. What truncation would drop of a very
        long text may not be looked at.
        """
        whole = [prompt + text for text in texts] if prompt else list(texts)
        if truncate and side not in (None, self.side):
            return [self._framed(index, body, side) for index, body in enumerate(self.bodies(whole, side))]
        encodings = self._read_enough(whole)
        for index in range(len(encodings)):
            if not truncate and encodings[index].overflowing:
                raise self._too_long(index, encodings[index], cut=self._is_long(whole[index]))
            if not encodings[index].ids:
                raise InvalidInput(f"input {index} has no tokens", index=index)
        return [np.asarray(encoding.ids, dtype=np.int64) for encoding in encodings]

    def encode_ids(self, rows: Sequence[Row], *, truncate: bool = True, side: Side | None = None) -> list[TokenIds]:
        """As `encode`, of ids of the vocabulary; special tokens that a row has at its ends already are not added."""
        found = []
        for index, row in enumerate(rows):
            ids = self.frame.without(row)
            tokens = len(ids) + len(self.frame)
            if tokens > self.max_tokens and not truncate:
                raise too_long(index, tokens, self.max_tokens)
            found.append(self._framed(index, ids, side))
        return found

    def bodies(self, texts: Sequence[str], side: Side | None = None) -> list[Row]:
        """The ids of each text without special tokens: all of them, or if the text is very long at least `max_tokens`
        at the end that stays when it is cut on `side`."""
        whole = list(texts)
        own = (side or self.side) == self.side
        encodings = self._read_enough(whole, special=False) if own else self._encodings(whole, special=False)
        return [[id for part in self.parts(encoding) for id in part.ids] for encoding in encodings]

    def framed(self, text: str) -> Row:
        """All ids of a text that a language model continues, with the special tokens before it and none behind."""
        (body,) = self.bodies([text])
        return [*self.frame.head, *body]

    @property
    def backend(self) -> Backend:
        """What the tokenizers library has."""
        return self._backend

    def parts(self, encoding: Encoding) -> list[Encoding]:
        """An encoding and what was cut off it, in the order of the text."""
        parts = [encoding, *encoding.overflowing]
        return parts if self.side == "right" else parts[::-1]

    @cached_property
    def frame(self) -> Frame:
        """The special tokens of a text."""
        return frame.of(self._backend)

    @cached_property
    def pair_frame(self) -> PairFrame:
        """The special tokens of a pair."""
        return frame.of_pairs(self._backend, types=self._types)

    def spelled(self, texts: list[str]) -> list[Encoding]:
        """As `bodies`, with places in the text, and what was cut off as overflow."""
        return self._encodings(texts, special=False, places=True)

    def name(self, token: int) -> str:
        """What the vocabulary has for an id."""
        return self._backend.id_to_token(token) or ""

    def decode(self, rows: Sequence[Row], *, skip_special_tokens: bool) -> list[str]:
        """Ids to texts."""
        return self._backend.decode_batch([list(row) for row in rows], skip_special_tokens=skip_special_tokens)

    def prompt_tokens(self, prompt: str) -> int:
        """How many tokens at the front pooling leaves out when the model does not include its prompts.

        As sentence-transformers counts: the prompt alone, without a special token at its end.
        """
        if not prompt:
            return 0
        ids = self._encodings([prompt])[0].ids
        return len(ids) - (bool(ids) and ids[-1] in self._special_ids)

    def _framed(self, index: int, ids: Row, side: Side | None) -> TokenIds:
        if not (ids or len(self.frame)):
            raise InvalidInput(f"input {index} has no tokens", index=index)
        return self.frame.around(ids, self.max_tokens, side or self.side)

    def _read_enough(self, texts: list[str], *, special: bool = True) -> list[Encoding]:
        """Of a very long text as much as decides the tokens that are kept."""
        encodings = self._encodings([self._beginning(text) for text in texts], special=special)
        for index, text in enumerate(texts):
            if self._is_long(text) and not encodings[index].overflowing:
                encodings[index] = self._read_on(text, special=special)
        return encodings

    def _is_long(self, text: str) -> bool:
        return self._can_be_cut and len(text) > 2 * self._excerpt

    def _beginning(self, text: str) -> str:
        return excerpt(text, self._excerpt) if self._is_long(text) else text

    def _read_on(self, text: str, *, special: bool = True) -> Encoding:
        """Of a long text whose beginning has not enough tokens."""
        length = self._excerpt
        while True:
            length *= FARTHER
            beginning = excerpt(text, length)
            encoding = self._encodings([beginning], special=special)[0]
            if encoding.overflowing or len(beginning) == len(text):
                return encoding

    def _encodings(self, texts: list[str], *, special: bool = True, places: bool = False) -> list[Encoding]:
        try:
            if places:
                return self._backend.encode_batch(texts, add_special_tokens=special)
            return self._backend.encode_batch_fast(texts, add_special_tokens=special)
        except (TypeError, UnicodeError):
            for index, text in enumerate(texts):
                if any("\ud800" <= letter <= "\udfff" for letter in text):
                    raise InvalidInput(f"input {index} holds half of a surrogate pair", index=index) from None
            raise

    def _too_long(self, index: int, encoding: Encoding, *, cut: bool) -> InputTooLong:
        parts = [encoding, *encoding.overflowing]
        tokens = self._added + sum(len(part.ids) - self._added for part in parts)
        return too_long(index, tokens, self.max_tokens, cut=cut)


def too_long(index: int, tokens: int, most: int, *, cut: bool = False) -> InputTooLong:
    """Of a text that was not read to its end (`cut`) the tokens are at least so many."""
    least = "at least " if cut else ""
    message = f"input {index} has {least}{tokens} tokens, and the model takes {most}"
    return InputTooLong(message, index=index, tokens=tokens, max_tokens=most)


_shared: WeakValueDictionary[bytes, Tokenizer] = WeakValueDictionary()
_recent: deque[Tokenizer] = deque(maxlen=KEPT)  # the one used last at the end; any thread may change it


def shared(generation: Generation) -> Tokenizer:
    """The tokenizer that a loaded generation with the same files and limits has already, or else a new one. The last
    ones are kept for a while: a model that is evicted often comes back.

    Models that were fine-tuned from one base have one tokenizer, which takes longer to read than their weights.
    Raises LoadFailed.
    """
    if generation.place is not None:  # its files may change under us, and then the key would not hold
        return Tokenizer(generation)
    key = _key(generation)
    tokenizer = _shared.get(key)
    if tokenizer is None:
        tokenizer = _shared[key] = Tokenizer(generation)
    if tokenizer.words <= KEPT_WORDS:
        with contextlib.suppress(ValueError):  # it was not there
            _recent.remove(tokenizer)
        _recent.append(tokenizer)
    return tokenizer


def is_short(texts: Sequence[str], prompt: str = "") -> bool:
    """Whether tokenizing takes so little time that the caller's own thread may do it."""
    return sum(map(len, texts)) + len(prompt) * len(texts) <= SHORT


def in_one_thread() -> None:
    """For a host whose device is the processors: a call that spreads over them takes them from the arithmetic, and
    a quarter more time of them in all."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the library reads it with every call


def lower_casing(normalizer: Any) -> Any:
    """`normalizer` behind a Lowercase, unless it has one: what `do_lower_case` does in sentence-transformers."""
    steps: list[Any] = [normalizer]
    if isinstance(normalizer, normalizers.Sequence):
        steps = list(normalizer)  # type: ignore[call-overload]  # the stubs do not know that it is iterable
    if any(isinstance(step, normalizers.Lowercase) for step in steps):
        return normalizer
    return normalizers.Sequence([normalizers.Lowercase(), *(step for step in steps if step is not None)])


def _read(generation: Generation) -> tuple[Backend, frozenset[int], Side, bool]:
    """-> the tokenizer, its special ids, the side on which it cuts, and whether pairs have token types."""
    folder = os.path.join(generation.path, generation.manifest.tokenizer_path)
    if generation.place is None:  # all that is there is in the manifest
        backend = wordpieces.build(folder, _names(generation), generation.manifest.model_type)
        if backend is not None:
            return backend, frozenset(backend.get_added_tokens_decoder()), "right", True
    loaded = _load(folder, generation.short)
    loaded.backend_tokenizer.encode_special_tokens = loaded.split_special_tokens
    types = "token_type_ids" in loaded.model_input_names
    return loaded.backend_tokenizer, frozenset(loaded.all_special_ids), loaded.truncation_side, types


def _names(generation: Generation) -> list[str]:
    """The generation's files that its tokenizer is made of."""
    own = generation.manifest.tokenizer_path
    paths = [os.path.split(path) for path in generation.manifest.files]
    return [name for folder, name in paths if folder == own and (name in JSON or name.endswith(VOCABULARIES))]


def _key(generation: Generation) -> bytes:
    """A digest of everything that this module makes a tokenizer of."""
    manifest = generation.manifest
    folder = os.path.join(generation.path, manifest.tokenizer_path)
    digest = hashlib.blake2b(msgspec.msgpack.encode((manifest.model_type, manifest.max_tokens, manifest.lower_case)))
    try:
        for name in sorted(_names(generation)):
            with open(os.path.join(folder, name), "rb") as stream:
                content = stream.read()
            content = _choosing(content) if name == "config.json" else content
            digest.update(msgspec.msgpack.encode((name, content)))
    except (OSError, ValueError) as error:
        raise _unreadable(error, generation.short) from error
    return digest.digest()


def _choosing(config: bytes) -> bytes:
    found = msgspec.json.decode(config, type=dict[str, Any])
    return msgspec.msgpack.encode([found.get(name) for name in CHOOSING])


def _load(path: str, generation: str) -> Any:
    transformers = library.transformers()
    try:
        with panic.caught():
            loaded = transformers.AutoTokenizer.from_pretrained(path, **library.LOCAL)
    except Exception as error:  # the library has no list of what it raises
        raise _unreadable(error, generation) from error
    if not loaded.is_fast:
        message = f"{type(loaded).__name__} has no fast tokenizer: bring a tokenizer.json"
        raise LoadFailed(message, reason="tokenizer_not_fast", generation=generation)
    return loaded


def _unreadable(error: Exception, generation: str) -> LoadFailed:
    message = f"the tokenizer could not be read: {error}"
    return LoadFailed(message, reason="tokenizer_unreadable", generation=generation)
