"""Spans as OpenTelemetry makes and sends them: the only module that imports it.

The provider is not OpenTelemetry's global one: libraries that find a global one trace by
themselves. FastAPI would then follow the clients' traces and send the queries of their requests.
"""

import atexit
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, Final, cast

import structlog
from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from services.metrics.tracing import spans as counted
from services.traces.spans import Facts, Kind

log = structlog.get_logger(__name__)

MOST_WAITING: Final = 2048
"""Spans that wait to be sent, a few MiB; those that come then are dropped and counted."""
BATCH: Final = 256
_SEND_EVERY_S: Final = 1.0
_TIMEOUT_S: Final = 5.0
"""For one batch with its retries; then it is dropped."""
_FLUSH_S: Final = 2.0
_COMPLAIN_EVERY_S: Final = 60.0

_KINDS: Final[Mapping[Kind, SpanKind]] = {
    "internal": SpanKind.INTERNAL,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}
_ATTRIBUTES: Final = {"status_code": "http.response.status_code", "code": "error.type"}
"""Names by OpenTelemetry's conventions; the others are ours."""
_FORMAT: Final = TraceContextTextMapPropagator()
_HEADER: Final = "traceparent"


def open_tracer(service: str, endpoint: str) -> "OtlpTracer":
    """A tracer that sends until the process ends.

    The OTEL_* variables of the exporter, the sampler and the resource attributes hold as
    OpenTelemetry documents them.
    """
    # Its own lines would name the endpoint, with whatever it holds, and come at each batch.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=_TIMEOUT_S)
    queue = _BoundedQueue(exporter)
    tracer = OtlpTracer(queue, service)
    atexit.register(tracer.close)
    return tracer


def _tracer(queue: "_BoundedQueue", service: str) -> trace.Tracer:
    """Resource detectors are left out: one of them reports the command line."""
    own = Resource(
        {
            "service.namespace": "reverie",
            "service.name": f"reverie-{service}",
            "service.version": version("reverie"),
        }
    )
    provider = TracerProvider(
        resource=OTELResourceDetector().detect().merge(own), shutdown_on_exit=False
    )
    provider.add_span_processor(queue)
    return provider.get_tracer("reverie")


class OtlpTracer:
    """Implements ``services.traces.spans.Tracer``."""

    def __init__(self, queue: "_BoundedQueue", service: str) -> None:
        self._queue = queue
        self._own = _tracer(queue, service)
        self._of_child = _tracer(queue, f"{service}-child")

    def close(self) -> None:
        """Send what is left, for 2 s at most; spans that end later are lost."""
        self._queue.end()

    @contextmanager
    def root(
        self, name: str, client_traceparent: str | None, facts: Facts
    ) -> "Iterator[_OtlpSpan]":
        client = trace.get_current_span(_context_of(client_traceparent)).get_span_context()
        links = [trace.Link(client)] if client.is_valid else []
        with self._own.start_as_current_span(
            name,
            context=contexts.Context(),
            kind=SpanKind.SERVER,
            attributes=_attributes(facts),
            links=links,
            record_exception=False,
            set_status_on_exception=False,
        ) as made:
            yield _OtlpSpan(made)

    @contextmanager
    def part(self, name: str, kind: Kind, facts: Facts) -> "Iterator[_OtlpSpan]":
        current = trace.get_current_span()
        if not current.get_span_context().is_valid:
            yield _OtlpSpan(current)
            return
        with (
            self._own.start_as_current_span(
                name,
                kind=_KINDS[kind],
                attributes=_attributes(facts),
                record_exception=False,  # its message and its stack may say anything
                set_status_on_exception=False,
            ) as made,
            _named_errors(made),
        ):
            yield _OtlpSpan(made)

    def record(
        self, name: str, started_s: float, ended_s: float, facts: Facts, *, of_child: bool
    ) -> None:
        tracer = self._of_child if of_child else self._own
        if trace.get_current_span().get_span_context().is_valid:
            made = tracer.start_span(name, attributes=_attributes(facts), start_time=_ns(started_s))
            made.end(_ns(ended_s))

    @contextmanager
    def following(self, traceparent: str) -> Iterator[str | None]:
        context = _context_of(traceparent)
        token = contexts.attach(context)
        try:
            yield _OtlpSpan(trace.get_current_span(context)).trace_id
        finally:
            contexts.detach(token)

    def current(self) -> str | None:
        return _OtlpSpan(trace.get_current_span()).traceparent


class _OtlpSpan:
    """Implements ``services.traces.spans.Span``."""

    def __init__(self, made: trace.Span) -> None:
        self._made = made

    @property
    def traceparent(self) -> str | None:
        carrier: dict[str, str] = {}
        _FORMAT.inject(carrier, trace.set_span_in_context(self._made, contexts.Context()))
        return carrier.get(_HEADER)

    @property
    def trace_id(self) -> str | None:
        found = self._made.get_span_context()
        return trace.format_trace_id(found.trace_id) if found.is_valid else None

    def note(self, **facts: Any) -> None:
        self._made.set_attributes(_attributes(cast(Facts, facts)))


def _context_of(traceparent: str | None) -> contexts.Context:
    """A context in which the span that it names is the current one; an empty one for no such."""
    carrier = {} if traceparent is None else {_HEADER: traceparent}
    return _FORMAT.extract(carrier, contexts.Context())


@contextmanager
def _named_errors(made: trace.Span) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        made.set_attribute(_ATTRIBUTES["code"], type(error).__name__)  # its message may be private
        made.set_status(Status(StatusCode.ERROR))
        raise


def _attributes(facts: Facts) -> dict[str, str | int]:
    found = cast(dict[str, str | int], facts)
    return {_ATTRIBUTES.get(name, f"reverie.{name}"): value for name, value in found.items()}


def _ns(time_s: float) -> int:
    return int(time_s * 1e9)


class _BoundedQueue(BatchSpanProcessor):
    """Sends spans from a thread; drops and counts those for which there is no place."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._places = threading.Semaphore(MOST_WAITING)
        super().__init__(
            _CountingExporter(exporter, self._places),
            max_queue_size=MOST_WAITING,
            max_export_batch_size=BATCH,
            schedule_delay_millis=_SEND_EVERY_S * 1000,
        )

    def on_end(self, span: ReadableSpan) -> None:
        if not (span.context and span.context.trace_flags.sampled):
            return
        if self._places.acquire(blocking=False):
            super().on_end(span)
        else:
            counted.labels(outcome="dropped").inc()

    def end(self) -> None:
        """As ``close``; the library itself would wait for 30 s."""
        last = threading.Thread(target=self.shutdown, name="spans-flush", daemon=True)
        last.start()
        last.join(_FLUSH_S)


class _CountingExporter(SpanExporter):
    def __init__(self, exporter: SpanExporter, places: threading.Semaphore) -> None:
        self._exporter = exporter
        self._places = places
        self._complained_s: float | None = None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        self._places.release(len(spans))
        is_sent = result is SpanExportResult.SUCCESS
        counted.labels(outcome="sent" if is_sent else "failed").inc(len(spans))
        if not is_sent:
            self._complain()
        return result

    def _complain(self) -> None:
        now_s = time.monotonic()
        if self._complained_s is None or now_s - self._complained_s > _COMPLAIN_EVERY_S:
            self._complained_s = now_s
            log.warning("spans_not_sent", endpoint="REVERIE_OTLP_ENDPOINT")

    def shutdown(self) -> None:
        self._exporter.shutdown()
