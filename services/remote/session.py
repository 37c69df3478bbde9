"""A remote worker's requests to the service, each sent once: the trainer itself repeats them."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import httpx

from services.client.call import Call, json_object, part
from services.client.errors import ClientError, ProblemError
from services.client.retry import Retry
from services.client.transport import Transport
from services.domain.errors import LeaseLostError
from services.domain.ledger import LedgerDownError

T = TypeVar("T")
Json = dict[str, Any]

PATH: Final = "/v1/worker"
KEY_REFUSED: Final = frozenset({"unauthenticated", "wrong_key"})
"""Codes of problems: the key is unknown, revoked, expired, or of another kind."""
_ONCE: Final = Retry(tries=1)
_TIMEOUT: Final = httpx.Timeout(15.0, connect=5.0)
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class InsecureUrlError(ClientError):
    """The address is not HTTPS: others could read the key and the tenant's data."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trust:
    """Whom a remote worker believes to be the service and its object store."""

    ca_file: Path | None = None
    """PEM certificates that are trusted beside the usual ones."""
    allow_http: bool = False
    """Use addresses that are not HTTPS, on a network that is private by other means."""

    def context(self) -> ssl.SSLContext:
        """Verifies certificates; raises ClientError where ``ca_file`` cannot be read."""
        context = httpx.create_ssl_context()
        if self.ca_file is not None:
            try:
                context.load_verify_locations(cafile=self.ca_file)
            except (OSError, ssl.SSLError) as error:
                raise ClientError(f"--ca-file {self.ca_file} cannot be read: {error}") from error
        return context

    def check(self, url: str) -> None:
        """Raise InsecureUrlError for an address that others could read."""
        parts = urlsplit(url)
        if parts.scheme != "https" and parts.hostname not in _LOOPBACK and not self.allow_http:
            address = f"{parts.scheme}://{parts.netloc}"
            raise InsecureUrlError(
                f"{address} is not https://…: others could read the key and the data. "
                "On a private network, allow it with --allow-http."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A run and the fence of its claim."""

    run_id: str
    fence: int


class WorkerSession:
    """Sends requests with a worker's key; safe to share among threads."""

    def __init__(
        self, url: str, key: str, trust: Trust, *, timeout: httpx.Timeout = _TIMEOUT
    ) -> None:
        """Raises InsecureUrlError, and ClientError for an address or a key that cannot be used."""
        trust.check(url)
        self.trust = trust
        self._transport = Transport(url, key, _ONCE, timeout=timeout, verify=trust.context())
        self.held: Held | None = None
        """The last claim; it may be over."""
        self.is_refused = False
        """Whether the service has refused the key."""

    def ask_as_client(self, call: Call[T]) -> T:
        """Send it once; raises ClientError."""
        return self._transport.send(call)

    def send(self, call: Call[T], *, held: Held | None = None) -> T:
        """Send it once.

        Raises LedgerDownError where the service gave no answer of its own: the request may have
        been done. Raises LeaseLostError where the run is not held or the key is refused, and
        ProblemError for every other refusal.
        """
        try:
            return self._transport.send(call)
        except ProblemError as error:
            if error.code in KEY_REFUSED:
                self.is_refused = True
            if held is not None and (error.code == "lease_lost" or error.code in KEY_REFUSED):
                raise LeaseLostError(run_id=held.run_id, fence=held.fence) from error
            if error.code in KEY_REFUSED or _may_pass(error):
                raise LedgerDownError(f"the service answered {error.status}") from error
            raise
        except ClientError as error:  # no answer, or not the service's
            raise LedgerDownError(str(error)) from error

    def ask(self, action: str, held: Held, body: Json) -> Json:
        """An action on a claimed run, whose answer is a JSON object or nothing."""
        call = Call(
            method="POST",
            path=run_path(held.run_id, action),
            body={"fence": held.fence, **body},
            read=json_object,
        )
        answer: Json = self.send(call, held=held)
        return answer


def run_path(run_id: str, action: str) -> str:
    """The path of an action on a run."""
    return f"{PATH}/runs/{part(run_id)}:{action}"


def _may_pass(error: ProblemError) -> bool:
    """A code like ``http_404`` is of an answer that the service did not give, such as a proxy's."""
    is_of_proxy = error.code == f"http_{error.status}"
    return error.status >= 500 or error.status in (408, 429) or is_of_proxy
