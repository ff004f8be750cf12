"""The tokenizer of the BERT family, made without transformers where its files leave nothing to interpret.

Importing transformers takes seconds, and its own way to this tokenizer twice the time. The types below are the rule:
files that say exactly this, and no more, make the tokenizer that transformers makes of them, and whatever else they
say is left to transformers. Source: transformers 5.23, models/bert/tokenization_bert.py.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any, Final, Literal, TypeVar

import msgspec
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

T = TypeVar("T")
MODEL_TYPES: Final = frozenset({"bert", "distilbert", "electra"})  # whose tokenizer in transformers is BertTokenizer
UNK, CLS, SEP = "[UNK]", "[CLS]", "[SEP]"
ROLES: Final = {"unk_token": UNK, "cls_token": CLS, "sep_token": SEP, "pad_token": "[PAD]", "mask_token": "[MASK]"}
SPECIALS: Final = frozenset(ROLES.values())
MAP: Final = "special_tokens_map.json"


class Special(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A special token as tokenizer.json has it; tokenizer_config.json has no `id` in it."""

    content: str
    id: int | None = None
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    special: bool = False

    @property
    def plain(self) -> bool:
        return self.special and not (self.single_word or self.lstrip or self.rstrip or self.normalized)


class Normalizer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["BertNormalizer"]
    clean_text: bool
    handle_chinese_chars: bool
    strip_accents: bool | None
    lowercase: bool


class PreTokenizer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["BertPreTokenizer"]


class Template(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["TemplateProcessing"]
    single: Any
    pair: Any
    special_tokens: Any


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["WordPiece"]
    unk_token: Literal["[UNK]"]
    continuing_subword_prefix: Literal["##"]
    max_input_chars_per_word: Literal[100]
    vocab: dict[str, int]


class Truncation(msgspec.Struct, frozen=True):
    """Its length does not count; which end is cut would."""

    direction: Literal["Right"] = "Right"


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """tokenizer.json. Padding and decoder make no ids."""

    version: Literal["1.0"]
    added_tokens: list[Special]
    normalizer: Normalizer
    pre_tokenizer: PreTokenizer
    post_processor: Template
    model: Model
    truncation: Truncation | None = None
    padding: Any = None
    decoder: Any = None


class Configuration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """tokenizer_config.json. What is `Any` decides nothing about ids; what may be empty must be."""

    tokenizer_class: Literal["BertTokenizer", "BertTokenizerFast"]
    do_lower_case: bool = True
    tokenize_chinese_chars: bool = True
    strip_accents: bool | None = None
    unk_token: Literal["[UNK]"] = "[UNK]"
    cls_token: Literal["[CLS]"] = "[CLS]"
    sep_token: Literal["[SEP]"] = "[SEP]"
    pad_token: Literal["[PAD]"] = "[PAD]"
    mask_token: Literal["[MASK]"] = "[MASK]"
    truncation_side: Literal["right"] = "right"
    added_tokens_decoder: dict[str, Special] | None = None
    additional_special_tokens: tuple[()] | None = None
    extra_special_tokens: dict[str, None] | tuple[()] | None = None
    never_split: None = None
    backend: Literal["tokenizers"] = "tokenizers"
    clean_up_tokenization_spaces: Any = None
    do_basic_tokenize: Any = None
    is_local: Any = None
    local_files_only: Any = None
    max_length: Any = None
    model_max_length: Any = None
    name_or_path: Any = None
    pad_to_multiple_of: Any = None
    pad_token_type_id: Any = None
    padding_side: Any = None
    stride: Any = None
    truncation_strategy: Any = None


def build(folder: str, names: Collection[str], model_type: str) -> Backend | None:
    """The tokenizer of the files `names` in `folder`; None where transformers must say what they mean."""
    if model_type not in MODEL_TYPES or "added_tokens.json" in names:
        return None
    try:
        if MAP in names and not _are_the_same(_read(folder, MAP, dict[str, str | Special])):
            return None
        configuration = _read(folder, "tokenizer_config.json", Configuration)
        document = _read(folder, "tokenizer.json", Document)
        return _assembled(document) if _agree(configuration, document) else None
    except (OSError, ValueError, TypeError):  # not these files, or not whole: transformers says what is wrong
        return None


def _read(folder: str, name: str, type: type[T]) -> T:
    with open(os.path.join(folder, name), "rb") as stream:
        return msgspec.json.decode(stream.read(), type=type)


def _are_the_same(named: Mapping[str, str | Special]) -> bool:
    """The roles have the tokens that they have anyway; how these behave is said in tokenizer.json."""
    contents = {role: token if isinstance(token, str) else token.content for role, token in named.items()}
    return all(ROLES.get(role) == content for role, content in contents.items())


def _agree(configuration: Configuration, document: Document) -> bool:
    """transformers goes by the configuration and other readers by the document; here both say the same."""
    said = Normalizer(
        "BertNormalizer",
        True,
        configuration.tokenize_chinese_chars,
        configuration.strip_accents,
        configuration.do_lower_case,
    )
    return document.normalizer == said and _are_plain(configuration, document)


def _are_plain(configuration: Configuration, document: Document) -> bool:
    """The five special tokens, in no way special but in being so, and with the ids that the vocabulary has."""
    added = {token.content: token.id for token in document.added_tokens}
    if len(document.added_tokens) != len(SPECIALS) or added.keys() != SPECIALS:
        return False
    if not all(token.plain and document.model.vocab.get(token.content) == token.id for token in document.added_tokens):
        return False
    again = configuration.added_tokens_decoder
    if again is not None and {token.content: int(key) for key, token in again.items()} != added:
        return False
    return all(token.plain for token in (again or {}).values()) and _is_usual(document.post_processor, added)


def _is_usual(template: Template, ids: dict[str, int | None]) -> bool:
    """[CLS] A [SEP]; what is said of pairs of texts does not matter."""
    parts = [{"SpecialToken": {"id": CLS, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    tokens = {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in (CLS, SEP)}
    ends = {"SpecialToken": {"id": SEP, "type_id": 0}}
    return bool(template.single == [*parts, ends] and template.special_tokens == tokens)


def _assembled(document: Document) -> Backend:
    """Part by part as BertTokenizer does it: a vocabulary of its own is faster than the library's reader of files."""
    vocab, says = document.model.vocab, document.normalizer
    backend = Backend(models.WordPiece(vocab, unk_token=UNK))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=says.handle_chinese_chars,
        strip_accents=says.strip_accents,
        lowercase=says.lowercase,
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    ordered = sorted(document.added_tokens, key=lambda token: token.id or 0)
    backend.add_special_tokens([AddedToken(token.content, special=True, normalized=False) for token in ordered])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{CLS}:0 $A:0 {SEP}:0",
        pair=f"{CLS}:0 $A:0 {SEP}:0 $B:1 {SEP}:1",
        special_tokens=[(CLS, vocab[CLS]), (SEP, vocab[SEP])],
    )
    return backend
