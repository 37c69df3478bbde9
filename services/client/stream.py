"""Server-sent events over as many connections as it takes. Source: WHATWG HTML, section 9.2."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Final, Generic, TypeVar

import httpx

from services.client.call import StreamCall
from services.client.errors import ClientError
from services.client.retry import Retry, Tries
from services.client.transport import AsyncTransport, Transport

T = TypeVar("T")

_SILENCE_S: Final = 60.0
"""The service sends at least a comment more often; a longer silence is a dead connection."""
_TIMEOUT: Final = httpx.Timeout(30.0, connect=10.0, read=_SILENCE_S)
_RECONNECT: Final = Retry(tries=1, first_wait_s=0.1, limit_s=5.0)
"""Between connections that ended normally: a pause that grows while they bring no event."""


class Reception(Generic[T]):
    """What a stream remembers between lines and between connections."""

    def __init__(self, call: StreamCall[T], tries: Tries) -> None:
        self._call = call
        self._tries = tries
        self._last_id = call.after
        self._wait_s = 0.0
        self._idle = 0
        """Connections in a row that were made and brought no event."""
        self._id: int | None = None
        self._data: list[str] = []

    def headers(self) -> dict[str, str]:
        """Of the next connection."""
        return {"Accept": "text/event-stream", "Last-Event-ID": str(self._last_id)}

    def begin(self, answer: httpx.Response) -> None:
        """A connection is made. Raises ClientError where it brings no events."""
        kind = answer.headers.get("Content-Type", "")
        if not kind.startswith("text/event-stream"):
            raise ClientError(
                f"the service answered {kind or 'nothing'} instead of a stream of events"
            )
        self._tries.failed = 0
        self._idle += 1
        self._id, self._data = None, []
        self._wait_s = _RECONNECT.wait_s(self._idle, None)

    def feed(self, line: str) -> T | None:
        """The item that this line completes, unless it came before."""
        name, _, value = line.partition(":")
        if name == "id":
            self._id = int(value)
        elif name == "data":
            self._data.append(value.removeprefix(" "))
        if line or not self._data:
            return None
        id_, data = self._id, "\n".join(self._data)
        self._id, self._data = None, []
        if id_ is None or id_ <= self._last_id:
            return None
        self._last_id, self._idle, self._wait_s = id_, 0, 0.0
        return self._call.read(json.loads(data))

    def refused(self, answer: httpx.Response) -> None:
        """Count a refusal, whose body was read; raises it where another try would not help."""
        self._wait_s = self._tries.after_refusal(answer)

    def failed(self, error: httpx.TransportError | httpx.StreamError) -> None:
        """Count a connection that broke; raises ServiceUnreachableError after too many."""
        self._wait_s = self._tries.after_error(error)

    def pause_s(self) -> float:
        """Seconds before the next connection."""
        return self._wait_s


def stream(transport: Transport, call: StreamCall[T]) -> Iterator[T]:
    """Each item once and in order, until the service says that no more follow.

    Raises ProblemError or ServiceUnreachableError after as many failed connections in a row as the
    transport allows.
    """
    reception = Reception(call, Tries(transport.retry, transport.url))
    while True:
        try:
            with transport.http.stream(
                "GET", call.path, headers=reception.headers(), timeout=_TIMEOUT
            ) as answer:
                if answer.status_code == httpx.codes.NO_CONTENT:
                    return
                if answer.is_success:
                    reception.begin(answer)
                    for line in answer.iter_lines():
                        if (item := reception.feed(line)) is not None:
                            yield item
                else:
                    answer.read()
                    reception.refused(answer)
        except (httpx.TransportError, httpx.StreamError) as error:
            reception.failed(error)
        time.sleep(reception.pause_s())


async def stream_async(transport: AsyncTransport, call: StreamCall[T]) -> AsyncIterator[T]:
    """As ``stream``, for asyncio."""
    reception = Reception(call, Tries(transport.retry, transport.url))
    while True:
        try:
            async with transport.http.stream(
                "GET", call.path, headers=reception.headers(), timeout=_TIMEOUT
            ) as answer:
                if answer.status_code == httpx.codes.NO_CONTENT:
                    return
                if answer.is_success:
                    reception.begin(answer)
                    async for line in answer.aiter_lines():
                        if (item := reception.feed(line)) is not None:
                            yield item
                else:
                    await answer.aread()
                    reception.refused(answer)
        except (httpx.TransportError, httpx.StreamError) as error:
            reception.failed(error)
        await asyncio.sleep(reception.pause_s())
