"""What a gateway takes when nobody asks it for anything: time to start, memory, and CPU; and what each model adds."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from bench import directories, texts
from bench.generator import drive, target
from bench.rounds import told
from bench.servers import MODEL, Gateway
from bench.setting import Setting

MODELS: Final = 4
STARTS: Final = 3
GLANCE: Final = 1.0  # seconds in which a system at rest uses next to nothing
PATIENCE: Final = 60.0


def run(setting: Setting) -> dict[str, Any]:
    """Seconds to listen and to be ready of each start, bytes of memory, and CPU as a share of one core."""
    folder = setting.own("memory")
    names = [MODEL, *(f"bench/number-{number}" for number in range(1, MODELS))]
    starts = [_start(folder, number, setting) for number in range(1 if setting.quick else STARTS)]
    for number, name in enumerate(names):
        directories.publish(folder / "models", name, number)
    served = Gateway(folder / "models", folder / "state", folder / "gateway.log", *setting.gateway_options)
    try:
        served.wait_until_listening()
        served.wait_until_answered("/readyz")
        _wait_until_at_rest(served)
        idle, share = served.resident(), _idle_share(served, 10 * setting.seconds)
        models = [_loaded(served, name) for name in names]
        _wait_until_at_rest(served)  # what a load has put off
        share_loaded = _idle_share(served, 10 * setting.seconds)
        drive(target(served.url, [texts.of_tokens(16, 1)]), 64, setting.seconds)
        after = served.resident()
    finally:
        served.stop()
    file = folder / "models" / MODEL / "model.safetensors"
    return {
        "starts": starts,
        "idle": idle,
        "idle_share": share,
        "idle_share_loaded": share_loaded,
        "models": models,
        "file_bytes": file.stat().st_size,
        "after_load": after,
    }


def _start(folder: Path, number: int, setting: Setting) -> dict[str, float]:
    """Over an empty volume: what the gateway itself takes, and its host."""
    empty = folder / f"empty-{number}"
    empty.mkdir()
    served = Gateway(empty, folder / f"state-{number}", folder / f"start-{number}.log", *setting.gateway_options)
    try:
        return {"listening": served.wait_until_listening(), "ready": served.wait_until_answered("/readyz")}
    finally:
        served.stop()


def _wait_until_at_rest(served: Gateway) -> None:
    """A host imports what its first load needs, and reorders weights behind a first answer: that is work, and none of
    an idle system's."""
    end = time.monotonic() + PATIENCE
    used = served.cpu_seconds() - GLANCE
    while served.cpu_seconds() - used > 0.02 * GLANCE and time.monotonic() < end:
        used = served.cpu_seconds()
        time.sleep(GLANCE)


def _idle_share(served: Gateway, seconds: float) -> float:
    used, began = served.running_seconds(), time.monotonic()
    time.sleep(seconds)
    told(f"idle for {seconds:.0f} s")
    return (served.running_seconds() - used) / (time.monotonic() - began)


def _loaded(served: Gateway, name: str) -> dict[str, int]:
    """Bytes on the device as the gateway counts them, and by how much its host grew."""
    before = served.resident()["others"]
    served.wait_until_served(name)
    return {"counted": served.listed(name)["bytes_on_device"], "host_grew": served.resident()["others"] - before}
