"""Server-sent events over as many connections as it takes. Source: WHATWG HTML, section 9.2."""

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import httpx

from services.client.errors import ClientError
from services.client.retry import Retry, is_worth_retrying
from services.client.shapes import Event
from services.client.transport import Transport, problem_of

_SILENCE_S: Final = 60.0
"""The service sends at least a comment more often; a longer silence is a dead connection."""
_TIMEOUT: Final = httpx.Timeout(30.0, connect=10.0, read=_SILENCE_S)
_RECONNECT: Final = Retry(tries=1, first_wait_s=0.1, limit_s=5.0)
"""Between connections that ended normally: a pause that grows while they bring no event."""


@dataclass(slots=True)
class _Progress:
    """What the stream remembers between connections."""

    last_id: int
    failed: int = 0
    """Connections in a row that were refused or could not be made."""
    idle: int = 0
    """Connections in a row that were made and brought no event."""


def stream(transport: Transport, path: str, after: int) -> Iterator[Event]:
    """Events after ``after``, once each and in order, until the service says that no more follow.

    Raises ProblemError or ServiceUnreachableError after as many failed connections in a row as the
    transport allows.
    """
    progress = _Progress(last_id=after)
    while True:
        before, retry_after = progress.last_id, None
        try:
            headers = {"Accept": "text/event-stream", "Last-Event-ID": str(progress.last_id)}
            with transport.http.stream("GET", path, headers=headers, timeout=_TIMEOUT) as answer:
                if answer.status_code == httpx.codes.NO_CONTENT:
                    return
                if answer.is_success:
                    progress.failed = 0
                    yield from _fresh(answer, progress)
                else:
                    retry_after = _check_refusal(answer, progress, transport.retry)
        except (httpx.TransportError, httpx.StreamError) as error:
            progress.failed += 1
            if progress.failed >= transport.retry.tries:
                raise transport.unreachable(error) from error
        progress.idle = 0 if progress.last_id > before else progress.idle + 1
        if progress.failed:
            time.sleep(transport.retry.wait_s(progress.failed, retry_after))
        elif progress.idle:
            time.sleep(_RECONNECT.wait_s(progress.idle, None))


def _fresh(answer: httpx.Response, progress: _Progress) -> Iterator[Event]:
    """The events of one connection, without those that came before."""
    kind = answer.headers.get("Content-Type", "")
    if not kind.startswith("text/event-stream"):
        raise ClientError(f"the service answered {kind or 'nothing'} instead of a stream of events")
    for text in messages(answer.iter_lines()):
        event = Event.of_json(json.loads(text))
        if event.id > progress.last_id:
            progress.last_id = event.id
            yield event


def _check_refusal(answer: httpx.Response, progress: _Progress, retry: Retry) -> str | None:
    """Count a refusal, or raise it where another try would not help; returns Retry-After."""
    answer.read()
    problem = problem_of(answer)
    progress.failed += 1
    if progress.failed >= retry.tries or not is_worth_retrying(problem.status, problem.code):
        raise problem
    header: str | None = answer.headers.get("Retry-After")
    return header


def messages(lines: Iterable[str]) -> Iterator[str]:
    """The data of each complete message; comments and an incomplete last message are skipped."""
    data: list[str] = []
    for line in lines:
        if not line:
            if data:
                yield "\n".join(data)
            data = []
            continue
        name, _, value = line.partition(":")
        if name == "data":
            data.append(value.removeprefix(" "))
