"""Sending calls: repeated where that is safe; a failure becomes a readable error."""

import asyncio
import re
import ssl
import time
from typing import Any, Final, TypeVar

import httpx

from services.client.call import Call
from services.client.errors import ClientError
from services.client.retry import Retry, Tries

T = TypeVar("T")

_KEY: Final = re.compile(r"[!-~]+")
_TIMEOUT: Final = httpx.Timeout(30.0, connect=10.0)


class Transport:
    """Sends JSON to the service with a tenant's API key, and waits for each answer."""

    def __init__(
        self,
        url: str,
        api_key: str,
        retry: Retry,
        *,
        timeout: httpx.Timeout = _TIMEOUT,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        self.url = url.rstrip("/")
        self.retry = retry
        try:
            settings = {**_settings(self.url, api_key), "timeout": timeout, "verify": verify}
            self.http = httpx.Client(**settings)
        except (httpx.InvalidURL, ValueError) as error:
            raise ClientError(f"{url!r} cannot be used: {error}") from error

    def send(self, call: Call[T]) -> T:
        tries = Tries(self.retry, self.url)
        while True:
            try:
                answer = self.http.send(_request(self.http, call))
            except httpx.TransportError as error:
                wait_s = tries.after_error(error)
            else:
                if is_answer(answer, call):
                    return call.read(answer)
                wait_s = tries.after_refusal(answer)
            time.sleep(wait_s)


class AsyncTransport:
    """As Transport, for asyncio."""

    def __init__(self, url: str, api_key: str, retry: Retry) -> None:
        self.url = url.rstrip("/")
        self.retry = retry
        try:
            self.http = httpx.AsyncClient(**_settings(self.url, api_key))
        except (httpx.InvalidURL, ValueError) as error:
            raise ClientError(f"{url!r} cannot be used: {error}") from error

    async def send(self, call: Call[T]) -> T:
        tries = Tries(self.retry, self.url)
        while True:
            try:
                answer = await self.http.send(_request(self.http, call))
            except httpx.TransportError as error:
                wait_s = tries.after_error(error)
            else:
                if is_answer(answer, call):
                    return call.read(answer)
                wait_s = tries.after_refusal(answer)
            await asyncio.sleep(wait_s)


def is_answer(answer: httpx.Response, call: Call[Any]) -> bool:
    """Whether the call succeeded. Raises ClientError for a redirect that it does not expect."""
    if not answer.is_redirect:
        return answer.is_success
    if not call.is_redirected:
        place = answer.headers.get("Location", "another place")
        raise ClientError(f"{answer.request.url} redirects to {place}: use that address")
    return True


def _settings(url: str, api_key: str) -> dict[str, Any]:
    # Checked here: what the HTTP library says of a header that it cannot send has its value.
    if not _KEY.fullmatch(api_key):
        raise ClientError(
            "the key is empty, or has a space, a line break or another character that no key "
            "has (it is not shown here)"
        )
    if httpx.URL(url).scheme not in {"http", "https"}:
        raise ClientError(f"{url!r} is no address of a service: it begins with https:// or http://")
    return {
        "base_url": url,
        "headers": {"Authorization": f"Bearer {api_key}", "User-Agent": "reverie"},
        "timeout": _TIMEOUT,
    }


def _request(http: httpx.Client | httpx.AsyncClient, call: Call[Any]) -> httpx.Request:
    query = {name: value for name, value in call.query.items() if value is not None}
    return http.build_request(
        call.method,
        call.path,
        params=query,
        json=call.body,
        headers=call.headers,
        timeout=_later(http.timeout, call.waits_s),
    )


def _later(usual: httpx.Timeout, waits_s: float) -> httpx.Timeout:
    """The usual times, with so much more until the answer."""
    read_s = None if usual.read is None else usual.read + waits_s
    return httpx.Timeout(connect=usual.connect, read=read_s, write=usual.write, pool=usual.pool)
