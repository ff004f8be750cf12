"""config_sentence_transformers.json: the prompts of a model, and whether it is a SentenceTransformer at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.model import Kind
from gateway.volume.documents import Document, encodable, shown
from gateway.volume.files import Folder
from gateway.volume.reasons import Findings, unfit

PROMPTS: Final = "config_sentence_transformers.json"
SERVED: Final[dict[Kind, str]] = {"encoder": "SentenceTransformer", "reranker": "CrossEncoder"}
SIMILARITIES: Final = {"cosine", "dot", "euclidean", "manhattan"}


@dataclass(frozen=True, slots=True)
class Prompts:
    """`default` is the name of the prompt that a text gets when the caller names none."""

    file: str | None = None
    texts: dict[str, str] = field(default_factory=dict)
    default: str | None = None


def read_prompts(folder: Folder, findings: Findings, kind: Kind = "encoder") -> Prompts:
    """Raises Unfit (modules_invalid, kind_not_served, setting_not_supported)."""
    if not folder.has(PROMPTS):
        return Prompts()
    document = Document.read(folder, PROMPTS, "modules_invalid")
    named = document.text("model_type", SERVED[kind])
    if named != SERVED[kind]:
        message = f"{PROMPTS}: {shown(named)} is recognised; this kind is not served by this version"
        raise unfit("kind_not_served", message, PROMPTS)
    if document.given("truncate_dim"):
        message = f"{PROMPTS}: truncate_dim is not served by this version; a request can ask for fewer dimensions"
        raise unfit("setting_not_supported", message, PROMPTS)
    if document.text("similarity_fn_name", "cosine") not in SIMILARITIES:
        findings.warn(f"{PROMPTS}: the similarity {shown(document.fields['similarity_fn_name'])} is unknown")
    texts = _texts(document)
    default = document.text("default_prompt_name") if document.given("default_prompt_name") else None
    if default is not None and default not in texts:
        raise document.fault(f"default_prompt_name is {shown(default)}, and there is no such prompt")
    if kind == "reranker" and default is not None and texts[default]:
        message = f"{PROMPTS}: default_prompt_name is not served by this version for a reranker"
        raise unfit("setting_not_supported", message, PROMPTS)
    return Prompts(PROMPTS, texts, default)


def _texts(document: Document) -> dict[str, str]:
    """Name -> text. A name without a text (null) is a place that nobody filled."""
    given: Mapping[str, object] = document.inner("prompts").fields
    texts = {name: text for name, text in given.items() if isinstance(text, str)}
    wrong = [name for name, text in given.items() if text is not None and not isinstance(text, str)]
    if wrong or not all(encodable(name) and encodable(text) for name, text in texts.items()):
        raise document.fault(f"prompts is {shown(dict(given))}, expected names and their texts")
    return texts
