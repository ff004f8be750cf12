"""The shapes of answers, for the description at `/openapi.json`. The answers themselves are made of bytes; tests hold
them to these."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

Base64 = Annotated[str, msgspec.Meta(description="Little-endian float32.")]
Vector = list[float]
Rows = list[Vector]


class Tokens(msgspec.Struct):
    tokens: int


class Embeddings(msgspec.Struct):
    """Of `POST /embed`. `alias` is there when one was asked for."""

    embeddings: list[Vector | Base64]
    model: str
    dim: int
    count: int
    generation: str
    normalized: bool
    usage: Tokens
    alias: str | msgspec.UnsetType = msgspec.UNSET


class Models(msgspec.Struct):
    """Of `GET /models`; docs/api.md has the fields of a model."""

    models: list[dict[str, Any]]
    aliases: list[dict[str, Any]]
    ignored: list[dict[str, Any]]


class TenantUsage(msgspec.Struct):
    """Times in Unix seconds."""

    tenant: str
    model: str | None
    requests: int
    texts: int
    tokens: int
    compute_seconds: float
    refusals: int
    first: float
    last: float


class Usage(msgspec.Struct):
    """Of `GET /usage`."""

    usage: list[TenantUsage]


class TrainingRuns(msgspec.Struct):
    """Of `GET /runs`; docs/api.md has the fields of a run. `left_out` counts runs beyond those that are read; `folder`
    is where runs are looked for."""

    runs: list[dict[str, Any]]
    models: list[dict[str, Any]]
    left_out: int
    folder: str | None


class RecentEvent(msgspec.Struct):
    """`number` counts up, `at` is in Unix seconds, `facts` are the event's fields."""

    number: int
    at: float
    event: str
    level: str
    facts: dict[str, Any]


class RecentEvents(msgspec.Struct):
    """`newest` is the last number that the caller was told, for `after`; `since` when this gateway began."""

    newest: int
    since: float
    events: list[RecentEvent]


class Health(msgspec.Struct):
    """Of `GET /console/health`. `restricted`: not for this caller."""

    restricted: bool
    samples: list[dict[str, Any]]
    exits: list[dict[str, Any]]
    at: float | msgspec.UnsetType = msgspec.UNSET
    period: float | msgspec.UnsetType = msgspec.UNSET


class KnowledgeBase(msgspec.Struct):
    """`pending` documents are stored and can not be found yet; `error` says what keeps them. `failed` have an id, a
    name and an error each. `reindex` is how far another generation's index is, or why there is none."""

    name: str
    embedding_model: str
    model: str | None
    generation: str | None
    previous: list[str]
    documents: int
    chunks: int
    state: Literal["ready", "indexing", "stalled"]
    pending: int
    error: dict[str, Any] | None
    failed: list[dict[str, Any]]
    reindex: dict[str, Any] | None


class KnowledgeBases(msgspec.Struct):
    """Of `GET /kb`."""

    knowledge_bases: list[KnowledgeBase]


class AddedDocument(msgspec.Struct):
    name: str
    id: str
    status: Literal["added", "replaced", "unchanged", "failed"]
    characters: int
    pages: int
    error: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class Added(msgspec.Struct):
    """Of `POST /kb/{name}/documents`; `counts` is by status."""

    knowledge_base: str
    state: Literal["ready", "indexing"]
    pending: int
    counts: dict[str, int]
    documents: list[AddedDocument]


class StoredHead(msgspec.Struct):
    id: str
    name: str
    source: str
    metadata: dict[str, Any]
    digest: str
    added: float
    characters: int
    pages: int


class Documents(msgspec.Struct):
    knowledge_base: str
    documents: list[StoredHead]
    total: int


class StoredDocument(msgspec.Struct):
    """`pages` and `chunks` say where they lie in the text."""

    knowledge_base: str
    id: str
    name: str
    source: str
    text: str
    pages: list[dict[str, Any]]
    metadata: dict[str, Any]
    digest: str
    added: float
    chunks: list[dict[str, Any]]


class Deleted(msgspec.Struct):
    knowledge_base: str
    deleted: bool
    document: str | msgspec.UnsetType = msgspec.UNSET


class FoundPassage(msgspec.Struct):
    """`score` is a cosine in [-1, 1]; `relevance` a reranker's."""

    id: str
    document: str
    name: str
    source: str
    page: int | None
    heading: str
    chunk_index: int
    start: int
    end: int
    text: str
    score: float | None
    bm25: float | None
    relevance: float | None
    metadata: dict[str, Any]


class Found(msgspec.Struct):
    """Of `POST /kb/{name}/search`; times in seconds."""

    knowledge_base: str
    embedding_model: str
    generation: str
    reranker: str | None
    hits: list[FoundPassage]
    timings: dict[str, float]


class OlderModels(msgspec.Struct):
    models: list[str | dict[str, Any]]


class OpenAIUsage(msgspec.Struct):
    prompt_tokens: int
    total_tokens: int


class OpenAIEmbedding(msgspec.Struct):
    object: Literal["embedding"]
    index: int
    embedding: Vector | Base64


class OpenAIEmbeddings(msgspec.Struct):
    object: Literal["list"]
    data: list[OpenAIEmbedding]
    model: str
    usage: OpenAIUsage


class OpenAIModel(msgspec.Struct):
    """`root` is what an alias leads to, `parent` an adapter's base, or what the metadata names as one."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None


class OpenAIModels(msgspec.Struct):
    object: Literal["list"]
    data: list[OpenAIModel]


class RerankText(msgspec.Struct):
    text: str


class RerankResult(msgspec.Struct):
    index: int
    relevance_score: float
    document: RerankText | msgspec.UnsetType = msgspec.UNSET


class Reranked(msgspec.Struct):
    id: str
    object: Literal["rerank"]
    model: str
    results: list[RerankResult]
    usage: OpenAIUsage
    meta: dict[str, Any]


class TeiRank(msgspec.Struct):
    index: int
    score: float
    text: str | msgspec.UnsetType = msgspec.UNSET


class TeiToken(msgspec.Struct):
    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class TeiInfo(msgspec.Struct):
    model_id: str
    model_sha: str | None
    model_dtype: str
    served_model_name: str
    model_type: dict[str, Any]
    max_concurrent_requests: int | None
    max_input_length: int
    max_batch_tokens: int
    max_batch_requests: int | None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int | None
    version: str
    sha: str | None
    docker_label: str | None


class OllamaEmbeddings(msgspec.Struct):
    """Durations in nanoseconds."""

    model: str
    embeddings: Rows
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class OllamaEmbedding(msgspec.Struct):
    embedding: Vector


class OllamaModels(msgspec.Struct):
    models: list[dict[str, Any]]


class OllamaSaid(msgspec.Struct, omit_defaults=True):
    """`response` of /api/generate, `message` of /api/chat. Durations in nanoseconds."""

    model: str
    created_at: str
    done: bool
    done_reason: Literal["load", "unload", "stop", "length"]
    response: str = ""
    message: dict[str, str] = {}
    total_duration: int = 0
    prompt_eval_count: int = 0
    eval_count: int = 0


class TritonModel(msgspec.Struct):
    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE", "LOADING", "UNLOADING"]
    reason: str


class AskedDocument(msgspec.Struct):
    """A passage. `score` is its cosine to the question, None where it was found by its words alone and not compared."""

    id: str
    score: float | None
    snippet: str
    source: str
    page_number: int | None
    chunk_index: int
    number: int


class AskedCitation(msgspec.Struct):
    """`answer[start:end]` rests on `quote`, which is at `quote_start` to `quote_end` of its document; `overlap` is the
    share of its words that the passage has."""

    number: int
    id: str
    source: str
    page_number: int | None
    start: int
    end: int
    quote: str
    quote_start: int
    quote_end: int
    overlap: float


class AskedUsage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class AskedTimings(msgspec.Struct):
    """Seconds."""

    retrieval: float
    embedding: float
    llm: float
    first_token: float
    total: float


class Asked(msgspec.Struct):
    """Of `POST /ask`."""

    answer: str
    documents: list[AskedDocument]
    citations: list[AskedCitation]
    supported: bool
    refused: bool
    left_out: list[str]
    finish_reason: str | None
    llm_model: str
    embedding_model: str | None
    generation: str | None
    usage: AskedUsage
    timings: AskedTimings


class ChatChoice(msgspec.Struct):
    index: int
    message: dict[str, Any]
    finish_reason: str | None


class ChatCompletion(msgspec.Struct):
    """As the provider words it; `model` is `provider:model`."""

    model: str
    choices: list[ChatChoice]


class CompletionChoice(msgspec.Struct):
    index: int
    text: str
    finish_reason: str | None


class Completion(msgspec.Struct):
    model: str
    choices: list[CompletionChoice]
    usage: dict[str, int]


# Errors.


class Failure(msgspec.Struct):
    """`code` is stable; facts for a program may stand beside it."""

    code: str
    message: str


class Failed(msgspec.Struct):
    error: Failure


class OpenAIFailure(msgspec.Struct):
    message: str
    type: str
    param: str | None
    code: str


class OpenAIFailed(msgspec.Struct):
    error: OpenAIFailure


class TeiFailed(msgspec.Struct):
    error: str
    error_type: Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]


class TeiOpenAIFailed(msgspec.Struct):
    message: str
    code: int
    type: str


class ErrorText(msgspec.Struct):
    """Of Ollama and Triton."""

    error: str


class ErrorMessage(msgspec.Struct):
    """Of Cohere."""

    message: str
