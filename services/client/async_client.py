"""The client for asyncio: the same calls, awaited."""

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self, TypeVar

from services.client.call import Call, StreamCall
from services.client.methods import Calls
from services.client.retry import Retry
from services.client.stream import stream_async
from services.client.transport import AsyncTransport

T = TypeVar("T")


class AsyncClient(Calls):
    """As ``Client``; an asynchronous context manager that closes its connections."""

    def __init__(self, url: str, api_key: str, *, retry: Retry | None = None) -> None:
        self._transport = AsyncTransport(url, api_key, retry or Retry())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._transport.http.aclose()

    async def send(self, call: Call[T]) -> T:
        """What the service answers to a call; the methods describe and send them."""
        return await self._transport.send(call)

    def receive(self, call: StreamCall[T]) -> AsyncIterator[T]:
        """What a stream brings, item by item."""
        return stream_async(self._transport, call)
