"""An OTLP receiver over HTTP: it decodes what is sent to it, or misbehaves as a test asks."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

Value = str | int


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceivedSpan:
    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    """Empty where it is the root."""
    links: tuple[str, ...]
    """Trace ids."""
    facts: dict[str, Value]
    is_error: bool
    started_ns: int
    ended_ns: int


@dataclass(slots=True)
class Receiver:
    """What came, by the address that it came to."""

    url: str = ""
    spans: list[ReceivedSpan] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: set[str] = field(default_factory=set)
    num_requests: int = 0
    status: int = 200
    goes_on: threading.Event = field(default_factory=threading.Event)
    """Requests hang while it is cleared."""

    def of_trace(self, trace_id: str) -> list[ReceivedSpan]:
        return [each for each in tuple(self.spans) if each.trace_id == trace_id]

    def named(self, name: str) -> list[ReceivedSpan]:
        return [each for each in tuple(self.spans) if each.name == name]

    def take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        if headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.bodies.append(body)
        self.headers.append(headers)
        self.paths.add(path)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            of = {each.key: each.value.string_value for each in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [
                    ReceivedSpan(
                        service=of["service.name"],
                        name=each.name,
                        trace_id=each.trace_id.hex(),
                        span_id=each.span_id.hex(),
                        parent_id=each.parent_span_id.hex(),
                        links=tuple(link.trace_id.hex() for link in each.links),
                        facts={
                            fact.key: fact.value.string_value or fact.value.int_value
                            for fact in each.attributes
                        },
                        is_error=each.status.code == each.status.STATUS_CODE_ERROR,
                        started_ns=each.start_time_unix_nano,
                        ended_ns=each.end_time_unix_nano,
                    )
                    for each in scope.spans
                ]


@contextmanager
def otlp_receiver() -> Iterator[Receiver]:
    """A receiver on a free port, in threads of this process."""
    receiver = Receiver()
    receiver.goes_on.set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.num_requests += 1
            receiver.goes_on.wait(60)
            if receiver.status == 200:
                names = {name.lower(): value for name, value in self.headers.items()}
                receiver.take(self.path, names, body)
            reply = ExportTraceServiceResponse().SerializeToString()
            self.send_response(receiver.status)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            with suppress(ConnectionError):  # the sender gave up
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.goes_on.set()
        server.shutdown()
        server.server_close()
        thread.join()
