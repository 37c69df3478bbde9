"""Who sends a request, and whether it may send one more: API keys, request rates, key guesses."""

import re
from typing import Final

import structlog
from fastapi import Request
from starlette.concurrency import run_in_threadpool

from services.api.errors import RateLimitedError, UnauthenticatedError
from services.api.http.connections import client_of
from services.api.service import Service
from services.domain.request_rates import WINDOW_S, RatePolicy, Taken
from services.store import request_rates

_API_KEY: Final = re.compile(r"rv_[A-Za-z0-9_-]{16,128}")


async def authenticate(request: Request, policy: RatePolicy) -> Taken:
    """Put ``tenant_id`` and the headers of its request rate into the request's state.

    Refuse the request where its tenant has none left. Raises UnauthenticatedError, or
    RateLimitedError where the address has sent too many unknown keys.
    """
    service: Service = request.app.state.service
    key = _key_of(request)
    client = client_of(request.client.host) if request.client else ""
    _check_guesses(service, client, key)
    owner = service.key_guesses.tenant_of(key) or f"client {client}"
    async with service.places.keys.one_for(owner):
        _check_guesses(service, client, key)  # others of this address were answered meanwhile
        taken = await run_in_threadpool(_take, service, key, policy)
    if taken is None:
        service.key_guesses.note_unknown(client, key)
        raise UnauthenticatedError("This API key is unknown, or was revoked.")
    service.key_guesses.note_valid(key, taken.tenant_id)
    request.state.tenant_id = taken.tenant_id
    structlog.contextvars.bind_contextvars(tenant_id=taken.tenant_id)
    request.state.headers = _headers(taken)
    return taken


def _check_guesses(service: Service, client: str, key: str) -> None:
    if wait_s := service.key_guesses.wait_s(client, key):
        raise RateLimitedError(
            "This address has sent too many unknown API keys. Check the key.", retry_after_s=wait_s
        )


def too_many_requests(taken: Taken) -> RateLimitedError:
    """The refusal of a tenant's request."""
    return RateLimitedError(
        f"The tenant may send {taken.capacity:,} requests a minute of the kind {taken.policy}.",
        retry_after_s=taken.retry_after_s,
    )


def _key_of(request: Request) -> str:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or _API_KEY.fullmatch(key) is None:
        raise UnauthenticatedError("Send an API key: Authorization: Bearer rv_…")
    return key


def _take(service: Service, key: str, policy: RatePolicy) -> Taken | None:
    with service.unscoped.autocommit() as conn:
        return request_rates.take(conn, key, policy, service.settings.quotas)


def _headers(taken: Taken) -> dict[str, str]:
    """As in draft-ietf-httpapi-ratelimit-headers: q and w are the policy, r and t what is left."""
    return {
        "RateLimit-Policy": f'"{taken.policy}";q={taken.capacity};w={WINDOW_S}',
        "RateLimit": f'"{taken.policy}";r={taken.remaining};t={taken.full_after_s}',
    }
