"""What happens, as plain frozen records. Log lines, metrics, `GET /events` and the tests all read these, so
nothing is told twice and nothing is told in two ways.

Subscribers are plain functions, called in order on the event loop. One that raises is a bug, and neither the others nor
whoever emits pay for it: `Events` is told what takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import msgspec

from gateway.model import Reason


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """`name` is what logs and `GET /events` call it; `public` ones are streamed to clients."""

    name: ClassVar[str] = ""
    public: ClassVar[bool] = True
    level: ClassVar[str] = "info"


class Listening(Event, frozen=True, kw_only=True):
    """Connections are accepted at `url`."""

    name = "listening"
    public = False
    url: str
    version: str
    models_dir: str
    state_dir: str
    pid: int


class Stopping(Event, frozen=True, kw_only=True):
    """The end has begun: within `seconds` no new work is taken any more, and what is in flight is finished."""

    name = "stopping"
    why: str
    seconds: float


class Stopped(Event, frozen=True, kw_only=True):
    """The gateway's last word. `drained`: every request in flight was answered."""

    name = "stopped"
    public = False
    drained: bool
    seconds: float


class ModelCopying(Event, frozen=True, kw_only=True):
    """A directory appeared or changed, and has not settled. Once per directory and round of copying."""

    name = "model_copying"
    model: str


class ModelAccepted(Event, frozen=True, kw_only=True):
    """A directory was found whole, and its generation is in the store. `seconds` since it last changed."""

    name = "model_accepted"
    model: str
    generation: str
    bytes: int
    seconds: float


class ModelRejected(Event, frozen=True, kw_only=True):
    """A settled directory may not be served. `serving` is the generation that goes on serving, if any."""

    name = "model_rejected"
    level = "warning"
    model: str
    reasons: tuple[Reason, ...]
    serving: str | None = None


class ModelSwapped(Event, frozen=True, kw_only=True):
    """A newer generation went live. `breaking`: indexes built with the old one are void."""

    name = "model_swapped"
    model: str
    generation: str
    previous: str
    breaking: bool = False


class ModelRolledBack(Event, frozen=True, kw_only=True):
    """An operator made an earlier generation live; it stays until something newer is dropped. `breaking` as above."""

    name = "model_rolled_back"
    model: str
    generation: str
    previous: str
    breaking: bool = False


class ModelRemoved(Event, frozen=True, kw_only=True):
    """A directory has gone from the volume, and what it served is retired."""

    name = "model_removed"
    model: str
    generation: str | None = None


class ModelPulling(Event, frozen=True, kw_only=True):
    """A model comes from the hub: told when it begins, and with every tenth of its bytes."""

    name = "model_pulling"
    model: str
    revision: str
    commit: str
    bytes: int
    total: int


class ModelPulled(Event, frozen=True, kw_only=True):
    """A model of the hub is on the volume, whole. `fresh` is false where the same commit was there already."""

    name = "model_pulled"
    model: str
    revision: str
    commit: str
    bytes: int
    seconds: float
    fresh: bool


class PullFailed(Event, frozen=True, kw_only=True):
    """A model could not be brought from the hub; what has come stays for the next try. `code` is an error's."""

    name = "pull_failed"
    level = "warning"
    model: str
    code: str
    message: str


class ModelFetching(Event, frozen=True, kw_only=True):
    """A directory of a bucket was found worth its weights, and they come to this node: told when it begins, and with
    every tenth of the bytes that are not here yet."""

    name = "model_fetching"
    model: str
    bytes: int
    total: int


class ReindexStarted(Event, frozen=True, kw_only=True):
    """A knowledge base goes over to another generation of its model, beside the index that answers meanwhile. `kept`:
    with an index that it had before. `owner` is the tenant whose base it is: nobody else is told."""

    name = "reindex_started"
    kb: str
    owner: str
    model: str
    generation: str
    previous: str | None
    kept: bool = False


class ReindexProgress(Event, frozen=True, kw_only=True):
    """With every tenth of the documents."""

    name = "reindex_progress"
    kb: str
    owner: str
    model: str
    generation: str
    documents: int
    total: int


class ReindexFinished(Event, frozen=True, kw_only=True):
    """Queries are embedded with this generation from now on, and compared with its index."""

    name = "reindex_finished"
    kb: str
    owner: str
    model: str
    generation: str
    previous: str | None
    documents: int
    seconds: float


class ReindexFailed(Event, frozen=True, kw_only=True):
    """The old generation and its index go on. `code` is an error's, or `worse`: the new index found less."""

    name = "reindex_failed"
    level = "warning"
    kb: str
    owner: str
    model: str
    generation: str
    serving: str | None
    code: str
    message: str


class AliasesChanged(Event, frozen=True, kw_only=True):
    """Another table of aliases is in force; `removed` are names that it has no more."""

    name = "aliases_changed"
    aliases: tuple[str, ...]
    removed: tuple[str, ...] = ()


class AliasesRejected(Event, frozen=True, kw_only=True):
    """aliases.toml cannot be used as it is; the last good table goes on. Once for each thing that is wrong."""

    name = "aliases_rejected"
    level = "warning"
    message: str


class KeysChanged(Event, frozen=True, kw_only=True):
    """Other API keys are in force."""

    name = "keys_changed"
    public = False
    keys: int


class KeysRejected(Event, frozen=True, kw_only=True):
    """The file of API keys cannot be used as it is; the last good keys go on. Once for each thing that is wrong."""

    name = "keys_rejected"
    public = False
    level = "error"
    message: str


class AuditLost(Event, frozen=True, kw_only=True):
    """So many lines of the audit log could not be written; once for each try."""

    name = "audit_lost"
    public = False
    level = "error"
    lines: int
    message: str


class DocumentsIndexed(Event, frozen=True, kw_only=True):
    """Documents of a knowledge base can be found from now on; `pending` are yet to come. Told to the `owner` alone."""

    name = "documents_indexed"
    kb: str
    owner: str
    documents: int
    chunks: int
    pending: int
    seconds: float


class ChunksEmbedded(Event, frozen=True, kw_only=True):
    """What a knowledge base has cost its `owner`, a batch at a time: chunks of documents, and the questions that a new
    index is tried with. Counted in the usage."""

    name = "chunks_embedded"
    level = "debug"
    public = False
    kb: str
    owner: str
    model: str
    texts: int
    tokens: int
    compute_seconds: float


class DocumentFailed(Event, frozen=True, kw_only=True):
    """A document is stored and cannot be indexed. Told to the `owner` alone. `code` is an error's."""

    name = "document_failed"
    level = "warning"
    kb: str
    owner: str
    document: str
    code: str
    message: str


class IndexingStalled(Event, frozen=True, kw_only=True):
    """Documents wait, and are tried again; once for each reason. Told to the `owner` alone. `code` is an error's."""

    name = "indexing_stalled"
    level = "warning"
    kb: str
    owner: str
    code: str
    message: str


class GenerationLoaded(Event, frozen=True, kw_only=True):
    """`seconds` from the decision to load to ready; `bytes` as measured on the device; `runtime` and `dtype` that
    compute it; `returned`: from host memory, not from the disk."""

    name = "generation_loaded"
    generation: str
    models: tuple[str, ...]
    device: str
    bytes: int
    seconds: float
    returned: bool = False
    runtime: str = ""
    dtype: str = ""


class RuntimeFellBack(Event, frozen=True, kw_only=True):
    """A runtime or number format that was wished for failed on a generation; torch in float32 stands in. Once for each
    host, generation and wish."""

    name = "runtime_fell_back"
    level = "warning"
    generation: str
    models: tuple[str, ...]
    device: str
    runtime: str
    dtype: str
    message: str


class GenerationReplicated(Event, frozen=True, kw_only=True):
    """Wherever a generation is something waits for it, `wait_seconds` on the best device: it is being loaded on
    `device` too."""

    name = "generation_replicated"
    generation: str
    models: tuple[str, ...]
    device: str
    wait_seconds: float


class GenerationUnloaded(Event, frozen=True, kw_only=True):
    """`why` is evicted, out_of_memory, retired, requested, drawn_back or host_exit; `idle_seconds` since its last use.
    What was evicted may be in host memory still; what was drawn back is on another device."""

    name = "generation_unloaded"
    generation: str
    models: tuple[str, ...]
    device: str
    bytes: int
    why: str
    idle_seconds: float


class LoadFailed(Event, frozen=True, kw_only=True):
    """A generation could not be loaded; requests do not try again before `retry_after` seconds."""

    name = "load_failed"
    level = "error"
    generation: str
    models: tuple[str, ...]
    device: str
    code: str
    message: str
    retry_after: float


class UpstreamLost(Event, frozen=True, kw_only=True):
    """An upstream that serves language models of the volume cannot be reached, or does not list what it has; it is
    looked for until it is there again."""

    name = "upstream_lost"
    level = "error"
    provider: str
    models: tuple[str, ...]
    message: str


class UpstreamFound(Event, frozen=True, kw_only=True):
    """It is there again, and what it should serve is loaded."""

    name = "upstream_found"
    provider: str
    models: tuple[str, ...]


class GenerationQuarantined(Event, frozen=True, kw_only=True):
    """It was running on a host when that died, once too often."""

    name = "generation_quarantined"
    level = "error"
    generation: str
    models: tuple[str, ...]
    message: str
    retry_after: float


class GenerationThinned(Event, frozen=True, kw_only=True):
    """The weights of a generation that is not in memory were let go from the disk, within `--disk-budget`: they are
    fetched from the bucket when it is asked for."""

    name = "generation_thinned"
    generation: str
    models: tuple[str, ...]
    bytes: int


class HostStarted(Event, frozen=True, kw_only=True):
    """`budget` in bytes of device memory."""

    name = "host_started"
    device: str
    pid: int
    budget: int
    seconds: float


class HostExited(Event, frozen=True, kw_only=True):
    """`status` as of `os.waitstatus_to_exitcode`; `suspects` were on the device, loaded or tokenized. `why` says where
    SIGKILL does not end it: then there is no other host on that device before it does."""

    name = "host_exited"
    level = "warning"
    device: str
    pid: int
    status: int
    why: str
    suspects: tuple[str, ...] = ()
    requests: int = 0


class HostOutput(Event, frozen=True, kw_only=True):
    """A line that a host wrote to its standard error: native libraries, and the traceback of a crash."""

    name = "host_output"
    public = False
    level = "warning"
    device: str
    pid: int
    line: str


class DeviceCall(Event, frozen=True, kw_only=True):
    """One batch on a device. `padded_tokens` is what the device computed, `tokens` what was asked."""

    name = "device_call"
    public = False
    level = "debug"
    device: str
    generation: str
    models: tuple[str, ...]
    texts: int
    tokens: int
    padded_tokens: int
    seconds: float


class VolumeWatched(Event, frozen=True, kw_only=True):
    """How the volume is looked at from now on. `way` is events (and a timer behind them) or polling; `kind` is the file
    system's, or s3; `period` is in seconds."""

    name = "volume_watched"
    public = False
    place: str
    way: str
    kind: str
    period: float


class VolumeScanned(Event, frozen=True, kw_only=True):
    """One look at the whole volume. `why` is start, hint, timer, or deaf (a thread of watchdog's has died)."""

    name = "volume_scanned"
    public = False
    level = "debug"
    why: str
    directories: int
    files: int
    unsettled: int
    seconds: float


class VolumeUnreadable(Event, frozen=True, kw_only=True):
    """The root cannot be read, or is another directory and empty: nothing is known, so nothing is unloaded."""

    name = "volume_unreadable"
    level = "error"
    path: str
    message: str


class WatcherRebuilt(Event, frozen=True, kw_only=True):
    """watchdog had gone deaf; the timer stood in for it, and it was started anew."""

    name = "watcher_rebuilt"
    level = "warning"
    why: str


class WatcherDeaf(Event, frozen=True, kw_only=True):
    """watchdog can not hear and could not be started anew: until it can, only the timer sees what changes."""

    name = "watcher_deaf"
    level = "warning"
    why: str


class Notice(Event, frozen=True, kw_only=True):
    """Something an operator should read once; `code` is stable."""

    name = "notice"
    level = "warning"
    code: str
    message: str


class RequestFinished(Event, frozen=True, kw_only=True):
    """The one line of a request. Times in seconds; `queue_seconds` includes loading. `route` is the template, never the
    path. `trace_id` where requests are traced."""

    name = "request"
    public = False
    request_id: str
    method: str
    route: str
    status: int
    seconds: float
    tenant: str | None = None
    key: str | None = None
    model: str | None = None
    generation: str | None = None
    alias: str | None = None
    arm: str | None = None
    texts: int = 0
    tokens: int = 0
    said_tokens: int | None = None  # by a language model on the volume; among `tokens`
    first_token_seconds: float | None = None
    load_seconds: float = 0.0
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0
    code: str | None = None
    trace_id: str | None = None
    traceback: str | None = None


def _let_through(error: Exception) -> None:
    raise error


class Events:
    """Where events are told, and to whom. `failed` takes what a subscriber raises; by default it is let through, so
    that tests see it."""

    def __init__(self, failed: Callable[[Exception], None] = _let_through) -> None:
        self._failed = failed
        self._subscribers: list[Callable[[Event], None]] = []

    def emit(self, event: Event) -> None:
        for subscriber in list(self._subscribers):
            try:
                subscriber(event)
            except Exception as error:  # whatever it is, a request that was answered stays so
                self._failed(error)

    def subscribe(self, subscriber: Callable[[Event], None]) -> Callable[[], None]:
        """Calls `subscriber` with every event from now on; the answer takes it back."""
        self._subscribers.append(subscriber)
        return lambda: self._subscribers.remove(subscriber)


def kinds(tree: type[Event] = Event) -> dict[str, type[Event]]:
    """Name -> type, for every event there is."""
    found = {tree.name: tree} if tree.name else {}
    for child in tree.__subclasses__():
        found |= kinds(child)
    return found
