"""What a gateway knows of the replicas of its cluster: what they last told, for as long as that says something."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from gateway.cluster.messages import Happened, State
from gateway.engine.engine import DeviceState, Residence

SILENT: Final = 10.0  # seconds after which a replica that tells nothing is not there


class Sight:
    """`clock` in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._states: dict[str, tuple[float, State]] = {}  # by life
        self.told: dict[str, int] = {}  # by life: how much of what happened there has been heard

    def see(self, states: Sequence[State]) -> Iterator[tuple[str, Happened]]:
        """Takes them in. -> what is new, and at which replica."""
        now = self._clock()
        fresh = []
        for state in states:
            fresh += [(state.name, what) for what in state.happened if self.told.get(state.life, -1) < state.told]
            self.told[state.life] = state.told
            self._states[state.life] = now, state
        alive = {state.name: state.life for state in self.states()}  # what has been started anew is one replica
        self._states = {
            life: (seen, state)
            for life, (seen, state) in self._states.items()
            if now - seen < SILENT and alive.get(state.name) == life
        }
        self.told = {life: told for life, told in self.told.items() if life in self._states}
        yield from fresh

    def states(self) -> list[State]:
        """Of the replicas that are there, the latest heard last."""
        now = self._clock()
        heard = sorted(self._states.values(), key=lambda each: each[0])
        return [state for seen, state in heard if now - seen < SILENT]

    def devices(self) -> list[DeviceState]:
        return [_device(state) for state in sorted(self.states(), key=lambda state: state.name)]

    def residences(self) -> dict[str, list[Residence]]:
        found: dict[str, list[Residence]] = {}
        for state in self.states():
            for each in _residences(state):
                found.setdefault(each.digest, []).append(each)
        return found


def _device(state: State) -> DeviceState:
    pool = state.residency
    return DeviceState(
        state.name,
        state.up,
        state.pid,
        pool.used,
        pool.budget,
        pool.queue_tokens,
        pool.resident_memory,
        state.restarts,
        pool.host_used,
        pool.host_budget,
    )


def _residences(state: State) -> Iterator[Residence]:
    for each in state.residency.residents:
        yield Residence(
            each.digest,
            state.name,
            each.state,
            each.bytes,
            each.leases,
            each.pinned,
            state.reported - each.idle_seconds,
            each.numerics,
            each.seconds_left,
            each.rows,
            each.rows_waiting,
        )
    for parked in state.residency.parked:
        last_used = state.reported - parked.idle_seconds
        yield Residence(parked.digest, state.name, "parked", parked.bytes, 0, False, last_used)
