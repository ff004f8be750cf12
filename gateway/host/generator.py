"""A causal language model on the device, and the rows that it continues: all of them a token further with each call.

Rows come and go between calls, so that nobody waits for the longest answer (continuous batching: Yu et al. 2022,
"Orca"). A prompt is read in slices, between which the others go on. Nothing here waits, and nothing knows a client.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from gateway.errors import LoadFailed
from gateway.host import kv, memory, padded, sampling
from gateway.host.branches import Rowwise
from gateway.host.sampling import Sampler
from gateway.host.stacks import Branches
from gateway.host.wire import Sampling

SLICE: Final = 512  # tokens of prompts that one call reads
PROBE: Final = 4  # tokens, the first of the vocabulary
SPARE: Final = 64  # tokens of padding that a processor computes sooner than another call
MANY: Final = 4  # rows that run for each that waits to be read, and more: then they are not kept waiting
MOST_WAITED: Final = 3  # calls in a row
COPIES: Final = 16  # of a network's bytes, one in so many may be copies of adapters' factors while they speak at once
LEAST_COPIES: Final = 64 * 1024**2  # bytes


class Row:
    """A text that is being continued, by the model as an adapter changes it. `read` of its prompt's tokens are in the
    cache."""

    def __init__(self, number: int, prompt: Sequence[int], sampler: Sampler, branches: Branches | None = None) -> None:
        self.number = number
        self.branches = branches
        self.prompt = list(prompt)
        self.sampler = sampler
        self.read = 0
        self.cache: Any = None  # its own, until its prompt has been read

    @property
    def tokens(self) -> int:
        """In the cache, once it runs: the token that was chosen last is not."""
        return len(self.prompt) + max(0, len(self.sampler.tokens) - 1)

    @property
    def left(self) -> int:
        """Tokens of the prompt that are still to be read."""
        return len(self.prompt) - self.read


class Generator:
    """The network and its running rows. All methods are for the device lane."""

    def __init__(self, network: nn.Module, cache_bytes: int = 0) -> None:
        """In host memory. `cache_bytes` are set aside on the device for keys and values."""
        self.network = network
        self.device = torch.device("cpu")
        self._cache_bytes = cache_bytes
        self.bytes = memory.tensor_bytes(network) + cache_bytes
        self._rowwise = Rowwise(network, max(LEAST_COPIES, self.bytes // COPIES))
        config: Any = network.config
        self._layers: int = config.get_text_config().num_hidden_layers
        self._reading: list[Row] = []
        self._running: list[Row] = []
        self._waited = 0  # calls in a row in which the running rows got no token
        self._cache: Any = None  # of the running rows, in their order

    @property
    def dtype(self) -> torch.dtype:
        """That the network computes in."""
        return next(self.network.parameters()).dtype

    @property
    def rows(self) -> int:
        return len(self._reading) + len(self._running)

    @property
    def copied(self) -> int:
        """Bytes of factors of adapters that speak at once, beside the adapters' own."""
        return self._rowwise.copied

    def advance(self, joining: Sequence[Row], leaving: frozenset[int] = frozenset()) -> list[tuple[int, int]]:
        """Each running row gets its next token: (number of the row, token). Those whose prompt is read to its end get
        their first one. A row goes on until it is among those that leave. Raises memory.OutOfMemory, and then nothing
        is left of any row."""
        try:
            with torch.inference_mode(), memory.guarded():
                self._leave(leaving)
                self._reading += [row for row in joining if row.number not in leaving]
                stepped = [] if self._wait_for_prompts() else self._step()
                return stepped + self._read()
        except BaseException:
            self.clear()
            raise

    def clear(self) -> None:
        self._reading, self._running, self._cache, self._waited = [], [], None, 0
        self._rowwise.forget()

    def place(self, device: str) -> None:
        """To `device`, from wherever it is. Raises memory.OutOfMemory, and then holds nothing anywhere."""
        self.clear()
        try:
            with memory.guarded():
                self.network.to(device)
        except memory.OutOfMemory:
            self.close()
            raise
        self.device = torch.device(device)

    def park(self) -> None:
        """Off the device, into host memory."""
        self.place("cpu")

    def close(self) -> None:
        """Frees the weights, also where a reference to the network is left somewhere."""
        self.clear()
        padded.empty(self.network)
        self.bytes = 0
        memory.release(str(self.device))

    def probe(self, branches: Branches | None = None) -> None:
        """Raises LoadFailed where the logits are no numbers."""
        row = Row(0, range(PROBE), Sampler(Sampling(), self.device), branches)
        with torch.inference_mode(), memory.guarded():
            logits = self._forward([row], [row.prompt], [0], kv.empty(self._layers))
        if not torch.isfinite(logits).all():
            raise LoadFailed("logits are not finite: the weights hold NaN or overflow", reason="probe_not_finite")
        if not float(logits.std()):
            raise LoadFailed("all tokens are equally likely", reason="probe_same")

    def _leave(self, leaving: frozenset[int]) -> None:
        self._reading = [row for row in self._reading if row.number not in leaving]
        gone = [place for place, row in enumerate(self._running) if row.number in leaving]
        if not gone:
            return
        count = len(self._running) - len(gone)
        if not count:
            self._running, self._cache = [], None
            self._rowwise.forget()
            return
        behind = [place for place in range(count, len(self._running)) if place not in gone]
        moves = list(zip(behind, gone, strict=False))  # as many of these lie before `count` as stay behind it
        for source, target in moves:
            self._running[target] = self._running[source]
        del self._running[count:]
        kv.without(self._cache, moves, count, max(row.tokens for row in self._running))

    def _wait_for_prompts(self) -> bool:
        """Whether the running rows let short prompts go first. A call takes about as long for few rows as for many, so
        it pays to have those of a burst together; each rides along sooner, and nobody waits for long."""
        burst = len(self._running) < MANY * len(self._reading) and not _is_long(self._reading[0])
        self._waited = self._waited + 1 if burst and self._running and self._waited < MOST_WAITED else 0
        return self._waited > 0

    def _step(self) -> list[tuple[int, int]]:
        if not self._running:
            return []
        ids = [[row.sampler.tokens[-1]] for row in self._running]
        logits = self._forward(self._running, ids, [row.tokens for row in self._running], self._cache)
        return self._choose(self._running, logits)

    def _read(self) -> list[tuple[int, int]]:
        """A slice of the prompts that wait: several short ones together, or a part of a long one."""
        if not self._reading:
            return []
        first = self._reading[0]
        if _is_long(first):
            done = self._read_slice(first)
        else:
            spare = SPARE if self.device.type == "cpu" else SLICE
            done = self._read_whole(_together(self._reading, spare))
        self._reading = [row for row in self._reading if row.left]
        return done

    def _read_slice(self, row: Row) -> list[tuple[int, int]]:
        row.cache = row.cache or kv.empty(self._layers)
        part = row.prompt[row.read : row.read + SLICE]
        logits = self._forward([row], [part], [row.read], row.cache)
        row.read += len(part)
        return [] if row.left else self._join([row], row.cache, logits)

    def _read_whole(self, rows: Sequence[Row]) -> list[tuple[int, int]]:
        cache = kv.empty(self._layers)
        logits = self._forward(rows, [row.prompt for row in rows], [0] * len(rows), cache)
        for row in rows:
            row.read = len(row.prompt)
        return self._join(rows, cache, logits)

    def _join(self, rows: Sequence[Row], cache: Any, logits: Tensor) -> list[tuple[int, int]]:
        chosen = self._choose(rows, logits)
        self._cache = kv.joined(self._cache, cache) if self._running else cache
        self._running += rows
        for row in rows:
            row.cache = None
        return chosen

    def _forward(self, rows: Sequence[Row], ids: Sequence[Sequence[int]], before: Sequence[int], cache: Any) -> Tensor:
        """The next tokens of each row, which has so many `before` them in the cache -> logits after the last one,
        [rows, words]. Rows stand to the right."""
        longest = max(map(len, ids))
        whole = longest + (kv.width(cache) if max(before) else 0)
        padded = [[0] * (longest - len(row)) + list(row) for row in ids]
        ends = [have + len(row) for have, row in zip(before, ids, strict=True)]
        given: dict[str, Any] = {"input_ids": torch.tensor(padded, device=self.device)}
        if min(ends) < whole:
            columns = torch.arange(whole)
            mask = columns >= whole - torch.tensor(ends)[:, None]
            given["attention_mask"] = mask.long().to(self.device)
        positions = torch.tensor(ends)[:, None] - longest + torch.arange(longest)
        given["position_ids"] = positions.clamp(min=0).to(self.device)
        with self._rowwise.rows([row.branches for row in rows], self.device, single=longest == 1):
            found = self.network(**given, past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits: Tensor = found.logits[:, -1]
        return logits

    @staticmethod
    def _choose(rows: Sequence[Row], logits: Tensor) -> list[tuple[int, int]]:
        tokens = sampling.choose([row.sampler for row in rows], logits)
        return [(row.number, token) for row, token in zip(rows, tokens, strict=True)]


def _is_long(row: Row) -> bool:
    """Whether its prompt is read in parts."""
    return row.read > 0 or row.left > SLICE


def _together(waiting: Sequence[Row], spare: int) -> list[Row]:
    """The first row and those that fit into one call with it, so that no more than `spare` tokens are padding: the
    nearest in length first."""
    first = waiting[0]
    chosen: list[Row] = []
    longest = tokens = 0
    for row in sorted(waiting, key=lambda row: abs(row.left - first.left)):
        wide = max(longest, row.left)
        whole = wide * (len(chosen) + 1)
        if not row.read and (not chosen or (whole <= SLICE and whole - tokens - row.left <= spare)):
            chosen.append(row)
            longest, tokens = wide, tokens + row.left
    return chosen
