"""Idempotency keys for every POST that creates something.

The work is done first, with no transaction open: planning a run may take seconds. Then one short
transaction writes the idempotency key, the new row and the answer, or none of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar

from fastapi import Depends, Header, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from services.api.service import Service, ServiceDep, TenantDep
from services.store import idempotency
from services.store.database import Connection
from services.store.idempotency import KeyScope, Replay
from trainer_core.faultpoints import fault_point

P = TypeVar("P")

_METHOD: Final = "POST"


@dataclass(frozen=True, kw_only=True, slots=True)
class CreatingRequest:
    """A POST that creates something, with its idempotency key (None where it has none)."""

    service: Service
    tenant_id: str
    path: str
    key: str | None
    fingerprint: str
    """SHA-256 of the body."""


IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="Any text of your own; the same request with the same key is done once.",
        # What HTTP can send; the spaces around a header are not part of it.
        json_schema_extra={
            "pattern": r"^[!-~\u0080-\u00ff]([ -~\u0080-\u00ff]*[!-~\u0080-\u00ff])?$"
        },
    ),
]


async def creating_request(
    request: Request, service: ServiceDep, tenant_id: TenantDep, key: IdempotencyKey = None
) -> CreatingRequest:
    """Dependency: the request in the form that ``create_once`` takes."""
    return CreatingRequest(
        service=service,
        tenant_id=tenant_id,
        path=request.url.path,
        key=key,
        fingerprint=request.state.fingerprint,
    )


CreatingDep = Annotated[CreatingRequest, Depends(creating_request)]


def create_once(
    request: CreatingRequest,
    prepare: Callable[[], P],
    insert: Callable[[Connection, P], BaseModel],
    *,
    collection: str | None = None,
    shown_once: Sequence[str] = (),
) -> JSONResponse:
    """201 with the new object, or the stored response to the first request with this key.

    Two requests with one key may prepare at the same time; the first to insert wins, and the other
    gets the same response. A refused request leaves its key unused.

    Args:
        prepare: all checks and work that need no lock; may open short transactions of its own.
        insert: writes the row in the transaction of the key. Time has passed since ``prepare``, so
            it checks again what may have changed.
        collection: where the new object is, below its id; None: the address of the request.
        shown_once: fields of the answer that are not stored; a replay has null in their place.

    Raises IdempotencyMismatchError and IdempotencyInFlightError.
    """
    database = request.service.database
    collection = collection or request.path
    if request.key is None:
        prepared = prepare()
        with database.transaction(request.tenant_id) as conn:
            body = insert(conn, prepared).model_dump(mode="json")
        return _created(collection, body, {"Idempotency-Key-Missing": "true"})
    scope = KeyScope(
        tenant_id=request.tenant_id, method=_METHOD, path=request.path, key=request.key
    )
    with database.transaction(request.tenant_id) as conn:
        replay = idempotency.find(conn, scope, request.fingerprint)
    if replay is not None:
        return _replayed(collection, replay)
    try:
        prepared = prepare()
    except Exception:  # raised again, unless a request with the same key succeeded meanwhile
        with database.transaction(request.tenant_id) as conn:
            replay = idempotency.find(conn, scope, request.fingerprint)
        if replay is None:
            raise
        return _replayed(collection, replay)
    with database.transaction(request.tenant_id) as conn:
        replay = idempotency.begin(conn, scope, request.fingerprint)
        if replay is None:
            body = insert(conn, prepared).model_dump(mode="json")
            stored = {**body, **dict.fromkeys(shown_once)}
            idempotency.finish(conn, scope, status=201, body=stored)
    fault_point("request.stored")
    return _created(collection, body, {}) if replay is None else _replayed(collection, replay)


def _created(collection: str, body: dict[str, Any], headers: dict[str, str]) -> JSONResponse:
    return JSONResponse(body, 201, headers={"Location": f"{collection}/{body['id']}", **headers})


def _replayed(collection: str, replay: Replay) -> JSONResponse:
    headers = {"Location": f"{collection}/{replay.body['id']}", "Idempotent-Replayed": "true"}
    return JSONResponse(replay.body, replay.status, headers=headers)
