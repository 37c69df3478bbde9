"""One HTTP call: repeated where that is safe; a failure becomes a readable error."""

import json
import time
import uuid
from collections.abc import Mapping
from typing import Any, Final, Literal

import httpx

from services.client.errors import ClientError, ProblemError, ServiceUnreachableError
from services.client.retry import Retry, is_worth_retrying

_TIMEOUT: Final = httpx.Timeout(30.0, connect=10.0)

Query = Mapping[str, str | int | None]


class Transport:
    """Sends JSON to the service with a tenant's API key."""

    def __init__(self, url: str, api_key: str, retry: Retry) -> None:
        self.url = url.rstrip("/")
        self.retry = retry
        try:
            self.http = httpx.Client(
                base_url=self.url,
                headers={"Authorization": f"Bearer {api_key}", "User-Agent": "reverie"},
                timeout=_TIMEOUT,
            )
        except (httpx.InvalidURL, UnicodeError, ValueError) as error:
            raise ClientError(f"{url!r} or its key cannot be used: {error}") from error

    def close(self) -> None:
        self.http.close()

    def get(self, path: str, query: Query | None = None) -> dict[str, Any]:
        return self._call("GET", path, query=query, body=None, headers={})

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Every try of one call sends the same Idempotency-Key, so that it happens once."""
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        return self._call("POST", path, query=None, body=body or {}, headers=headers)

    def _call(
        self,
        method: Literal["GET", "POST"],
        path: str,
        *,
        query: Query | None,
        body: Mapping[str, Any] | None,
        headers: Mapping[str, str],
    ) -> dict[str, Any]:
        given = {name: value for name, value in (query or {}).items() if value is not None}
        for failed in range(1, self.retry.tries + 1):
            is_last = failed == self.retry.tries
            retry_after = None
            try:
                answer = self.http.request(method, path, params=given, json=body, headers=headers)
            except httpx.TransportError as error:
                if is_last or not _may_pass(error):
                    raise self.unreachable(error) from error
            else:
                if answer.is_success:
                    return _object(answer)
                problem = problem_of(answer)
                if is_last or not is_worth_retrying(problem.status, problem.code):
                    raise problem
                retry_after = answer.headers.get("Retry-After")
            time.sleep(self.retry.wait_s(failed, retry_after))
        raise AssertionError("the last try returns or raises")

    def unreachable(self, error: Exception) -> ServiceUnreachableError:
        reason = str(error) or type(error).__name__
        return ServiceUnreachableError(f"the service at {self.url} cannot be reached: {reason}")


def problem_of(answer: httpx.Response) -> ProblemError:
    """The answer's problem; its body has to be read already."""
    try:
        body: object = answer.json()
    except ValueError:
        body = None
    request_id = answer.headers.get("X-Request-Id")
    return ProblemError.of_answer(answer.status_code, body, request_id=request_id)


def _may_pass(error: httpx.TransportError) -> bool:
    """Whether another try can help; a wrong scheme or a malformed header never gets right."""
    return not isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError)


def _object(answer: httpx.Response) -> dict[str, Any]:
    """The answer's JSON object; an empty body gives an empty one."""
    if not answer.content:
        return {}
    try:
        body = answer.json()
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ClientError(
            f"{answer.request.url.path} answered with something that is not JSON; "
            "is this address the service's?"
        ) from error
    if not isinstance(body, dict):
        raise ClientError(f"{answer.request.url.path} answered with JSON that is not an object")
    return body
