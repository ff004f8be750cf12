"""Spans of requests, for whoever collects them by OTLP over HTTP (https://opentelemetry.io/docs/specs/otlp).

An extra: nothing of OpenTelemetry is imported unless an endpoint is set. What it reads by itself are its own variables
(`OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`, `OTEL_EXPORTER_OTLP_HEADERS`, ...). Spans are sent by a thread of its own;
no request waits for the collector, and one that is away costs spans and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from gateway import __version__, events
from gateway.lane import Lane
from gateway.settings import SettingsError

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.trace import Span

PATH: Final = "/v1/traces"
SECONDS: Final = 3.0  # in which a batch must have been taken; a stop waits for two at most
SHOWN: Final = (
    *("tenant", "model", "generation", "alias", "arm", "texts", "tokens"),
    *("said_tokens", "first_token_seconds", "load_seconds", "queue_seconds", "compute_seconds", "code"),
)  # of the request's log line, under the same names
OUTGOING: Final[ContextVar[str]] = ContextVar("traceparent", default="")  # what servers that we ask belong to


class Tracer:
    """One span for each request. Raises SettingsError where the extra is not installed."""

    def __init__(self, endpoint: str, tell: events.Events) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415  # extra
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415  # an extra
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415  # an extra
            from opentelemetry.trace.propagation import tracecontext  # noqa: PLC0415  # an extra
        except ImportError as error:
            message = f"--otlp-endpoint {endpoint}: {error.name} is not installed; pip install 'dropgate[otel]'"
            raise SettingsError(message) from error
        self._lane = Lane("traces")
        self._loop = asyncio.get_running_loop()
        self._events = tell
        self._outcome = Outcome(endpoint, self._trouble)
        exporter = self._outcome.of(OTLPSpanExporter)(endpoint=endpoint + PATH, timeout=SECONDS)
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("dropgate", __version__)
        self._context = tracecontext.TraceContextTextMapPropagator()

    def begin(self, method: str, route: str, headers: Mapping[str, str]) -> Span:
        """Belongs to the `traceparent` of the headers, if that is one."""
        from opentelemetry.trace import SpanKind  # noqa: PLC0415  # an extra

        return self._tracer.start_span(
            f"{method} {route}",
            context=self._context.extract(headers),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method, "http.route": route},
        )

    def end(self, span: Span, status: int, request_id: str, line: Mapping[str, Any]) -> None:
        """`line` is the request's of the log."""
        from opentelemetry.trace import StatusCode  # noqa: PLC0415  # an extra

        if span.is_recording():
            shown = {f"dropgate.{name}": line[name] for name in SHOWN if line.get(name) is not None}
            span.set_attributes({"http.response.status_code": status, "dropgate.request_id": request_id, **shown})
            if status >= 500:
                span.set_attribute("error.type", line.get("code") or str(status))
                span.set_status(StatusCode.ERROR)
        span.end()

    async def close(self) -> None:
        """Sends what has not been sent, unless nobody takes it."""
        self._outcome.closing = True
        await self._lane.run(self._provider.shutdown)
        self._lane.close()

    def _trouble(self, message: str) -> None:
        """Called on the thread that sends; the loop may have gone."""
        try:
            self._loop.call_soon_threadsafe(
                lambda: self._events.emit(events.Notice(code="traces_not_sent", message=message))
            )
        except RuntimeError:
            return


class Outcome(logging.Handler):
    """How sending goes: told once when it begins to fail. OpenTelemetry itself would log each try, on our stderr."""

    def __init__(self, endpoint: str, tell: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self.closing = False
        self._endpoint = endpoint
        self._tell = tell
        self._failing = False
        self._why = ""
        logger = logging.getLogger("opentelemetry")
        logger.propagate = False
        logger.handlers = [self]

    def emit(self, record: logging.LogRecord) -> None:
        self._why = " ".join(record.getMessage().split())

    def of(self, exporter: type[Any]) -> type[Any]:
        """The exporter, which says how each batch went, and gives up when nobody listens and time is short."""
        from opentelemetry.sdk.trace.export import SpanExportResult  # noqa: PLC0415  # an extra

        outcome = self

        class Told(exporter):  # type: ignore[misc]  # a class that is known only where the extra is
            def export(self, spans: Any) -> Any:
                if outcome.closing and outcome._failing:
                    return SpanExportResult.FAILURE
                result = super().export(spans)
                outcome.went(result is SpanExportResult.SUCCESS)
                return result

        return Told

    def went(self, well: bool) -> None:
        if not well and not self._failing:
            self._tell(f"{self._endpoint} does not take spans; until it does they are dropped: {self._why}")
        self._failing = not well


def traceparent(span: Span) -> str:
    """Of what belongs to the span; https://www.w3.org/TR/trace-context."""
    found = span.get_span_context()
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}" if found.is_valid else ""


def _resource() -> Resource:
    """Who we are, unless the environment says it."""
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415  # an extra

    found = Resource.create()
    if str(found.attributes.get("service.name", "")).startswith("unknown_service"):
        found = found.merge(Resource({"service.name": "dropgate"}))
    return found.merge(Resource({"service.version": __version__}))
