"""Is there a whole tokenizer, and does it belong to these weights?

Only `tokenizer.json` can be seen to be whole by itself. A `vocab.txt` that was cut loads without an error and
answers wrongly, so it counts only if it has exactly as many lines as the configuration has tokens.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec

from gateway.volume.documents import Document, build, read_fields, shown
from gateway.volume.files import TOKENIZER_CAP, Folder
from gateway.volume.reasons import Findings, unfit

MODELS: Final = {"WordPiece", "BPE", "Unigram", "WordLevel"}  # of the tokenizers library
SETTINGS: Final = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
CODE: Final = "tokenizer_invalid"
MOST_VALUES: Final = 2_000_000  # of a vocabulary; the largest real one has 900,000 tokens, each with its score
MAX_UNMERGED: Final = 1024  # bytes, specials and made-up words: tokens of a BPE vocabulary that no merge makes


TokenId = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
Numbered = dict[str, TokenId]
Vocabulary = Numbered | list[msgspec.Raw]  # of Unigram pairs of token and score, whose place is the id


class _Token(msgspec.Struct):
    id: TokenId


class _Model(msgspec.Struct):
    type: str | None = None
    vocab: msgspec.Raw = msgspec.Raw(b"null")


class _File(msgspec.Struct):
    """Of a tokenizer.json, which has megabytes of merges besides."""

    model: _Model | None = None
    added_tokens: msgspec.Raw = msgspec.Raw(b"null")


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """`max_length` is the tokenizer's own limit in tokens, or None where it has none."""

    files: tuple[str, ...]
    max_length: int | None


def read_tokenizer(
    folder: Folder, path: str, vocab_size: int | None, findings: Findings, *, config_required: bool
) -> Tokenizer:
    """The tokenizer in the sub-folder `path`; what is wrong with it goes to `findings`.

    `vocab_size` None leaves out the comparison. `config_required` asks for a tokenizer_config.json even beside a
    tokenizer.json: sentence-transformers always writes one.
    """
    prefix = path + "/" if path else ""
    files = findings.attempt(_vocabulary, folder, prefix, vocab_size, findings) or ()
    settings = [name for name in SETTINGS if folder.has(prefix + name)]
    documents = {name: findings.attempt(Document.read, folder, prefix + name, CODE, TOKENIZER_CAP) for name in settings}
    if "tokenizer_config.json" not in settings and (config_required or prefix + "tokenizer.json" not in files):
        findings.attempt(_missing_config, prefix)
    config = documents.get("tokenizer_config.json")
    limit = findings.attempt(_max_length, config) if config else None
    if config and config.given("auto_map"):
        findings.warn(f"{config.name} names code of its own (auto_map); the tokenizer of transformers is used instead")
    return Tokenizer((*files, *(prefix + name for name in settings)), limit)


def _missing_config(prefix: str) -> None:
    name = prefix + "tokenizer_config.json"
    raise unfit("tokenizer_config_missing", f"{name} is missing", name)


def _max_length(config: Document) -> int | None:
    """`model_max_length`, or as very old tokenizers spell it `max_len`. Those without a limit say 1e30."""
    key = "model_max_length" if "model_max_length" in config.fields else "max_len"
    value = config.fields.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 10**9:
        return None
    if isinstance(value, float) and value.is_integer():  # 512.0
        return Document(config.name, config.code, {key: int(value)}).count(key)
    return config.count(key) if config.given(key) else None


def _vocabulary(folder: Folder, prefix: str, vocab_size: int | None, findings: Findings) -> tuple[str, ...]:
    """The files that hold the vocabulary. With a tokenizer.json the older forms beside it are not read."""
    if folder.has(prefix + "tokenizer.json"):
        largest, count = _read_vocabulary(folder, prefix + "tokenizer.json")
        _check_largest(largest, vocab_size, prefix + "tokenizer.json")
        if folder.has(prefix + "vocab.txt"):
            _warn_of_a_cut_list(folder, prefix + "vocab.txt", count, findings)
        return (prefix + "tokenizer.json",)
    if folder.has(prefix + "vocab.txt"):
        _check_list(folder, prefix + "vocab.txt", vocab_size)
        return (prefix + "vocab.txt",)
    if folder.has(prefix + "vocab.json") and folder.has(prefix + "merges.txt"):
        _check_merges(folder, prefix, vocab_size)
        return (prefix + "vocab.json", prefix + "merges.txt")
    name = prefix + "tokenizer.json"
    if any(entry.endswith(".model") for entry in folder.entries(prefix)):
        message = f"{name} is missing; the sentencepiece model beside it is not read"
        raise unfit("tokenizer_not_supported", message, name)
    raise unfit("tokenizer_missing", f"{name} is missing", name)


def _read_vocabulary(folder: Folder, name: str) -> tuple[int, int]:
    """Of a tokenizer.json: the largest token id, added tokens included, and how many the vocabulary itself has."""
    file = read_fields(folder, name, CODE, _File, TOKENIZER_CAP)
    if file.model is None:
        raise unfit(CODE, f"{name}: it has no model", name)
    if file.model.type is not None and file.model.type not in MODELS:
        message = f"{name}: its model is {shown(file.model.type)}, which is not one of {sorted(MODELS)}"
        raise unfit(CODE, message, name)
    largest, count = _largest(build(file.model.vocab, name, CODE, Vocabulary, MOST_VALUES), name)
    added: list[_Token] | None = build(file.added_tokens, name, CODE, list[_Token] | None, MOST_VALUES)
    return max([largest, *(token.id for token in added or ())]), count


def _largest(vocabulary: Vocabulary, name: str) -> tuple[int, int]:
    """The largest id and the number of tokens."""
    if not vocabulary:
        raise unfit(CODE, f"{name}: its vocabulary is empty", name)
    return len(vocabulary) - 1 if isinstance(vocabulary, list) else max(vocabulary.values()), len(vocabulary)


def _check_largest(largest: int, vocab_size: int | None, name: str) -> None:
    if vocab_size is not None and largest >= vocab_size:
        message = f"{name} has a token number {largest}, and the model has embeddings for {vocab_size} tokens"
        raise unfit("vocabulary_mismatch", message, name)


def _lines(folder: Folder, name: str) -> tuple[int, bool]:
    """How many lines, and whether the last one has its end. Lines as Python reads them in text mode."""
    content = folder.read(name, TOKENIZER_CAP)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise unfit("vocabulary_truncated", f"{name} does not decode as UTF-8 at byte {error.start}", name) from error
    return sum(1 for _ in io.StringIO(text, newline=None)), text.endswith(("\n", "\r"))


def _check_list(folder: Folder, name: str, vocab_size: int | None) -> None:
    lines, ended = _lines(folder, name)
    if vocab_size is not None and lines > vocab_size:
        raise unfit("vocabulary_mismatch", f"{name} has {lines} tokens, and the model {vocab_size}", name)
    if vocab_size is not None and lines < vocab_size:
        raise unfit("vocabulary_truncated", f"{name} has {lines} of {vocab_size} tokens", name)
    if not ended:  # the last token may be cut, and nothing else would show it
        raise unfit("vocabulary_truncated", f"{name} has no line end after its last token", name)


def _warn_of_a_cut_list(folder: Folder, name: str, count: int, findings: Findings) -> None:
    """Told, because its owner should know that the copy stopped; not blocked, because nothing reads the file."""
    read = Findings().attempt(_lines, folder, name)
    if read is None or read[0] < count:
        findings.warn(f"{name} is cut short or unreadable; tokenizer.json is whole and is used")


def _check_merges(folder: Folder, prefix: str, vocab_size: int | None) -> None:
    """A byte-level BPE: each token that is not a byte or a special one is made by a line of merges.txt."""
    name = prefix + "vocab.json"
    content = read_fields(folder, name, CODE, msgspec.Raw, TOKENIZER_CAP)
    vocabulary: Numbered = build(content, name, CODE, Numbered, MOST_VALUES)
    _check_largest(_largest(vocabulary, name)[0], vocab_size, name)
    merges = prefix + "merges.txt"
    lines, ended = _lines(folder, merges)
    if not ended or lines + MAX_UNMERGED < len(vocabulary):
        message = f"{merges} has {lines} lines for {len(vocabulary)} tokens"
        raise unfit("vocabulary_truncated", message, merges)
