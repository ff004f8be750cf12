"""Architectures and their tokenizers in small, with seeded weights: what `making` writes to disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import tokenizers
import torch

PHRASES: Final = (
    "the a of in is and beam ring magnet laser electron photon undulator storage synchrotron light source vacuum "
    "lattice tune orbit cavity klystron power supply trip alarm shift log entry energy current lifetime bunch "
    "x-ray query document passage : ! . , - ? é ü 光 束"
)
WORDS: Final = PHRASES.split()
LETTERS: Final = tuple("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")

DECODERS: Final = ("gemma", "gemma2", "gemma3_text", "llama", "mistral", "qwen2", "qwen3")
ROBERTAS: Final = ("camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl")
PADDED_WITH_ONE: Final = (*ROBERTAS, "mpnet")
T5S: Final = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}
WORD_PIECES: Final = ("bert", "distilbert", "electra", "mpnet")
# (padding, unknown, first, last, mask), in the order of their ids
BERT_SPECIALS: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
OWN_SIZES: Final[dict[str, dict[str, Any]]] = {
    "albert": {"embedding_size": 16},
    "modernbert": {"cls_token_id": 2, "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3, "local_attention": 8},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "gemma3_text": {"use_bidirectional_attention": True, "sliding_window": 8},  # as EmbeddingGemma has them
    "rembert": {"input_embedding_size": 16},
    **{family: {"type_vocab_size": 1, "bos_token_id": 0, "eos_token_id": 2} for family in ROBERTAS},
}


def transformer(
    family: str,
    generator: torch.Generator,
    *,
    vocab: int,
    dim: int,
    layers: int,
    heads: int,
    positions: int,
    labels: int | None = None,
) -> Any:
    """A transformers model without heads, or with one of so many labels. Every weight is drawn, so that a forgotten one
    changes the vectors."""
    import transformers

    sizes: dict[str, Any] = {"vocab_size": vocab, "pad_token_id": int(family in PADDED_WITH_ONE)}
    sizes |= _sizes(family, dim, layers, heads, positions) | OWN_SIZES.get(family, {})
    config = transformers.AutoConfig.for_model(family, **sizes)
    kind = getattr(transformers, T5S[family])._from_config if family in T5S else transformers.AutoModel.from_config
    if labels is not None:
        config.num_labels = labels
        kind = transformers.AutoModelForSequenceClassification.from_config
    model = kind(config)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:  # norms begin at 1 and biases at 0, and both are moved
                parameter.add_(0.1 * noise)
            else:
                parameter.copy_(1.2 * parameter.shape[-1] ** -0.5 * noise)
    return model


def _sizes(family: str, dim: int, layers: int, heads: int, positions: int) -> dict[str, Any]:
    if family in T5S:
        return {"d_model": dim, "num_layers": layers, "num_heads": heads, "d_kv": dim // heads, "d_ff": 2 * dim}
    sizes: dict[str, Any] = {"max_position_embeddings": positions}
    if family == "distilbert":
        return sizes | {"dim": dim, "n_layers": layers, "n_heads": heads, "hidden_dim": 2 * dim}
    sizes |= {"hidden_size": dim, "num_hidden_layers": layers, "num_attention_heads": heads}
    if family in DECODERS:
        sizes |= {"num_key_value_heads": heads // 2, "head_dim": dim // heads}
    return sizes | {"intermediate_size": 2 * dim}


def tokenizer(family: str, words: Sequence[str], *, lower: bool, max_tokens: int) -> Any:
    """A fast tokenizer of the family's own kind. `lower` counts for word pieces alone."""
    import transformers

    options: dict[str, Any] = {"model_max_length": max_tokens}
    if family in WORD_PIECES:
        first = ["<s>", "<pad>", "</s>", "<mask>", "[UNK]"] if family == "mpnet" else BERT_SPECIALS
        pieces = _numbered([*first, *words, *LETTERS, *(f"##{letter}" for letter in LETTERS)])
        kind = transformers.MPNetTokenizer if family == "mpnet" else transformers.BertTokenizer
        return kind(vocab=pieces, do_lower_case=lower, **options)
    if family == "xlm-roberta":
        scored = [*_scored(["<s>", "<pad>", "</s>", "<unk>"], words), ("<mask>", 0.0)]
        return transformers.XLMRobertaTokenizer(vocab=scored, **options)
    if family in T5S:
        return transformers.T5Tokenizer(vocab=_scored(["<pad>", "</s>", "<unk>"], words), extra_ids=0, **options)
    if family in ROBERTAS:
        specials = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
        return transformers.RobertaTokenizer(vocab=_numbered([*specials, *_bytes()]), merges=[], **options)
    return _of_bytes(transformers, decoder=family in DECODERS, options=options)


def _of_bytes(transformers: Any, *, decoder: bool, options: Mapping[str, Any]) -> Any:
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=_numbered([*BERT_SPECIALS, *_bytes()]), merges=[]))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A [SEP]" if decoder else "[CLS] $A [SEP]",
        pair="$A [SEP] $B [SEP]" if decoder else "[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), BERT_SPECIALS, strict=True))
    side = "left" if decoder else "right"  # as the embedding models made of decoders have it
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, padding_side=side, **names, **options)


def _numbered(tokens: Sequence[str]) -> dict[str, int]:
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}


def _scored(specials: Sequence[str], words: Sequence[str]) -> list[tuple[str, float]]:
    """Pieces of a unigram model; the mark that begins a word is its own kind of underscore."""
    pieces = dict.fromkeys([*(f"\u2581{word}" for word in words), "\u2581", *words, *LETTERS])
    return [(token, 0.0) for token in specials] + [(piece, -float(rank)) for rank, piece in enumerate(pieces, start=1)]


def _bytes() -> list[str]:
    return sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
