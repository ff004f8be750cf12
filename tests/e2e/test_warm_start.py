"""A gateway that is started again is as warm as it was, and ready no later."""

from __future__ import annotations

import json
from pathlib import Path

from tests import making
from tests.running import RunningGateway

A, B = "huggingface:finetuned/a", "huggingface:finetuned/b"


async def test_what_was_loaded_at_the_end_is_loaded_at_the_start(tmp_path: Path) -> None:
    for seed, name in enumerate("abc"):
        making.encoder(tmp_path / "models" / "finetuned" / name, seed=seed)
    places, options = (tmp_path / "models", tmp_path / "state"), ("--device=cpu", "--settle-seconds=0.1")
    async with RunningGateway(*places, *options, "--preload=last") as gateway:
        await gateway.wait_for(A, "ready", "loaded")
        await gateway.embed(["the beam"], A)
        await gateway.stop()
    assert json.loads((tmp_path / "state" / "warm.json").read_bytes()) == ["finetuned/a"]
    async with RunningGateway(*places, *options, "--preload=finetuned/b,last") as gateway:
        await gateway.wait_for(A, "loaded")
        await gateway.wait_for(B, "loaded")
        models = await gateway.models()
        assert models["huggingface:finetuned/c"]["state"] == "ready"
        told = [record.get("event") for record in gateway.log]
        assert told.index("listening") < told.index("generation_loaded")
