"""What a request asks of a model, held against what the model is: refused before it costs anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.catalog.lookup import Found
from gateway.errors import InvalidBody, InvalidDimensions, InvalidInput, UnknownPrompt, WrongKind
from gateway.host.wire import Ids, Options
from gateway.model import Kind, Manifest
from gateway.requests import EmbedRequest, TokenizeRequest
from gateway.settings import Settings

# What each kind of model is, and what it can be asked for.
KINDS: Final[dict[Kind, str]] = {
    "encoder": "an encoder, which makes vectors of texts: ask it to embed",
    "reranker": "a reranker, which scores a query with each of some texts: ask it to rerank",
    "generator": "a language model, which continues texts: ask it for a completion",
}


def options(request: EmbedRequest, manifest: Manifest, settings: Settings, *, pooled: bool = True) -> Options:
    """Raises InvalidDimensions, InvalidBody and UnknownPrompt."""
    dim = manifest.dim if pooled else manifest.width
    if request.dimensions is not None and not 1 <= request.dimensions <= dim:
        raise InvalidDimensions(f"dimensions must lie between 1 and {dim}", dimensions=request.dimensions, dim=dim)
    normalize = settings.normalize if request.normalize is None and pooled else request.normalize
    before = prompt(request, manifest)
    if request.texts and not isinstance(request.texts[0], str):
        if request.prompt is not None or request.prompt_name is not None:
            raise InvalidBody("a prompt stands before a text, and these are token ids", field="prompt")
        before = ""
    return Options(
        normalize,
        request.truncate,
        before,
        request.dimensions,
        request.truncation_side,
        pooled,
        settings.max_request_tokens,
    )


def prompt(request: EmbedRequest | TokenizeRequest, manifest: Manifest) -> str:
    """What stands before each text. Raises InvalidBody and UnknownPrompt."""
    if request.prompt is not None:
        if request.prompt_name is not None:
            raise InvalidBody("give prompt or prompt_name, not both", field="prompt")
        return request.prompt
    name = request.prompt_name or manifest.default_prompt_name
    if name is None:
        return ""
    if name not in manifest.prompts:
        known = ", ".join(sorted(manifest.prompts)) or "none"
        raise UnknownPrompt(f"the model has no prompt {name!r}; it has: {known}", prompts=sorted(manifest.prompts))
    return manifest.prompts[name]


def normalized(options: Options, manifest: Manifest) -> bool:
    """Whether the answer has unit vectors: because the request says so, or because the model makes them."""
    if options.normalize is False:
        return manifest.normalized and options.dimensions is None  # what the model normalized is not undone
    return manifest.normalized or options.normalize is True


def demand(found: Found, kind: Kind) -> None:
    """Raises WrongKind."""
    is_kind = found.generation.manifest.kind
    if is_kind != kind:
        raise WrongKind(f"{found.model.path} is {KINDS[is_kind]}", model=str(found.model), kind=is_kind)


def alike(inputs: list[str] | Ids) -> list[str] | Ids:
    """Either texts or token ids. Raises InvalidInput for a mixture, which a host would take for a broken connection."""
    if len(inputs) > 1:
        text = isinstance(inputs[0], str)
        if len(set(map(type, inputs))) > 1:
            index = next(index for index, each in enumerate(inputs) if isinstance(each, str) != text)
            raise InvalidInput("either all inputs are texts, or all are token ids", index=index)
    return inputs


def demand_known(rows: Sequence[Sequence[int]], manifest: Manifest) -> None:
    """Every id is one of the model's. Raises InvalidInput."""
    for index, ids in enumerate(rows):
        if ids and not (min(ids) >= 0 and max(ids) < manifest.vocab_size):
            wrong = next(each for each in ids if not 0 <= each < manifest.vocab_size)
            message = (
                f"input {index} has the token id {wrong}, and the model has ids from 0 to {manifest.vocab_size - 1}"
            )
            raise InvalidInput(message, index=index)
