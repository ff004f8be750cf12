"""config.json of a transformer: which architecture it is, and the numbers that everything else must agree with.

Only model types of this table are served. Each is a text model that transformers brings itself, so that no code
of the volume is ever run. What a type needs to be known for is where its positions end and what its width is called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from gateway.volume.documents import Document, shown
from gateway.volume.files import Folder
from gateway.volume.quantized import read_quantization
from gateway.volume.reasons import Findings, unfit

Positions = Literal["absolute", "after_padding", "unbounded"]


@dataclass(frozen=True, slots=True)
class Family:
    """`after_padding`: positions are counted from the padding's number on, so that many fewer tokens fit.

    Source: RobertaEmbeddings.create_position_ids_from_input_ids in transformers. A decoder is an embedding model
    only where a modules.json says how its tokens become one vector. `table` is what the width of the table of tokens
    is called, `narrow` that width where the configuration is silent; None is the width of a token's vector.
    """

    positions: Positions = "absolute"
    decoder: bool = False
    width: str = "hidden_size"
    table: str = "embedding_size"
    narrow: int | None = None


ROBERTA: Final = Family("after_padding")
ROTARY: Final = Family("unbounded")
DECODER: Final = Family("unbounded", decoder=True)
T5S: Final = frozenset({"t5", "mt5", "umt5"})
FAMILIES: Final[dict[str, Family]] = {
    **dict.fromkeys(("albert", "bert", "electra", "ernie", "megatron-bert", "roformer"), Family()),
    **dict.fromkeys(("deberta", "deberta-v2"), Family()),
    "distilbert": Family(width="dim"),
    "rembert": Family(table="input_embedding_size", narrow=256),
    **dict.fromkeys(("camembert", "data2vec-text", "mpnet", "roberta", "roberta-prelayernorm"), ROBERTA),
    **dict.fromkeys(("xlm-roberta", "xlm-roberta-xl"), ROBERTA),
    **dict.fromkeys(("eurobert", "gte", "modernbert", "nomic_bert"), ROTARY),
    **dict.fromkeys(sorted(T5S), Family("unbounded", width="d_model")),  # their encoders alone
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text", "llama", "mistral", "qwen2", "qwen3"), DECODER),
}
# Families whose cross-encoders transformers runs as it runs their encoders: one pass over both texts.
RERANKERS: Final = frozenset(FAMILIES) - {name for name, family in FAMILIES.items() if family.decoder} - T5S
SCORING: Final = "ForSequenceClassification"
# Families that are served as language models: their keys and values are kept for every token that was read.
GENERATORS: Final = frozenset(name for name, family in FAMILIES.items() if family.decoder)
CAUSAL: Final = "ForCausalLM"
GENERATING: Final = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
HEADLESS: Final = ("ForMaskedLM", "ForPreTraining")  # heads that are left off without a loss
LONGEST: Final = 32_768  # tokens, where neither the model nor its tokenizer gives an end


@dataclass(frozen=True, slots=True)
class Architecture:
    """`hidden` is the width of a token's vector, `embedding` that of a row of the table of tokens.

    `max_position_embeddings` is the number that config.json gives; `positions` are the tokens that the model can
    take, or None where its positions have no end.
    """

    file: str
    model_type: str
    name: str
    hidden: int
    embedding: int
    vocab_size: int
    max_position_embeddings: int
    positions: int | None
    quantization: str | None
    cache_width: int = 0  # numbers that a generator keeps of a token: its keys and values in all layers


def read_architecture(
    folder: Folder, path: str, findings: Findings, *, modules: bool, headed: bool = False
) -> Architecture:
    """The config.json in the sub-folder `path`. `modules` says whether a modules.json names this transformer, `headed`
    whether it is wanted with the head that it has, which scores or generates.

    Raises Unfit (config_missing, config_invalid, kind_not_served, architecture_not_served, custom_code).
    """
    name = f"{path}/config.json" if path else "config.json"
    if not folder.has(name):
        raise unfit("config_missing", f"{name} is missing", name)
    config = Document.read(folder, name, "config_invalid")
    architecture = next(iter(config.texts("architectures")), "")
    if not modules and not headed:
        _refuse_other_kinds(architecture, name)
    family = _family(config, findings, modules=modules or headed)
    generates = headed and architecture.endswith(CAUSAL)
    if headed and config.text("model_type") not in (GENERATORS if generates else RERANKERS):
        kind = "a language model" if generates else "a reranker"
        message = f"{shown(architecture)} is recognised as {kind}; one of this type is not served by this version"
        raise unfit("kind_not_served", message, name)
    hidden = config.count(family.width if family.width in config.fields else "hidden_size")
    quantization = findings.attempt(read_quantization, config)
    return Architecture(
        file=name,
        model_type=config.text("model_type"),
        name=architecture,
        hidden=hidden,
        embedding=config.count(family.table, family.narrow or hidden),
        vocab_size=config.count("vocab_size"),
        max_position_embeddings=_longest(config, family),
        positions=_positions(config, family),
        quantization=quantization,
        cache_width=_cache_width(config) if generates else 0,
    )


def head(folder: Folder, path: str) -> str | None:
    """The architecture that the config.json in the sub-folder `path` names; None where there is none to be read."""
    config = Findings().attempt(
        Document.read, folder, f"{path}/config.json" if path else "config.json", "config_invalid"
    )
    named = Findings().attempt(config.texts, "architectures") if config else None
    return None if named is None else next(iter(named), "")


def generates(folder: Folder, path: str) -> bool:
    """Whether the config.json in the sub-folder `path` is that of a language model. Raises Unfit where it is none."""
    config = Document.read(folder, f"{path}/config.json" if path else "config.json", "config_invalid")
    return any(name.endswith(GENERATING) for name in config.texts("architectures")[:1])


def _refuse_other_kinds(architecture: str, name: str) -> None:
    """What a plain directory is by its head. `modules.json` settles it otherwise, whatever the head says."""
    if architecture.endswith(GENERATING):
        kind = "a language model that generates text"
    elif "For" in architecture and not architecture.endswith(HEADLESS):
        kind = "a model with a head of its own"
    else:
        return
    message = f"{shown(architecture)} is recognised as {kind}; this kind is not served by this version"
    raise unfit("kind_not_served", message, name)


def _family(config: Document, findings: Findings, *, modules: bool) -> Family:
    model_type = config.text("model_type", "")
    family = FAMILIES.get(model_type)
    if family is None and config.given("auto_map"):
        message = f"the model type {shown(model_type)} needs code of its own (auto_map), which is never run"
        raise unfit("custom_code", message, config.name)
    if family is None:
        if not model_type:
            raise config.fault("model_type is missing, expected a text")
        message = f"the model type {shown(model_type)} is not served by this version"
        raise unfit("architecture_not_served", message, config.name)
    if family.decoder and not modules:
        message = (
            f"the model type {shown(model_type)} is recognised as a decoder; without a modules.json of "
            "sentence-transformers this kind is not served by this version"
        )
        raise unfit("kind_not_served", message, config.name)
    if config.given("auto_map"):
        findings.warn(f"{config.name} names code of its own (auto_map); transformers' own {model_type} is used instead")
    return family


def _longest(config: Document, family: Family) -> int:
    """`max_position_embeddings`, which the T5 family does not have: its positions are relative."""
    return config.count("max_position_embeddings", LONGEST if family.width == "d_model" else None)


def _positions(config: Document, family: Family) -> int | None:
    if family.positions == "unbounded" or not config.flag("position_biased_input", True):  # the second: DeBERTa
        return None
    count = config.count("max_position_embeddings")
    if family.positions == "absolute":
        return count
    padding = config.fields.get("pad_token_id", 1)
    if type(padding) is not int or not 0 <= padding < count - 1:
        raise config.fault(f"pad_token_id is {shown(padding)}, expected a number below max_position_embeddings")
    return count - padding - 1


def _cache_width(config: Document) -> int:
    heads = config.count("num_attention_heads")
    width = config.count("head_dim", config.count("hidden_size") // max(1, heads))
    return 2 * config.count("num_hidden_layers") * config.count("num_key_value_heads", heads) * width
