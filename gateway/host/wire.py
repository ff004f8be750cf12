"""What the gateway and a host say to each other, over a Unix socket pair.

A frame is two little-endian u32 (bytes of the header, bytes of the payload), the header as MessagePack, and the
payload: vectors as raw little-endian float32, row-major, or what a tokenizer says as MessagePack. No pickle, no lists
of floats. A host is told of a generation once (`Offer`); after that its digest names it. No torch here: the gateway
imports this module.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from gateway.errors import GatewayError, Internal, leaves
from gateway.model import Generation
from gateway.wish import AUTO, Wish

ERRORS: Final = leaves()

Payload = bytes | bytearray
Ids = list[list[int]]
Side = Literal["right", "left"]


class Options(msgspec.Struct, frozen=True):
    """How the texts of one request become vectors. `prompt` stands before every text. What is too long is cut on the
    `truncation_side`, None for the tokenizer's own. Not `pooled`: a vector of each token, as the transformer makes it.
    `most_tokens` that all of them may have together, 0 for any number.
    """

    normalize: bool | None = None
    truncate: bool = True
    prompt: str = ""
    dimensions: int | None = None
    truncation_side: Side | None = None
    pooled: bool = True
    most_tokens: int = 0


class Sampling(msgspec.Struct, frozen=True):
    """How a language model continues: `max_tokens` at most, 0 for as many as fit. None leaves it to what the model says
    of itself; a temperature of 0 is greedy, and a `top_k` of 0 is all. Where one of `stop` comes up the text ends
    before it. Without a `seed` it is another answer each time. `logprobs`: how likely each token was is told, and so
    many of those that were likeliest in its place."""

    max_tokens: int = 0
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    stop: list[str] = []
    seed: int | None = None
    logprobs: int | None = None


class Offer(msgspec.Struct, frozen=True, tag=True):
    """This generation may be asked for from now on, and is wished to be computed so. Nothing is left open in `wish`; a
    generation that is loaded already stays as it is."""

    generation: Generation
    wish: Wish = Wish(AUTO, AUTO)


class Embed(msgspec.Struct, frozen=True, tag=True):
    """`alone`: it, or the load it waits for, has the host to itself, since it was at work when a host died. `flow` is
    whose it is: flows of a model share it equally. `weight` is the model's share of the device beside others of 1.
    `deadline`: seconds that its client still waits, counted from when this is read; None for ever. `ids`, of the
    model's vocabulary, stand in place of texts."""

    id: int
    digest: str
    texts: list[str]
    options: Options
    alone: bool = False
    flow: str = ""
    weight: float = 1.0
    deadline: float | None = None
    ids: Ids | None = None


class Rerank(msgspec.Struct, frozen=True, tag=True):
    """A score for each of `texts`, as an answer to `query`. `raw`: the logit, without the model's activation. The rest
    is as in Embed."""

    id: int
    digest: str
    query: str
    texts: list[str]
    options: Options
    raw: bool = False
    alone: bool = False
    flow: str = ""
    weight: float = 1.0
    deadline: float | None = None


class Tokenize(msgspec.Struct, frozen=True, tag=True):
    """The tokens of texts, all of them. The answer's payload is `list[list[Token]]`, as MessagePack."""

    id: int
    digest: str
    texts: list[str]
    prompt: str = ""
    add_special_tokens: bool = True
    alone: bool = False
    flow: str = ""
    weight: float = 1.0


class Decode(msgspec.Struct, frozen=True, tag=True):
    """Token ids to texts. The answer's payload is `list[str]`, as MessagePack."""

    id: int
    digest: str
    ids: Ids
    skip_special_tokens: bool = True
    alone: bool = False
    flow: str = ""
    weight: float = 1.0


class Token(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`text` is what stands there in the text, and of a special token its name. `start` and `stop` count characters of
    the text, its prompt included; None of special tokens."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class Turn(msgspec.Struct, frozen=True):
    """Of a conversation. `role` is system, user or assistant, or what else the model's template knows."""

    role: str
    content: str


class Generate(msgspec.Struct, frozen=True, tag=True):
    """Continue the text, or the conversation where there are turns. Told in pieces; the rest is as in Embed."""

    id: int
    digest: str
    text: str
    turns: list[Turn]
    sampling: Sampling
    alone: bool = False
    flow: str = ""
    weight: float = 1.0
    deadline: float | None = None


class Load(msgspec.Struct, frozen=True, tag=True):
    id: int
    digest: str
    alone: bool = False


class Unload(msgspec.Struct, frozen=True, tag=True):
    id: int
    digest: str
    why: str = "requested"


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """The client of request `id` has gone: its waiting ends, and nothing else."""

    id: int


class Keep(msgspec.Struct, frozen=True, tag=True):
    """All that may stay: what is not `live` is retired; what is `pinned` is never evicted."""

    live: list[str]
    pinned: list[str]


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The host's first word. `budget` in bytes."""

    device: str
    budget: int


class Done(msgspec.Struct, frozen=True, tag=True):
    """The vectors of request `id` are the payload: float32 [rows, dim]. Times in seconds. `counts`, of vectors for each
    token: how many rows each text has."""

    id: int
    rows: int = 0
    dim: int = 0
    tokens: int = 0
    load_seconds: float = 0.0
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0
    counts: list[int] = []


class Likely(msgspec.Struct, frozen=True):
    """A token, and the logarithm of its probability as the model has it, whatever the sampling made of that."""

    text: str
    bytes: list[int]
    logprob: float


class Logprob(msgspec.Struct, frozen=True):
    """Of a token that was said. `top` are the likeliest in its place, the likeliest first."""

    said: Likely
    top: list[Likely] = []


class Piece(msgspec.Struct, frozen=True, tag=True):
    """Some more of the answer to request `id`; `tokens` of the answer until here, `prompt` those of what was read.
    `finish` is stop or length on the last one. `logprobs` of its tokens, where they were asked for. A Done comes behind
    it."""

    id: int
    text: str
    prompt: int
    tokens: int
    finish: str = ""
    logprobs: list[Logprob] = []


class Failed(msgspec.Struct, frozen=True, tag=True):
    id: int
    code: str
    message: str
    retry_after: float | None = None
    details: dict[str, Any] = {}

    @classmethod
    def of(cls, request: int, error: GatewayError) -> Failed:
        return cls(request, error.code, error.message, error.retry_after, error.details)

    def error(self) -> GatewayError:
        return ERRORS.get(self.code, Internal)(self.message, retry_after=self.retry_after, **self.details)


class Precision(msgspec.Struct, frozen=True):
    """What a way of computing costs, on so many `texts`: cosines to the vectors of torch in float32, and the share of
    texts whose nearest neighbour among the others is the same."""

    texts: int
    lowest_cosine: float
    mean_cosine: float
    top1_agreement: float


class Numerics(msgspec.Struct, frozen=True):
    """How a loaded generation is computed. `precision` is None for torch in float32, to which the others are compared;
    `fell_back` says why it is not computed as wished."""

    runtime: str = "torch"
    dtype: str = "float32"
    precision: Precision | None = None
    fell_back: str = ""


class Resident(msgspec.Struct, frozen=True):
    """A generation as the host's pool sees it. `state` is waiting, loading, loaded or leaving; `numerics` is there once
    it is loaded; until then `seconds_left` is an estimate. `rows` are answers that a language model is giving."""

    digest: str
    state: str
    bytes: int
    leases: int
    pinned: bool
    idle_seconds: float
    numerics: Numerics | None = None
    seconds_left: float = 0.0
    rows: int | None = None
    rows_waiting: int = 0


class Parked(msgspec.Struct, frozen=True):
    """A generation that was evicted from the device and is kept in host memory: so many bytes of it."""

    digest: str
    bytes: int
    idle_seconds: float


class Residency(msgspec.Struct, frozen=True, tag=True):
    """The pool after a change, and the host's counters since it started. `host_used` and `host_budget` are bytes of
    host memory for what is `parked`; `queue_seconds` until what waits is computed, as far as that is known."""

    residents: list[Resident]
    used: int
    budget: int
    queue_tokens: int
    resident_memory: int
    parked: list[Parked] = []
    host_used: int = 0
    host_budget: int = 0
    queue_seconds: float = 0.0


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """`returned`: from host memory, not from the disk."""

    digest: str
    bytes: int
    seconds: float
    returned: bool = False
    runtime: str = ""
    dtype: str = ""


class FellBack(msgspec.Struct, frozen=True, tag=True):
    """A runtime or number format failed on a generation, and torch in float32 stands in. Once for each wish."""

    digest: str
    runtime: str
    dtype: str
    message: str


class Unloaded(msgspec.Struct, frozen=True, tag=True):
    digest: str
    bytes: int
    why: str
    idle_seconds: float


class LoadFailure(msgspec.Struct, frozen=True, tag=True):
    digest: str
    code: str
    message: str
    retry_after: float


class Batch(msgspec.Struct, frozen=True, tag=True):
    """One device call, for the metrics."""

    digest: str
    texts: int
    tokens: int
    padded_tokens: int
    seconds: float


Work = Embed | Rerank | Tokenize | Decode | Generate  # what is admitted to the queue, or refused
Command = Offer | Work | Load | Unload | Cancel | Keep
Report = Ready | Done | Piece | Failed | Residency | Loaded | Unloaded | LoadFailure | Batch | FellBack

commands: Final[msgspec.msgpack.Decoder[Command]] = msgspec.msgpack.Decoder(Command)
reports: Final[msgspec.msgpack.Decoder[Report]] = msgspec.msgpack.Decoder(Report)
tokens: Final[msgspec.msgpack.Decoder[list[list[Token]]]] = msgspec.msgpack.Decoder(list[list[Token]])
texts: Final[msgspec.msgpack.Decoder[list[str]]] = msgspec.msgpack.Decoder(list[str])
encoder: Final = msgspec.msgpack.Encoder()
