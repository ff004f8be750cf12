"""Events in, metrics out.

A model's series go when the model goes, so the labels stay bounded by what is on the volume. Hosts send their
counters with their reports: one registry, in this process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway import events
from gateway.catalog.listing import PENDING, STATES
from gateway.engine.engine import Engine
from gateway.tenants.usage import Usage

LATENCIES: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
TOKENS: Final = (16, 64, 256, 1024, 4096, 16384, 65536)
COUNTED: Final = ("internal", "overloaded")  # from 0 on: an alert sees the first one too
FAILURES: Final = ("load_failed", "model_does_not_fit")  # likewise
Counts = Callable[[], tuple[Mapping[str, int], Mapping[str, int]]]  # models by state, and what waits by state
LOADS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Devices(Collector):
    """Gauges that are read when somebody looks."""

    def __init__(self, engine: Engine, names: Callable[[str], tuple[str, ...]]) -> None:
        self._engine = engine
        self._names = names

    def collect(self) -> list[Metric]:
        gauges = {
            name: GaugeMetricFamily(f"dropgate_device_{name}", text, labels=["device"])
            for name, text in {
                "up": "Whether the device's host process is up.",
                "model_bytes": "Bytes of models on the device, counted until they are freed.",
                "budget_bytes": "Bytes of models that the device may hold.",
                "parked_bytes": "Bytes of host memory with models that were evicted from the device.",
                "parked_budget_bytes": "Bytes of host memory that these may take.",
                "queue_tokens": "Tokens that wait for the device.",
                "resident_bytes": "Resident memory of the device's host process.",
                "host_restarts": "Times that the host process was started again.",
            }.items()
        }
        for device in self._engine.devices():
            values = {
                "up": device.up,
                "model_bytes": device.used,
                "budget_bytes": device.budget,
                "parked_bytes": device.host_used,
                "parked_budget_bytes": device.host_budget,
                "queue_tokens": device.queue_tokens,
                "resident_bytes": device.resident_memory,
                "host_restarts": device.restarts,
            }
            for name, value in values.items():
                gauges[name].add_metric([device.device], value)
        return [*gauges.values(), *self._models()]

    def _models(self) -> list[Metric]:
        names = {
            "loaded_bytes": "Bytes of a loaded model on a device.",
            "rows": "Answers that a loaded language model is giving, those of its adapters included.",
            "rows_waiting": "Answers that wait for a row of a loaded language model.",
        }
        gauges = {
            name: GaugeMetricFamily(f"dropgate_model_{name}", text, labels=["model", "device"])
            for name, text in names.items()
        }
        for digest, residences in self._engine.residences().items():
            for residence in (each for each in residences if each.state == "loaded"):
                values = {"loaded_bytes": residence.bytes}
                if residence.rows is not None:
                    values |= {"rows": residence.rows, "rows_waiting": residence.rows_waiting}
                for model in self._names(digest):
                    for name, value in values.items():
                        gauges[name].add_metric([model, residence.device], value)
        return [*gauges.values()]


class Tenants(Collector):
    """Counters of what tenants use: those that have a key, and of models that are there."""

    def __init__(self, usage: Usage) -> None:
        self._usage = usage

    def collect(self) -> list[Metric]:
        counters = {
            name: CounterMetricFamily(f"dropgate_tenant_{name}", text, labels=["tenant", "model"])
            for name, text in {
                "requests": "Requests of a tenant, by the model that they reached; kept over restarts, as those below.",
                "texts": "Texts that a tenant had computed.",
                "tokens": "Tokens that a tenant had computed.",
                "compute_seconds": "Seconds of device calls with texts of a tenant.",
                "refusals": "Requests of a tenant that were answered with an error.",
            }.items()
        }
        for row in self._usage.current():
            for name, counter in counters.items():
                counter.add_metric([row.tenant, row.model], getattr(row, name))
        return list(counters.values())


class Models(Collector):
    """How many models there are, by their state."""

    def __init__(self, count: Counts) -> None:
        self._count = count

    def collect(self) -> list[Metric]:
        names = {
            "models": "Models seen on the volume, by their state.",
            "models_pending": "Models that are served while newer content of theirs is not, by why.",
        }
        gauges: list[Metric] = []
        for (name, text), counted in zip(names.items(), self._count(), strict=True):
            gauge = GaugeMetricFamily(f"dropgate_{name}", text, labels=["state"])
            for state, number in counted.items():
                gauge.add_metric([state], number)
            gauges.append(gauge)
        return gauges


def nothing() -> tuple[Mapping[str, int], Mapping[str, int]]:
    """The counts of an empty volume."""
    return dict.fromkeys(STATES, 0), dict.fromkeys(PENDING, 0)


class Metrics:
    """The Prometheus registry, and the four numbers of an older system's `GET /metrics`."""

    def __init__(
        self,
        engine: Engine,
        names: Callable[[str], tuple[str, ...]],
        usage: Usage | None = None,
        count: Counts = nothing,
    ) -> None:
        self.registry = registry = CollectorRegistry()
        registry.register(Devices(engine, names))
        registry.register(Models(count))
        registry.register(Tenants(usage or Usage()))
        self.requests = Counter(
            "dropgate_requests", "Requests answered.", ["route", "method", "status"], registry=registry
        )
        self.seconds = Histogram(
            "dropgate_request_seconds", "Seconds per request.", ["route"], buckets=LATENCIES, registry=registry
        )
        self.errors = Counter("dropgate_errors", "Requests refused or failed.", ["code"], registry=registry)
        self.texts = Counter("dropgate_texts", "Texts embedded.", ["model"], registry=registry)
        self.tokens = Counter("dropgate_tokens", "Tokens embedded.", ["model"], registry=registry)
        self.said = Counter(
            "dropgate_said_tokens", "Tokens that a language model on the volume has said.", ["model"], registry=registry
        )
        self.first_token = Histogram(
            "dropgate_first_token_seconds", "Seconds until a language model on the volume began to speak.", ["model"],
            buckets=LATENCIES, registry=registry,
        )  # fmt: skip
        self.wait = Histogram(
            "dropgate_queue_seconds", "Seconds a request waited for its model and its device.", ["model"],
            buckets=LATENCIES, registry=registry,
        )  # fmt: skip
        self.batch_texts = Histogram(
            "dropgate_batch_texts", "Texts per device call.", ["device"], buckets=SIZES, registry=registry
        )
        self.batch_tokens = Histogram(
            "dropgate_batch_tokens", "Tokens per device call.", ["device"], buckets=TOKENS, registry=registry
        )
        self.padding = Counter(
            "dropgate_padding_tokens", "Tokens computed that were padding.", ["device"], registry=registry
        )
        self.busy = Counter("dropgate_device_busy_seconds", "Seconds in device calls.", ["device"], registry=registry)
        self.loads = Histogram(
            "dropgate_load_seconds", "Seconds per load.", ["device"], buckets=LOADS, registry=registry
        )
        self.returns = Counter(
            "dropgate_loads_returned", "Loads that came from host memory, not from the disk.", ["device"],
            registry=registry,
        )  # fmt: skip
        self.load_failures = Counter("dropgate_load_failures", "Loads that failed.", ["code"], registry=registry)
        self.unloads = Counter("dropgate_unloads", "Generations unloaded.", ["why"], registry=registry)
        self.eviction_age = Histogram(
            "dropgate_eviction_idle_seconds", "Seconds that an evicted generation had been idle.",
            buckets=(1, 5, 15, 60, 300, 900, 3600, 14400, 86400), registry=registry,
        )  # fmt: skip
        self.exits = Counter("dropgate_host_exits", "Host processes that died.", ["device"], registry=registry)
        self.quarantines = Counter("dropgate_quarantines", "Generations put into quarantine.", registry=registry)
        self.accepted = Counter("dropgate_models_accepted", "Directories accepted.", registry=registry)
        self.rejected = Counter("dropgate_models_rejected", "Directories rejected.", ["code"], registry=registry)
        self.swaps = Counter("dropgate_swaps", "Generations swapped in for another.", registry=registry)
        self.pulls = Counter(
            "dropgate_pulls", "Models pulled from a hub, ok or the code of the failure.", ["code"], registry=registry
        )
        self.rollbacks = Counter("dropgate_rollbacks", "Earlier generations made live again.", registry=registry)
        self.canary = Counter(
            "dropgate_canary_requests", "Requests to an alias with a canary, by the side that they went to.",
            ["alias", "arm", "status"], registry=registry,
        )  # fmt: skip
        self.canary_seconds = Histogram(
            "dropgate_canary_seconds", "Seconds of these requests.", ["alias", "arm"], buckets=LATENCIES,
            registry=registry,
        )  # fmt: skip
        self.scans = Counter("dropgate_volume_scans", "Looks at the volume.", ["why"], registry=registry)
        self.scan_seconds = Histogram(
            "dropgate_volume_scan_seconds", "Seconds per look.", buckets=LATENCIES, registry=registry
        )
        self.scanned = Gauge(
            "dropgate_volume_last_scan_timestamp_seconds", "When the volume was last looked at.", registry=registry
        )
        self.rebuilds = Counter(
            "dropgate_watcher_rebuilds", "Times that watchdog was found deaf and rebuilt.", registry=registry
        )
        self.deafness = Gauge(
            "dropgate_watcher_deaf", "1 while watchdog hears nothing and the timer stands in for it.", registry=registry
        )
        self.unreadable = Counter(
            "dropgate_volume_unreadable", "Times that the volume could not be read.", registry=registry
        )
        self.audit_lost = Counter(
            "dropgate_audit_lines_lost", "Lines of the audit log that the disk did not take.", registry=registry
        )
        self.log_lost = Gauge(
            "dropgate_log_lines_lost", "Lines of the log that could not be written when they were due.",
            registry=registry,
        )  # fmt: skip
        self.knowledge_bytes = Gauge(
            "dropgate_knowledge_memory_bytes", "Bytes of knowledge bases in the gateway's memory.", registry=registry
        )
        for code in COUNTED:
            self.errors.labels(code)
        for code in FAILURES:
            self.load_failures.labels(code)
        self._answers: dict[tuple[str, str, int], Counter] = {}
        self._routes: dict[str, Histogram] = {}
        self._models: dict[str, tuple[Counter, Counter, Histogram]] = {}
        self._older = {"total_requests": 0, "total_texts": 0}
        self._latency_sum = 0.0
        self._latency_max = 0.0

    def text(self) -> bytes:
        """The exposition format of Prometheus."""
        return generate_latest(self.registry)

    def older(self) -> dict[str, float]:
        """The JSON of an older system, over embedding requests; times in milliseconds."""
        count = self._older["total_requests"]
        return {
            **self._older,
            "avg_latency_ms": 1000 * self._latency_sum / count if count else 0.0,
            "max_latency_ms": 1000 * self._latency_max,
        }

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.RequestFinished():
                self._request(event)
            case events.DeviceCall():
                self.batch_texts.labels(event.device).observe(event.texts)
                self.batch_tokens.labels(event.device).observe(event.tokens)
                self.padding.labels(event.device).inc(event.padded_tokens - event.tokens)
                self.busy.labels(event.device).inc(event.seconds)
            case events.GenerationLoaded():
                self.loads.labels(event.device).observe(event.seconds)
                self.returns.labels(event.device).inc(event.returned)
            case events.GenerationUnloaded():
                self.unloads.labels(event.why).inc()
                if event.why == "evicted":
                    self.eviction_age.observe(event.idle_seconds)
            case events.LoadFailed():
                self.load_failures.labels(event.code).inc()
            case events.GenerationQuarantined():
                self.quarantines.inc()
            case events.HostExited():
                self.exits.labels(event.device).inc()
            case _:
                self._volume(event)

    def _volume(self, event: events.Event) -> None:
        match event:
            case events.ModelAccepted():
                self.accepted.inc()
            case events.ModelRejected():
                for reason in event.reasons:
                    self.rejected.labels(reason.code).inc()
            case events.ModelSwapped():
                self.swaps.inc()
            case events.ModelRolledBack():
                self.rollbacks.inc()
            case events.AliasesChanged():
                for alias in event.removed:
                    self.canary.remove_by_labels({"alias": alias})
                    self.canary_seconds.remove_by_labels({"alias": alias})
            case events.ModelRemoved():
                self._models.pop(event.model, None)
                for metric in (self.texts, self.tokens, self.wait, self.said, self.first_token):
                    metric.remove_by_labels({"model": event.model})
            case events.ModelPulled():
                self.pulls.labels("ok").inc()
            case events.PullFailed():
                self.pulls.labels(event.code).inc()
            case _:
                self._looking(event)

    def _looking(self, event: events.Event) -> None:
        match event:
            case events.VolumeScanned():
                self.scans.labels(event.why).inc()
                self.scan_seconds.observe(event.seconds)
                self.scanned.set_to_current_time()
            case events.VolumeUnreadable():
                self.unreadable.inc()
            case events.WatcherRebuilt():
                self.rebuilds.inc()
                self.deafness.set(0)
            case events.WatcherDeaf():
                self.deafness.set(1)
            case events.AuditLost():
                self.audit_lost.inc(event.lines)

    def _request(self, event: events.RequestFinished) -> None:
        self._answer(event.route, event.method, event.status).inc()
        self._route(event.route).observe(event.seconds)
        if event.code:
            self.errors.labels(event.code).inc()
        if event.alias and event.arm:
            self.canary.labels(event.alias, event.arm, str(event.status)).inc()
            self.canary_seconds.labels(event.alias, event.arm).observe(event.seconds)
        if event.model and event.said_tokens is not None:
            self._spoken(event.model, event.said_tokens, event.first_token_seconds)
        elif event.texts and event.model and event.status == 200:
            texts, tokens, wait = self._model(event.model)
            texts.inc(event.texts)
            tokens.inc(event.tokens)
            wait.observe(event.queue_seconds)
            self._older["total_requests"] += 1
            self._older["total_texts"] += event.texts
            self._latency_sum += event.seconds
            self._latency_max = max(self._latency_max, event.seconds)

    def _spoken(self, model: str, tokens: int, first: float | None) -> None:
        """Also what was said to somebody who has left."""
        self.said.labels(model).inc(tokens)
        if first is not None:
            self.first_token.labels(model).observe(first)

    # Looking a series up by its labels costs as much as all else that a request is counted with.

    def _answer(self, route: str, method: str, status: int) -> Counter:
        found = self._answers.get((route, method, status))
        if found is None:
            found = self._answers[route, method, status] = self.requests.labels(route, method, str(status))
        return found

    def _route(self, route: str) -> Histogram:
        found = self._routes.get(route)
        if found is None:
            found = self._routes[route] = self.seconds.labels(route)
        return found

    def _model(self, model: str) -> tuple[Counter, Counter, Histogram]:
        found = self._models.get(model)
        if found is None:
            series = self.texts.labels(model), self.tokens.labels(model), self.wait.labels(model)
            found = self._models[model] = series
        return found
