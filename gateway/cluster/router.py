"""How Ray Serve is told which replica a request goes to: `engine.routing`, with what replicas tell through Serve.

Serve makes one of these for each handle, in the gateway's process, and calls it on a loop of its own. Its interface is
marked as alpha, so the version of Ray is pinned exactly. This module travels by value: it holds nothing that cannot.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any, Final, NamedTuple

from ray.serve.request_router import PendingRequest, ReplicaID, ReplicaResult, RequestRouter, RunningReplica

from gateway.cluster import messages
from gateway.engine.demand import Asked
from gateway.engine.routing import Choices, Told

STATS: Final = "told"  # under which a replica's routing statistics have it, as JSON


class Read(NamedTuple):
    """Statistics as they came, what they say, and when they were read."""

    stats: Any
    told: Told
    when: float


class Router(RequestRouter):  # type: ignore[misc]  # Ray's classes have no types for us
    """A request's arguments say what it needs, `messages.Need`, and which nodes not to go to while there are others."""

    def initialize_state(self, **options: Any) -> None:
        self._choices = Choices()
        self._read: dict[Any, Read] = {}
        self._asked: dict[tuple[Any, str], float] = {}  # seconds of its time, by replica and request
        self._waits: defaultdict[Any, Asked] = defaultdict(Asked)  # the same by replica

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        if not candidate_replicas or pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True  # where it is full, Serve asks again after a pause
        need, avoid = _need(pending_request), pending_request.args[1]
        replicas = sorted(candidate_replicas, key=lambda replica: str(replica.replica_id))
        known = [self._known(replica) for replica in replicas]
        willing = [index for index, each in enumerate(known) if each.told.name.partition("/")[0] not in avoid] or range(
            len(known)
        )
        replicas, known = [replicas[index] for index in willing], [known[index] for index in willing]
        now = time.monotonic()
        works = [
            each.told.work(now - each.when, self._waits[replica.replica_id].amount)
            for each, replica in zip(known, replicas, strict=True)
        ]
        told = [each.told for each in known]
        return [[replicas[self._choices.choose(told, works, need.digest, need.size, need.loading)]]]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult) -> None:
        seconds = _need(pending_request).computing
        self._asked[replica_id, pending_request.metadata.internal_request_id] = seconds
        self._waits[replica_id].add(seconds)

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        seconds = self._asked.pop((replica_id, internal_request_id), None)
        if seconds is not None and replica_id in self._waits:
            self._waits[replica_id].take(seconds)

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_died(replica_id)
        self._read.pop(replica_id, None)
        self._waits.pop(replica_id, None)

    def _known(self, replica: RunningReplica) -> Read:
        """What it last told, or told when it began."""
        stats = replica.routing_stats.get(STATS) or replica.replica_metadata.get(STATS)
        if stats is None:
            return Read(None, Told(str(replica.replica_id.unique_id)), 0.0)
        read = self._read.get(replica.replica_id)
        if read is None or read.stats != stats:
            read = self._read[replica.replica_id] = Read(stats, messages.told.decode(stats), time.monotonic())
        return read


def _need(pending_request: PendingRequest) -> messages.Need:
    return messages.Need(*pending_request.args[0])
