"""Spans: what happened to a run, in the process where it happened. All do nothing until
``services.traces.setup`` turns tracing on.

A run lives for hours, so its trace is stored with it (``traceparent``, W3C Trace Context) and goes
from process to process in rows and in the headers of messages. A process goes on with it:

    with continued(row.traceparent), span("publish", run_id=row.run_id) as publishing:
        ...
        publishing.note(code="hub_forbidden")

Only ``request_span`` begins a trace; any other span is part of one, or nothing.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final, Literal, Protocol, TypedDict, Unpack

import structlog

Kind = Literal["internal", "producer", "consumer"]


class Facts(TypedDict, total=False):
    """Everything that a span may say. It is a closed list, because what is sent leaves the service:
    ids, stages, codes and counts, but no names, texts, addresses or values of tenants."""

    request_id: str
    tenant_id: str
    run_id: str
    publication_id: str
    worker_id: str
    fence: int
    step: int
    stage: str
    size_bytes: int
    pid: int
    attempts: int
    status_code: int
    """Of the HTTP response."""
    code: str
    """Of a failure."""
    outcome: str
    """How it ended."""


class Span(Protocol):
    """Something that is being done."""

    @property
    def traceparent(self) -> str | None:
        """What a message or a row carries, so that others go on from here; None: no trace."""

    @property
    def trace_id(self) -> str | None:
        """32 hex digits, as in log lines; None: no trace."""

    def note(self, **facts: Unpack[Facts]) -> None:
        """Add what is known only now."""


class Tracer(Protocol):
    """Makes spans; ``services.traces.sending`` implements it with OpenTelemetry."""

    def root(
        self, name: str, client_traceparent: str | None, facts: Facts
    ) -> AbstractContextManager[Span]: ...
    def part(self, name: str, kind: Kind, facts: Facts) -> AbstractContextManager[Span]: ...
    def record(
        self, name: str, started_s: float, ended_s: float, facts: Facts, *, of_child: bool
    ) -> None: ...
    def following(self, traceparent: str) -> AbstractContextManager[str | None]: ...
    def current(self) -> str | None: ...


class _NoSpan:
    traceparent = None
    trace_id = None

    def note(self, **facts: Unpack[Facts]) -> None:
        pass


_NO_SPAN: Final = _NoSpan()


class _State:
    tracer: Tracer | None = None
    """None: tracing is off."""


def use(tracer: Tracer | None) -> None:
    """From now on spans of this process are made by this tracer; None: there are none."""
    _State.tracer = tracer


@contextmanager
def request_span(
    name: str, *, client_traceparent: str | None, **facts: Unpack[Facts]
) -> Iterator[Span]:
    """Begin a trace with a request to the service.

    Args:
        client_traceparent: as the client sent it. The trace only links to it: a client decides
            neither whether this trace is sent, nor to which one it belongs.
    """
    tracer = _State.tracer
    if tracer is None:
        yield _NO_SPAN
        return
    with tracer.root(name, client_traceparent, facts) as made, _logged(made.trace_id):
        yield made


def span(
    name: str, *, kind: Kind = "internal", **facts: Unpack[Facts]
) -> AbstractContextManager[Span]:
    """A span for as long as the block runs; nothing where there is no trace to be part of.

    Spans within the block are its children. An error that leaves the block is named by its class.
    """
    tracer = _State.tracer
    return nullcontext(_NO_SPAN) if tracer is None else tracer.part(name, kind, facts)


def record_span(
    name: str,
    *,
    started_s: float,
    ended_s: float,
    of_child: bool = False,
    **facts: Unpack[Facts],
) -> None:
    """A span of what is over; nothing where there is no trace to be part of.

    Args:
        started_s: Unix time.
        ended_s: the same.
        of_child: it was done by a child of this process, which sends no spans itself.
    """
    if _State.tracer is not None:
        _State.tracer.record(name, started_s, ended_s, facts, of_child=of_child)


@contextmanager
def continued(traceparent: str | None) -> Iterator[None]:
    """Go on with a trace that another process began; without one, or with no valid one, nothing."""
    tracer = _State.tracer
    if tracer is None or traceparent is None:
        yield
        return
    with tracer.following(traceparent) as trace_id, _logged(trace_id):
        yield


def current_traceparent() -> str | None:
    """What a row carries, so that others go on from here; None: no trace."""
    return None if _State.tracer is None else _State.tracer.current()


def _logged(trace_id: str | None) -> AbstractContextManager[object]:
    """Have log lines name the trace."""
    if trace_id is None:
        return nullcontext()
    return structlog.contextvars.bound_contextvars(trace_id=trace_id)
