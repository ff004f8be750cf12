"""The last minutes: bounded, and true to what happened."""

from __future__ import annotations

from gateway import events
from gateway.history import MOST_EVENTS, SAMPLES, History
from tests.catalog.world import Engine


def answered(seconds: float, status: int = 200, model: str | None = "finetuned/m") -> events.RequestFinished:
    return events.RequestFinished(
        request_id="r", method="POST", route="/embed", status=status, seconds=seconds, model=model, queue_seconds=0.5
    )


def test_a_sample_tells_what_its_requests_and_batches_were_like() -> None:
    history = History(Engine())
    for seconds in (*[0.01] * 90, *[2.0] * 10):
        history(answered(seconds))
    history(answered(60.0, model=None))  # of no model: a page that is open, a probe
    history(answered(0.01, status=429))
    for texts in (2, 4):
        call = {"device": "cpu", "generation": "d", "models": (), "tokens": 10, "padded_tokens": 10, "seconds": 0.1}
        history(events.DeviceCall(texts=texts, **call))
    history.sample()
    (sample,) = history.health()["samples"]
    assert (sample["requests"], sample["errors"], sample["slowest"], sample["waited"]) == (101, 1, 2.0, 0.5)
    assert 0.01 <= sample["p50"] <= 0.012
    assert 1.6 <= sample["p95"] <= 2.0
    assert (sample["calls"], sample["batch_texts"], sample["tokens"]) == (2, 3.0, 20)
    assert sample["queue_tokens"] == {"cpu": 0}


def test_a_window_without_requests_has_no_latencies() -> None:
    history = History(Engine())
    (sample,) = history.health()["samples"]
    assert (sample["requests"], sample["p50"], sample["p95"], sample["batch_texts"]) == (0, None, None, None)


def test_it_takes_no_more_memory_however_much_happens() -> None:
    history = History(Engine(), wall=lambda: 1.0)
    for number in range(2 * MOST_EVENTS):
        history(events.ModelCopying(model=f"finetuned/m{number}"))
        history(events.HostExited(device="cpu", pid=number, status=1, why="x"))
        history.sample()
    assert len(history.happened()) == MOST_EVENTS
    numbers = [each.number for each in history.happened()]
    assert numbers == sorted(set(numbers))  # no two alike, though much happens in a microsecond
    assert numbers[-1] >= history.happened()[-1].at * 1e6 - 1
    assert len(history.health()["samples"]) == SAMPLES
    assert len(history.health()["exits"]) == 20
