"""Spans of a real gateway's requests, as a collector of our own receives them by OTLP over HTTP."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import pytest
import pytest_asyncio
from aiohttp import web

from gateway import events
from gateway.tracing import SHOWN
from tests import making
from tests.running import RunningGateway

pytestmark = pytest.mark.asyncio(loop_scope="module")
trace_service = pytest.importorskip(
    "opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason="needs the extra otel"
)

MODEL: Final = "finetuned/m"
TRACE: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT: Final = "00f067aa0ba902b7"
NEVER: Final = {"OTEL_BSP_SCHEDULE_DELAY": "3600000"}  # by itself, in an hour: it is the stop that sends


class Collector:
    """Takes spans, or refuses them; with the status 0 it never answers. `spans` are (resource, span)."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.spans: list[tuple[dict[str, Any], Any]] = []
        self.headers: list[dict[str, str]] = []

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/v1/traces", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        self.headers.append(dict(request.headers))
        if self.status == 0:
            await asyncio.Event().wait()
        if self.status == 200:
            taken = trace_service.ExportTraceServiceRequest.FromString(await request.read())
            for group in taken.resource_spans:
                resource = attributes(group.resource)
                self.spans += [(resource, span) for scope in group.scope_spans for span in scope.spans]
        return web.Response(status=self.status)

    def of(self, request_id: str) -> Any:
        """The span of that request."""
        (span,) = (span for _, span in self.spans if attributes(span)["dropgate.request_id"] == request_id)
        return span


def attributes(thing: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in thing.attributes}


class Traced:
    """A gateway that was asked some things and has stopped: what its collector has, and its log."""

    def __init__(self, collector: Collector, log: list[dict[str, Any]]) -> None:
        self.collector = collector
        self.lines = {line["request_id"]: line for line in log if line.get("event") == "request"}


async def ask(gateway: RunningGateway, request_id: str, model: str = MODEL, **headers: str) -> int:
    body = {"inputs": ["the beam of the ring"], "model": model}
    async with gateway.session.post("/embed", json=body, headers={"X-Request-Id": request_id, **headers}) as answer:
        await answer.read()
        return answer.status


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def traced(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Traced]:
    base = tmp_path_factory.mktemp("traced")
    making.encoder(base / "models" / MODEL)
    environment = {**NEVER, "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=watchers"}
    async with Collector() as collector:
        options = ("--device=cpu", "--compute-threads=1", f"--otlp-endpoint={collector.url}/", "--memory-budget=1GB")
        async with RunningGateway(base / "models", base / "state", *options, environment=environment) as gateway:
            await gateway.wait_for(f"huggingface:{MODEL}", "ready")
            assert await ask(gateway, "parented", traceparent=f"00-{TRACE}-{PARENT}-01") == 200
            assert await ask(gateway, "alone") == 200
            assert await ask(gateway, "unsampled", traceparent=f"00-{TRACE}-{PARENT}-00") == 200
            for number, wrong in enumerate(("", "x" * 999, f"00-{'0' * 32}-{PARENT}-01", f"ff-{TRACE}-{PARENT}-01")):
                assert await ask(gateway, f"malformed{number}", traceparent=wrong) == 200
            assert await ask(gateway, "missing", "finetuned/none") == 404
            await gateway.stop()
        yield Traced(collector, gateway.log)


async def test_a_request_is_a_span_of_the_trace_that_its_client_names(traced: Traced) -> None:
    span = traced.collector.of("parented")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert (span.name, span.kind) == ("POST /embed", span.SPAN_KIND_SERVER)


async def test_a_span_says_what_the_log_says_and_each_leads_to_the_other(traced: Traced) -> None:
    span, line = traced.collector.of("parented"), traced.lines["parented"]
    found = attributes(span)
    assert found["http.response.status_code"] == line["status"] == 200
    assert (found["http.request.method"], found["http.route"]) == ("POST", "/embed")
    for name in ("model", "generation", "texts", "tokens", "load_seconds", "queue_seconds", "compute_seconds"):
        assert found[f"dropgate.{name}"] == line[name], name
    assert line["trace_id"] == TRACE
    assert 0 < line["load_seconds"] <= line["queue_seconds"]  # the first request loads
    assert found["dropgate.compute_seconds"] > 0
    seconds = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
    assert seconds >= line["queue_seconds"] + line["compute_seconds"]
    assert "the beam of the ring" not in str(traced.collector.spans)


async def test_no_fact_of_the_log_line_is_forgotten() -> None:
    told = {"request_id", "method", "route", "status"}  # under the names that OpenTelemetry has for them
    left_out = {"seconds", "key", "trace_id", "traceback"}  # the span's own; who asks is told by the tenant
    assert {*SHOWN, *told, *left_out} == {field.name for field in msgspec.structs.fields(events.RequestFinished)}


@pytest.mark.parametrize("request_id", ["alone", *(f"malformed{number}" for number in range(4))])
async def test_without_a_good_traceparent_a_trace_begins(traced: Traced, request_id: str) -> None:
    span = traced.collector.of(request_id)
    assert not span.parent_span_id
    assert re.fullmatch("[0-9a-f]{32}", span.trace_id.hex())
    assert span.trace_id.hex() not in {TRACE, "0" * 32}
    assert traced.lines[request_id]["trace_id"] == span.trace_id.hex()


async def test_a_trace_that_is_not_sampled_is_not_sent_and_is_logged(traced: Traced) -> None:
    assert "unsampled" not in {attributes(span)["dropgate.request_id"] for _, span in traced.collector.spans}
    assert traced.lines["unsampled"]["trace_id"] == TRACE


async def test_a_refusal_has_its_code_and_is_no_fault_of_the_server(traced: Traced) -> None:
    span = traced.collector.of("missing")
    assert attributes(span)["dropgate.code"] == "model_not_found"
    assert span.status.code == span.status.STATUS_CODE_UNSET


async def test_probes_are_not_traced(traced: Traced) -> None:
    assert {attributes(span)["http.route"] for _, span in traced.collector.spans} == {"/embed", "/models"}


async def test_the_resource_is_ours_and_the_variables_of_opentelemetry_count(traced: Traced) -> None:
    assert {resource["service.name"] for resource, _ in traced.collector.spans} == {"dropgate"}
    assert all(resource["service.version"] for resource, _ in traced.collector.spans)
    assert {headers["x-tenant"] for headers in traced.collector.headers} == {"watchers"}


@pytest.mark.parametrize("how", ["away", "refuses", "hangs"])
async def test_a_collector_that_takes_nothing_costs_spans_and_is_told_once(tmp_path: Path, how: str) -> None:
    making.encoder(tmp_path / "models" / MODEL)
    often = {"OTEL_BSP_SCHEDULE_DELAY": "50"}
    async with Collector(status=0 if how == "hangs" else 400) as collector:
        url = "http://127.0.0.1:9" if how == "away" else collector.url
        options = ("--device=cpu", "--compute-threads=1")
        named = {**often, "OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_SERVICE_NAME": "mine"}
        async with RunningGateway(tmp_path / "models", tmp_path / "state", *options, environment=named) as gateway:
            await gateway.wait_for(f"huggingface:{MODEL}", "ready")
            assert await ask(gateway, "first") == 200
            told = await gateway.wait_for_log("notice", code="traces_not_sent")
            assert url in told["message"]
            for number in range(3):
                assert await ask(gateway, f"more{number}") == 200
            await gateway.stop()
        assert [line["code"] for line in gateway.log if line.get("event") == "notice"] == ["traces_not_sent"]
        assert [line for line in gateway.log if "event" not in line] == []  # nothing else writes on standard error


def python(program: str) -> str:
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return ran.stdout + ran.stderr


async def test_nothing_of_opentelemetry_is_imported_unless_it_is_asked_for() -> None:
    found = await asyncio.to_thread(
        python, "import sys, gateway.cli, gateway.life; print('opentelemetry' in sys.modules)"
    )
    assert found == "False\n"


async def test_without_the_extra_the_operator_is_told_what_to_install(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from gateway import cli\n"
        f"sys.exit(cli.main(['serve', '--models-dir={tmp_path}/models', '--state-dir={tmp_path}/state', '--port=0',"
        " '--otlp-endpoint=http://127.0.0.1:9']))"
    )
    found = await asyncio.to_thread(python, program)
    assert "pip install 'dropgate[otel]'" in found
    assert "--otlp-endpoint" in found
    assert "Traceback" not in found
