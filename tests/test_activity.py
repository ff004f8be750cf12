"""What happened lately: rates by model, and what devices held."""

from __future__ import annotations

from typing import Any

from gateway import events
from gateway.activity import MOST_SAMPLES, MOST_SHOWN, WINDOW, Activity
from gateway.engine.engine import DeviceState, Residence


class Engine:
    """One device; `held` has bytes by digest."""

    def __init__(self) -> None:
        self.held: dict[str, int] = {}

    def devices(self) -> list[DeviceState]:
        return [DeviceState("cpu", True, 1, sum(self.held.values()), 1000, 0, 1, 0)]

    def residences(self) -> dict[str, list[Residence]]:
        return {digest: [Residence(digest, "cpu", "loaded", size, 0, False, 0.0)] for digest, size in self.held.items()}


class Rig:
    def __init__(self) -> None:
        self.now = 1000.0
        self.engine = Engine()
        engine: Any = self.engine  # it is asked for these two alone
        self.activity = Activity(engine, lambda digest: (f"finetuned/{digest}",), clock=lambda: self.now)

    def ask(self, model: str, *, generation: str | None = "g") -> None:
        self.activity(
            events.RequestFinished(
                request_id="r", method="POST", route="/embed", status=200, seconds=0, model=model, generation=generation
            )
        )


def test_requests_a_second_are_counted_by_model_and_forgotten() -> None:
    rig = Rig()
    for _ in range(30):
        rig.ask("a/m")
    rig.now += WINDOW / 2
    rig.ask("b/m")
    rig.ask("b/m", generation=None)  # which reached nothing
    assert rig.activity.rates() == {"a/m": 3.0, "b/m": 0.1}
    rig.now += WINDOW / 2
    assert rig.activity.rates() == {"b/m": 0.1}
    rig.now += WINDOW
    assert rig.activity.rates() == {}


def test_what_devices_held_is_kept_where_it_changed() -> None:
    rig = Rig()
    rig.activity.sample()
    rig.activity.sample()
    rig.engine.held = {"a": 10, "b": 20}
    rig.now += 2
    rig.activity.sample()
    assert [sample.at for sample in rig.activity.samples] == [1000.0, 1002.0]
    (device,) = rig.activity.samples[-1].devices
    assert (device.used, device.models, device.others) == (30, {"finetuned/a": 10, "finetuned/b": 20}, 0)


def test_the_past_is_bounded_however_many_models_there_are() -> None:
    rig = Rig()
    rig.engine.held = {f"m{number}": number + 1 for number in range(MOST_SHOWN + 5)}
    for _ in range(MOST_SAMPLES + 10):
        rig.engine.held["m0"] += 1
        rig.activity.sample()
    assert len(rig.activity.samples) == MOST_SAMPLES
    (device,) = rig.activity.samples[-1].devices
    assert len(device.models) == MOST_SHOWN
    assert sum(device.models.values()) + device.others == device.used


def test_the_last_look_at_the_volume_is_told_and_whether_watchdog_hears() -> None:
    rig = Rig()
    rig.activity(events.WatcherDeaf(why="it is stuck"))
    rig.activity(events.VolumeScanned(why="timer", directories=3, files=9, unsettled=1, seconds=0.5))
    assert (rig.activity.watch.at, rig.activity.watch.directories, rig.activity.watch.deaf) == (1000, 3, "it is stuck")
    rig.activity(events.WatcherRebuilt(why="it is stuck"))
    assert rig.activity.watch.deaf is None
