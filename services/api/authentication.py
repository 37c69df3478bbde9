"""Who sends a request, and whether it may send one more: API keys, request rates, key guesses."""

from collections.abc import Callable
from typing import Final, TypeVar

import structlog
from fastapi import Request
from starlette.concurrency import run_in_threadpool

from services.api.errors import RateLimitedError, UnauthenticatedError, WrongKeyError
from services.api.http.connections import client_of
from services.api.service import Service
from services.domain.access import Actor, Operator, RemoteWorker
from services.domain.api_keys import KeyKind, kind_of
from services.domain.quotas import Quotas
from services.domain.request_rates import WINDOW_S, RatePolicy, Taken
from services.store import api_keys, request_rates
from services.store.database import Connection

A = TypeVar("A", Actor, Operator, RemoteWorker)
TakeToken = Callable[[Connection, str, RatePolicy, Quotas], tuple[A, Taken] | None]

_WRONG_KEY: Final[dict[KeyKind, str]] = {
    "rv_": "This address needs a tenant's API key (rv_…). An operator's works under /v1/admin.",
    "rvo_": "This address needs an operator's key (rvo_…). A tenant's works everywhere else.",
    "rvw_": "This address needs a remote worker's key (rvw_…).",
}


async def authenticate(request: Request, policy: RatePolicy) -> tuple[Actor, Taken]:
    """Put ``tenant_id``, ``actor`` and the headers of the request rate into the request's state.

    Refuse the request where its tenant has none left. Raises UnauthenticatedError, WrongKeyError,
    or RateLimitedError where the address has sent too many unknown keys.
    """
    key = _key_of(request, "rv_")
    actor, taken = await _check(request, key, policy, request_rates.take)
    _service(request).key_guesses.note_valid(key, actor.tenant_id)
    request.state.tenant_id, request.state.actor = actor.tenant_id, actor
    structlog.contextvars.bind_contextvars(tenant_id=actor.tenant_id, key_id=actor.key_id)
    return actor, taken


async def authenticate_operator(request: Request, policy: RatePolicy) -> tuple[Operator, Taken]:
    """As ``authenticate``, for an operator's key: puts ``operator`` into the request's state."""
    key = _key_of(request, "rvo_")
    operator, taken = await _check(request, key, policy, request_rates.take_as_operator)
    _service(request).key_guesses.note_valid(key, operator.key_id)
    request.state.operator = operator
    structlog.contextvars.bind_contextvars(key_id=operator.key_id)
    return operator, taken


async def authenticate_worker(request: Request, policy: RatePolicy) -> tuple[RemoteWorker, Taken]:
    """As ``authenticate``, for a remote worker's key: puts ``worker`` into the request's state."""
    key = _key_of(request, "rvw_")
    worker, taken = await _check(request, key, policy, request_rates.take_as_worker)
    _service(request).key_guesses.note_valid(key, worker.key_id)
    request.state.worker = worker
    structlog.contextvars.bind_contextvars(key_id=worker.key_id, worker_id=worker.worker_id)
    return worker, taken


async def _check(
    request: Request, key: str, policy: RatePolicy, take: TakeToken[A]
) -> tuple[A, Taken]:
    service = _service(request)
    client = client_of(request.client.host) if request.client else ""
    _check_guesses(service, client, key)
    owner = service.key_guesses.owner_of(key) or f"client {client}"
    async with service.places.keys.one_for(owner):
        _check_guesses(service, client, key)  # others of this address were answered meanwhile
        found = await run_in_threadpool(_take, service, key, policy, take)
    if found is None:
        service.key_guesses.note_unknown(client, key)
        raise UnauthenticatedError("This API key is unknown, has expired, or was revoked.")
    request.state.headers = _headers(found[1])
    return found


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _check_guesses(service: Service, client: str, key: str) -> None:
    if wait_s := service.key_guesses.wait_s(client, key):
        raise RateLimitedError(
            "This address has sent too many unknown API keys. Check the key.", retry_after_s=wait_s
        )


def too_many_requests(taken: Taken) -> RateLimitedError | None:
    """Why a request is refused for which there was no token; None where there was one."""
    if taken.is_allowed:
        return None
    return RateLimitedError(
        f"The tenant may send {taken.capacity:,} requests a minute of the kind {taken.policy}.",
        retry_after_s=taken.retry_after_s,
    )


def _key_of(request: Request, needed: KeyKind) -> str:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise UnauthenticatedError(f"Send an API key: Authorization: Bearer {needed}…")
    kind = kind_of(key)
    if kind is None:
        raise UnauthenticatedError("This is no API key: a character is wrong or missing.")
    if kind != needed:
        raise WrongKeyError(_WRONG_KEY[needed])
    return key


def _take(
    service: Service, key: str, policy: RatePolicy, take: TakeToken[A]
) -> tuple[A, Taken] | None:
    key_hmac = api_keys.digest(service.key_pepper, key)
    with service.unscoped.autocommit() as conn:
        return take(conn, key_hmac, policy, service.settings.quotas)


def _headers(taken: Taken) -> dict[str, str]:
    """As in draft-ietf-httpapi-ratelimit-headers: q and w are the policy, r and t what is left."""
    return {
        "RateLimit-Policy": f'"{taken.policy}";q={taken.capacity};w={WINDOW_S}',
        "RateLimit": f'"{taken.policy}";r={taken.remaining};t={taken.full_after_s}',
    }
