"""How Ray Serve is told which replica a request goes to: `engine.routing`, with what replicas tell through Serve.

Serve makes one of these for each handle, in the gateway's process, and calls it on a loop of its own. Its interface is
marked as alpha, so the version of Ray is pinned exactly. This module travels by value: it holds nothing that cannot.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from ray.serve.request_router import PendingRequest, ReplicaID, ReplicaResult, RequestRouter, RunningReplica

from gateway.cluster import messages
from gateway.engine.routing import Choices, Told

STATS: Final = "told"  # under which a replica's routing statistics have it, as JSON


class Router(RequestRouter):  # type: ignore[misc]  # Ray's classes have no types for us
    """A request's arguments say what it is about: the digest of what must be loaded, its bytes, and nodes not to go to
    while there are others."""

    def initialize_state(self, **options: Any) -> None:
        self._choices = Choices()
        self._read: dict[Any, tuple[Any, Told]] = {}  # statistics as they came, and what they say
        self._asked: dict[tuple[Any, str], tuple[str, int]] = {}  # by replica and request: digest, bytes
        self._loads: dict[Any, Counter[str]] = {}  # the same by replica and digest

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        if not candidate_replicas or pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True  # where it is full, Serve asks again after a pause
        digest, size, avoid = pending_request.args[:3]
        replicas = sorted(candidate_replicas, key=lambda replica: str(replica.replica_id))
        known = [self._told(replica) for replica in replicas]
        willing = [index for index, each in enumerate(known) if each.name.partition("/")[0] not in avoid] or range(
            len(known)
        )
        replicas, known = [replicas[index] for index in willing], [known[index] for index in willing]
        loads = [self._load(replica.replica_id, digest) for replica in replicas]
        asked, own = [load for load, _ in loads], [part for _, part in loads]
        return [[replicas[self._choices.choose(known, asked, own, digest, size)]]]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult) -> None:
        digest, _, _, frame = pending_request.args[:4]
        self._asked[replica_id, pending_request.metadata.internal_request_id] = digest, len(frame)
        self._loads.setdefault(replica_id, Counter())[digest] += len(frame)

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        digest, size = self._asked.pop((replica_id, internal_request_id), ("", 0))
        if size and replica_id in self._loads:
            self._loads[replica_id][digest] -= size
            if not self._loads[replica_id][digest]:
                del self._loads[replica_id][digest]

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_died(replica_id)
        self._read.pop(replica_id, None)
        self._loads.pop(replica_id, None)

    def _told(self, replica: RunningReplica) -> Told:
        """What it last told, or told when it began."""
        stats = replica.routing_stats.get(STATS) or replica.replica_metadata.get(STATS)
        if stats is None:
            return Told(str(replica.replica_id.unique_id))
        before, read = self._read.get(replica.replica_id, (None, None))
        if read is None or before != stats:
            read = messages.told.decode(stats)
            self._read[replica.replica_id] = stats, read
        return read

    def _load(self, replica_id: ReplicaID, digest: str) -> tuple[int, float]:
        """What this gateway waits for from it, and the digest's part of that."""
        loads = self._loads.get(replica_id)
        whole = loads.total() if loads else 0
        return whole, loads[digest] / whole if loads and whole else 0.0
