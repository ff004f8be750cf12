"""What runs generations somewhere: the one seam between the gateway's catalog and the devices. Host processes of
this machine stand behind it by default (`process`)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

import msgspec

from gateway.host.wire import Ids, Numerics, Options, Payload, Piece, Sampling, Token, Turn
from gateway.model import Generation, Reason


class Vectors(msgspec.Struct, frozen=True):
    """The answer to one request: `data` is little-endian float32 [rows, dim], row-major. Times in seconds. `counts`, of
    vectors for each token: how many rows each text has."""

    data: Payload
    rows: int
    dim: int
    tokens: int
    load_seconds: float
    queue_seconds: float
    compute_seconds: float
    counts: list[int] = []


class Residence(msgspec.Struct, frozen=True):
    """Where a generation is in memory. `state` is waiting, loading, loaded, leaving or parked; `last_used` in Unix
    seconds; `numerics` is there once it is loaded."""

    digest: str
    device: str
    state: str
    bytes: int
    leases: int
    pinned: bool
    last_used: float
    numerics: Numerics | None = None
    seconds_left: float = 0.0  # estimated, of a load that goes on
    rows: int | None = None  # of a language model: answers that it is giving
    rows_waiting: int = 0
    reason: Reason | None = None  # why it is not loaded there, where it should be


class DeviceState(msgspec.Struct, frozen=True):
    """A device and its host. `used` and `budget` in bytes of models, `resident_memory` of the whole process;
    `host_used` and `host_budget` in bytes of host memory for what was evicted."""

    device: str
    up: bool
    pid: int | None
    used: int
    budget: int
    queue_tokens: int
    resident_memory: int
    restarts: int
    host_used: int = 0
    host_budget: int = 0


class Engine(Protocol):
    """Every method that runs a generation may raise what `gateway.errors` has, and nothing else."""

    async def embed(
        self,
        generation: Generation,
        texts: list[str] | Ids,
        options: Options,
        deadline: float | None = None,
        *,
        flow: str = "",
    ) -> Vectors:
        """Loads the generation if need be. Retries what a dying host took with it. `deadline` is the time of the
        running loop after which nobody waits for the answer; the caller ends its own waiting. Token ids are of the
        model's vocabulary. `flow` is whose request it is: flows of a model share it equally."""

    async def rerank(
        self,
        generation: Generation,
        query: str,
        texts: list[str],
        options: Options,
        *,
        raw: bool = False,
        deadline: float | None = None,
        flow: str = "",
    ) -> Vectors:
        """As `embed`, of a reranker: its scores [texts, 1], or `raw` its logits."""

    async def tokenize(
        self,
        generation: Generation,
        texts: list[str],
        *,
        prompt: str = "",
        add_special_tokens: bool = True,
        flow: str = "",
    ) -> list[list[Token]]:
        """All tokens of each text, with the prompt before it."""

    async def decode(
        self, generation: Generation, ids: Ids, *, skip_special_tokens: bool = True, flow: str = ""
    ) -> list[str]:
        """Token ids of the model's vocabulary to texts."""

    async def generate(
        self,
        generation: Generation,
        text: str,
        turns: list[Turn],
        sampling: Sampling,
        tell: Callable[[Piece], None],
        *,
        deadline: float | None = None,
        flow: str = "",
    ) -> None:
        """Continues the text, or the conversation where there are turns, and tells it in pieces, of which the last one
        has a `finish`. What died with its host in the middle of an answer is not tried again."""

    async def load(self, generation: Generation) -> None:
        """Loads and probes now; earlier failures and quarantine are forgotten."""

    async def unload(self, digest: str) -> None:
        """Frees the device from it once its last request has ended."""

    def keep(self, live: Collection[Generation], pinned: Collection[Generation]) -> None:
        """All that may stay: the rest is retired. What is pinned is loaded and never evicted."""

    def fits_beside(self, generation: Generation, digest: str) -> bool:
        """Whether it fits on some device together with the one of that digest, everything else evicted but pins."""

    def residences(self) -> dict[str, list[Residence]]:
        """By digest."""

    def quarantined(self, digest: str) -> float | None:
        """Seconds that are left of a generation's quarantine."""

    def devices(self) -> list[DeviceState]: ...

    @property
    def ready(self) -> bool:
        """Whether a host is up."""
