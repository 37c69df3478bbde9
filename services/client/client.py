"""The service as Python calls. Every call is idempotent and retried where that helps."""

from collections.abc import Iterator
from types import TracebackType
from typing import Self, TypeVar

from services.client.call import Call, StreamCall
from services.client.methods import Calls
from services.client.retry import Retry
from services.client.stream import stream
from services.client.transport import Transport

T = TypeVar("T")


class Client(Calls):
    """The service for a tenant, or an operator; a context manager that closes its connections.

    Every method raises ProblemError where the service refuses the request, and
    ServiceUnreachableError where it does not answer. ``AsyncClient`` has the same ones.
    """

    def __init__(self, url: str, api_key: str, *, retry: Retry | None = None) -> None:
        self._transport = Transport(url, api_key, retry or Retry())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Without a slash at its end."""
        return self._transport.url

    @property
    def retry(self) -> Retry:
        return self._transport.retry

    def close(self) -> None:
        self._transport.http.close()

    def send(self, call: Call[T]) -> T:
        """What the service answers to a call; the methods describe and send them."""
        return self._transport.send(call)

    def receive(self, call: StreamCall[T]) -> Iterator[T]:
        """What a stream brings, item by item."""
        return stream(self._transport, call)
