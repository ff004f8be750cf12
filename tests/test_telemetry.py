"""Log lines that machines read, and metrics whose labels stay bounded by what is on the volume."""

from __future__ import annotations

import io
import json
import sys
from typing import Any, Final

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway import events
from gateway.engine.engine import DeviceState, Residence
from gateway.log import Log
from gateway.model import Reason
from gateway.settings import Settings
from gateway.telemetry import Metrics

SAMPLES: Final[dict[Any, Any]] = {
    str: "a text",
    int: 3,
    float: 0.5,
    bool: True,
    tuple[str, ...]: ("finetuned/m",),
    tuple[Reason, ...]: (Reason("weights_missing", "incomplete", "message", "remedy", None),),
    str | None: "a text",
    int | None: 3,
    float | None: 0.5,
}
REQUEST: Final = {"request_id": "r", "method": "POST", "route": "/embed", "status": 200, "seconds": 0.25}
M: Final = "finetuned/m"


def sample(kind: type[events.Event], **facts: Any) -> events.Event:
    """An event with every field filled, of the level that its kind has."""
    filled = {field.name: SAMPLES[field.type] for field in msgspec.structs.fields(kind)}
    if kind in (events.ModelSwapped, events.ModelRolledBack):
        filled["breaking"] = False
    return kind(**{**filled, **facts})


def request(**facts: Any) -> events.RequestFinished:
    return events.RequestFinished(**{**REQUEST, **facts})


def embedded(model: str = M, **facts: Any) -> events.RequestFinished:
    return request(**{"model": model, "texts": 2, "tokens": 10, "queue_seconds": 0.01, **facts})


class Told:
    """The log of a gateway with these settings, read back."""

    def __init__(self, capsys: pytest.CaptureFixture[str], **settings: str) -> None:
        self._capsys = capsys
        self.tell = Log(Settings(**{"log_format": "json", "log_level": "debug", **settings}))

    def lines(self) -> list[str]:
        return self._capsys.readouterr().err.splitlines()

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines()]


@pytest.mark.parametrize("kind", events.kinds().values(), ids=events.kinds())
def test_every_event_is_one_line_of_json_with_its_name_its_level_and_its_time(
    kind: type[events.Event], capsys: pytest.CaptureFixture[str]
) -> None:
    log, event = Told(capsys), sample(kind)
    log.tell(event)
    (record,) = log.records()
    assert (record.pop("event"), record.pop("level")) == (kind.name, kind.level)
    assert record.pop("timestamp").endswith("Z")
    assert record.keys() == msgspec.to_builtins(event).keys()


def test_what_is_empty_is_left_out_and_zero_and_false_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    log = Told(capsys)
    log.tell(events.HostExited(device="cpu", pid=1, status=0, why=""))
    log.tell(events.Stopped(drained=False, seconds=0.0))
    exited, stopped = log.records()
    assert (exited["status"], exited["requests"]) == (0, 0)
    assert not {"why", "suspects"} & exited.keys()
    assert (stopped["drained"], stopped["seconds"]) == (False, 0.0)


@pytest.mark.parametrize("line", ["two\nlines", "\x1b[31mred", '"quoted"', "\u5149", "\udc80", "\0", "\u2028"])
def test_whatever_a_host_writes_stays_on_one_line_of_ascii(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    log = Told(capsys)
    log.tell(events.HostOutput(device="cpu", pid=1, line=line))
    (text,) = log.lines()
    assert text.isascii()
    assert text.isprintable()
    assert json.loads(text)["line"] == line


def test_the_level_that_was_asked_for_is_the_lowest_that_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    every = [sample(kind) for kind in events.kinds().values()]
    order = ["debug", "info", "warning", "error"]
    for lowest in order:
        log = Told(capsys, log_level=lowest)
        for event in every:
            log.tell(event)
        expected = [event.name for event in every if order.index(event.level) >= order.index(lowest)]
        assert [record["event"] for record in log.records()] == expected


@pytest.mark.parametrize(
    ("facts", "level"),
    [
        ({}, "info"),
        ({"status": 429, "code": "overloaded"}, "info"),
        ({"status": 500, "traceback": "Traceback"}, "error"),
        ({"route": "/healthz"}, "debug"),
        ({"route": "/metrics"}, "debug"),
        ({"route": "/readyz", "status": 503}, "info"),
    ],
)
def test_a_bug_is_an_error_and_a_probe_that_found_all_well_is_nobodys_news(
    facts: dict[str, Any], level: str, capsys: pytest.CaptureFixture[str]
) -> None:
    log = Told(capsys)
    log.tell(request(**facts))
    assert [record["level"] for record in log.records()] == [level]


def test_a_swap_that_voids_indexes_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    log = Told(capsys)
    log.tell(sample(events.ModelSwapped, breaking=True))
    assert [record["level"] for record in log.records()] == ["warning"]


def test_the_console_format_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    log = Told(capsys, log_format="console")
    log.tell(events.Notice(code="c", message="read this"))
    (line,) = log.lines()
    assert "read this" in line
    assert not line.startswith("{")


def test_auto_is_json_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    log = Told(capsys, log_format="auto")
    log.tell(events.Notice(code="c", message="m"))
    assert [record["code"] for record in log.records()] == ["c"]


@pytest.mark.parametrize("format", ["json", "console"])
def test_lines_that_cannot_be_written_are_counted_and_nobody_fails(
    format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(full, write_through=True))
        log = Log(Settings(log_format=format))
        log(events.Notice(code="c", message="m"))
        log(events.VolumeScanned(why="timer", directories=0, files=0, unsettled=0, seconds=0.0))  # below the level
        assert log.lost == 1
        log.failed(ZeroDivisionError())
        assert log.lost == 2


def test_what_a_subscriber_raises_is_one_line_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    log = Told(capsys)

    def broken(event: events.Event) -> None:
        raise ZeroDivisionError

    tell = events.Events(log.tell.failed)
    tell.subscribe(broken)
    tell.emit(events.Notice(code="c", message="m"))
    (record,) = log.records()
    assert record["code"] == "subscriber_failed"
    assert "in broken" in record["message"]


def test_a_log_that_is_broken_itself_is_nobodys_end(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    log = Log(Settings(log_format="json"))
    tell = events.Events(log.failed)
    tell.subscribe(log)
    stream.close()
    tell.emit(events.Notice(code="c", message="m"))
    assert log.lost == 1


class Idle:
    """An engine as far as metrics look at it: two devices, one model on the first."""

    def devices(self) -> list[DeviceState]:
        return [
            DeviceState("cuda:0", True, 1, 100, 1000, 7, 5000, 2),
            DeviceState("cuda:1", False, None, 0, 1000, 0, 0, 0),
        ]

    def residences(self) -> dict[str, list[Residence]]:
        loaded = Residence("d", "cuda:0", "loaded", 100, 0, False, 1.0)
        talks = msgspec.structs.replace(loaded, digest="t", rows=3, rows_waiting=2)
        return {"d": [loaded, msgspec.structs.replace(loaded, device="cuda:1", state="loading")], "t": [talks]}


@pytest.fixture
def metrics() -> Metrics:
    names = {"d": (M, "trained/same"), "t": ("base/talks",)}
    return Metrics(Idle(), lambda digest: names.get(digest, ()))  # type: ignore[arg-type]  # all that metrics ask it


def series(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """(name, values in the order of their labels) -> value, as Prometheus reads it; no series is there twice."""
    found: dict[tuple[str, ...], float] = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for each in family.samples:
            key = (each.name, *(value for _, value in sorted(each.labels.items())))
            assert key not in found, key
            found[key] = each.value
    return found


def test_requests_texts_and_tokens_are_counted_by_model(metrics: Metrics) -> None:
    metrics(embedded())
    metrics(embedded(texts=3, tokens=5))
    metrics(embedded("base/other"))
    metrics(request(status=404, code="model_not_found"))
    found = series(metrics)
    assert found["dropgate_texts_total", M] == 5
    assert found["dropgate_tokens_total", M] == 15
    assert found["dropgate_texts_total", "base/other"] == 2
    assert found["dropgate_queue_seconds_count", M] == 2
    assert found["dropgate_requests_total", "POST", "/embed", "200"] == 3
    assert found["dropgate_requests_total", "POST", "/embed", "404"] == 1
    assert found["dropgate_errors_total", "model_not_found"] == 1
    assert found["dropgate_request_seconds_count", "/embed"] == 4


def test_what_language_models_say_is_counted_apart_and_goes_with_its_model(metrics: Metrics) -> None:
    metrics(embedded(said_tokens=7, first_token_seconds=0.2))
    metrics(embedded(said_tokens=3, first_token_seconds=0.2, status=499))  # somebody who has left
    metrics(embedded(said_tokens=0))
    found = series(metrics)
    assert found["dropgate_said_tokens_total", M] == 10
    assert found["dropgate_first_token_seconds_count", M] == 2
    assert ("dropgate_texts_total", M) not in found
    assert metrics.older()["total_requests"] == 0
    metrics(events.ModelRemoved(model=M))
    assert ("dropgate_said_tokens_total", M) not in series(metrics)


def test_rows_of_language_models_are_told_and_of_others_none(metrics: Metrics) -> None:
    found = series(metrics)
    assert ("dropgate_model_rows", "cuda:0", M) not in found
    assert found["dropgate_model_rows", "cuda:0", "base/talks"] == 3
    assert found["dropgate_model_rows_waiting", "cuda:0", "base/talks"] == 2


def test_a_request_that_failed_counts_no_text(metrics: Metrics) -> None:
    metrics(embedded(status=503, code="load_failed"))
    assert ("dropgate_texts_total", M) not in series(metrics)


def test_the_series_of_a_removed_model_go_and_those_of_the_others_stay(metrics: Metrics) -> None:
    metrics(embedded("finetuned/gone"))
    metrics(embedded("base/stays"))
    metrics(events.ModelRemoved(model="finetuned/gone"))
    metrics(events.ModelRemoved(model="never/used"))
    text = metrics.text().decode()
    assert "finetuned/gone" not in text
    assert series(metrics)["dropgate_texts_total", "base/stays"] == 2


def test_both_sides_of_a_canary_are_counted_and_go_with_their_alias(metrics: Metrics) -> None:
    metrics(embedded(alias="prod/m", arm="main"))
    metrics(embedded(alias="prod/m", arm="canary"))
    metrics(embedded(alias="prod/m", arm="canary", status=503, code="load_failed"))
    metrics(embedded(alias="prod/other"))
    found = series(metrics)
    assert found["dropgate_canary_requests_total", "prod/m", "main", "200"] == 1
    assert found["dropgate_canary_requests_total", "prod/m", "canary", "200"] == 1
    assert found["dropgate_canary_requests_total", "prod/m", "canary", "503"] == 1
    assert found["dropgate_canary_seconds_count", "prod/m", "canary"] == 2
    metrics(events.AliasesChanged(aliases=("prod/other",), removed=("prod/m",)))
    assert "prod/" not in metrics.text().decode()


def test_ten_thousand_models_that_came_and_went_leave_no_series(metrics: Metrics) -> None:
    before = len(series(metrics))
    for number in range(10_000):
        metrics(embedded(f"finetuned/m{number}"))
        metrics(events.ModelRemoved(model=f"finetuned/m{number}"))
    metrics(embedded())
    metrics(events.ModelRemoved(model=M))
    named = {key for key in series(metrics) if "finetuned" in "".join(key[1:])}
    assert named == {("dropgate_model_loaded_bytes", "cuda:0", M)}  # the engine has that one still
    assert len(series(metrics)) - before < 50  # the request's own, whatever the number of models


def test_devices_are_read_when_somebody_looks(metrics: Metrics) -> None:
    found = series(metrics)
    assert found["dropgate_device_up", "cuda:0"] == 1
    assert found["dropgate_device_up", "cuda:1"] == 0
    assert found["dropgate_device_model_bytes", "cuda:0"] == 100
    assert found["dropgate_device_queue_tokens", "cuda:0"] == 7
    assert found["dropgate_device_host_restarts", "cuda:0"] == 2
    loaded = {key[1:]: value for key, value in found.items() if key[0] == "dropgate_model_loaded_bytes"}
    assert loaded == dict.fromkeys([("cuda:0", M), ("cuda:0", "trained/same"), ("cuda:0", "base/talks")], 100)


def test_models_are_counted_by_state_and_no_state_is_left_out() -> None:
    found = series(Metrics(Idle(), lambda digest: (), count=lambda: ({"loaded": 2, "rejected": 0}, {"copying": 1})))  # type: ignore[arg-type]  # all that metrics ask it
    assert found["dropgate_models", "loaded"] == 2
    assert found["dropgate_models", "rejected"] == 0
    assert found["dropgate_models_pending", "copying"] == 1


def test_what_an_alert_waits_for_is_there_before_it_has_happened(metrics: Metrics) -> None:
    found = series(metrics)
    assert found["dropgate_errors_total", "internal"] == found["dropgate_errors_total", "overloaded"] == 0
    assert found["dropgate_load_failures_total", "load_failed"] == 0
    assert found["dropgate_models", "rejected"] == found["dropgate_models_pending", "rejected"] == 0


def test_what_the_volume_and_the_devices_do_is_counted(metrics: Metrics) -> None:
    for event in (
        sample(events.ModelAccepted),
        sample(events.ModelRejected),
        sample(events.ModelSwapped),
        sample(events.VolumeScanned, why="timer"),
        sample(events.VolumeUnreadable),
        sample(events.WatcherRebuilt),
        sample(events.GenerationLoaded, device="cpu"),
        sample(events.GenerationUnloaded, why="evicted", idle_seconds=5.0),
        sample(events.GenerationUnloaded, why="retired"),
        sample(events.LoadFailed, code="load_failed"),
        sample(events.GenerationQuarantined),
        sample(events.HostExited, device="cpu"),
        sample(events.DeviceCall, device="cpu", tokens=10, padded_tokens=16, seconds=0.5),
    ):
        metrics(event)
    found = series(metrics)
    assert found["dropgate_models_accepted_total",] == 1
    assert found["dropgate_models_rejected_total", "weights_missing"] == 1
    assert found["dropgate_swaps_total",] == 1
    assert found["dropgate_volume_scans_total", "timer"] == 1
    assert found["dropgate_volume_unreadable_total",] == 1
    assert found["dropgate_watcher_rebuilds_total",] == 1
    assert found["dropgate_load_seconds_count", "cpu"] == 1
    assert found["dropgate_load_failures_total", "load_failed"] == 1
    assert found["dropgate_padding_tokens_total", "cpu"] == 6
    assert found["dropgate_device_busy_seconds_total", "cpu"] == 0.5
    assert found["dropgate_unloads_total", "evicted"] == found["dropgate_unloads_total", "retired"] == 1
    assert found["dropgate_eviction_idle_seconds_count",] == 1


@pytest.mark.parametrize("kind", events.kinds().values(), ids=events.kinds())
def test_metrics_take_every_event(kind: type[events.Event], metrics: Metrics) -> None:
    metrics(sample(kind))
    assert series(metrics)


def test_the_numbers_of_the_older_system_are_over_embedding_requests_in_milliseconds(metrics: Metrics) -> None:
    assert metrics.older() == {"total_requests": 0, "total_texts": 0, "avg_latency_ms": 0.0, "max_latency_ms": 0.0}
    metrics(embedded(texts=2, seconds=0.25))
    metrics(embedded(texts=4, seconds=0.75))
    metrics(embedded(status=503, seconds=9.0))
    metrics(request(route="/models", seconds=9.0))
    assert metrics.older() == {
        "total_requests": 2,
        "total_texts": 6,
        "avg_latency_ms": 500.0,
        "max_latency_ms": 750.0,
    }
