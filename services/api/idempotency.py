"""One mechanism for all creating POSTs: the key and the row are written in one transaction."""

from collections.abc import Callable
from typing import Annotated, TypeAlias

from fastapi import Header, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from services.api.service import Service
from services.store import idempotency
from services.store.database import Connection

IdempotencyKey: TypeAlias = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="Any text of your own; the same request with the same key is done once.",
    ),
]


def create_once(
    service: Service,
    request: Request,
    tenant_id: str,
    key: str | None,
    create: Callable[[Connection], BaseModel],
) -> JSONResponse:
    """201 and what ``create`` made, or the answer that the first request with this key got.

    What ``create`` raises rolls everything back, so a refused request leaves its key unused.
    Raises IdempotencyMismatchError and IdempotencyInFlightError.
    """
    path = request.url.path
    with service.database.transaction() as conn:
        if key is None:
            body = create(conn).model_dump(mode="json")
        else:
            replay = idempotency.begin(
                conn, tenant_id, "POST", path, key, request.state.fingerprint
            )
            if replay is not None:
                replayed = {
                    "Location": f"{path}/{replay.body['id']}",
                    "Idempotent-Replayed": "true",
                }
                return JSONResponse(replay.body, replay.status, headers=replayed)
            body = create(conn).model_dump(mode="json")
            idempotency.finish(conn, tenant_id, "POST", path, key, status=201, body=body)
    headers = {"Location": f"{path}/{body['id']}"}
    if key is None:
        headers["Idempotency-Key-Missing"] = "true"
    return JSONResponse(body, 201, headers=headers)
