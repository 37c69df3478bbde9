"""/v1/api-keys: list, create, rotate and revoke. A member sees its own keys, an owner sees all."""

from datetime import timedelta
from typing import Final

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from services.api.api_keys.limits import check_member, check_rotation, check_scopes
from services.api.api_keys.presenting import facts_of, key_shape, new_key_shape
from services.api.api_keys.shapes import ApiKey, ApiKeyRequest, NewApiKey, RotateRequest
from services.api.auditing import AuthorDep
from services.api.idempotency import CreatingDep, create_once
from services.api.paging import After, Limit, Page, check_cursor, page_of
from services.api.routing import TenantRoute
from services.api.scopes import needs
from services.api.service import ActorDep, ServiceDep
from services.api.shapes import KeyId
from services.domain.errors import KeyNotActiveError, NotFoundError
from services.domain.ids import is_id
from services.store import api_keys, audit
from services.store.database import Connection

_ROTATE: Final = RotateRequest()
router = APIRouter(prefix="/v1", tags=["api keys"], route_class=TenantRoute)


@router.get("/api-keys", openapi_extra=needs("keys:read"))
def list_keys(
    service: ServiceDep, actor: ActorDep, limit: Limit = 20, after: After[KeyId] = None
) -> Page[ApiKey]:
    """Newest first, without those that were revoked."""
    cursor = check_cursor(after, "key")
    with service.database.transaction(actor.tenant_id) as conn:
        rows = api_keys.list_page(conn, actor.tenant_id, limit + 1, cursor, member_id=actor.keys_of)
    return page_of(rows, limit, key_shape, lambda row: row.key_id)


@router.post(
    "/api-keys",
    status_code=201,
    response_model=NewApiKey,
    openapi_extra=needs("keys:write", NotFoundError),
)
def create_key(
    body: ApiKeyRequest,
    service: ServiceDep,
    actor: ActorDep,
    author: AuthorDep,
    request: CreatingDep,
) -> JSONResponse:
    """A new key: 201, and this once its ``secret``. 422 where it would have more than its maker.

    404 for the member. A replay of the request has null as its secret, since the service does not
    keep it.
    """

    def prepare() -> tuple[str | None, list[str] | None]:
        return check_member(actor, body.member_id), check_scopes(actor, body.scopes)

    def insert(conn: Connection, checked: tuple[str | None, list[str] | None]) -> NewApiKey:
        member_id, scopes = checked
        key, secret = api_keys.create(
            conn,
            actor.tenant_id,
            service.key_pepper,
            name=body.name,
            member_id=member_id,
            scopes=scopes,
            expires_at=body.expires_at,
        )
        audit.record(conn, actor.tenant_id, author, "key.created", key.key_id, data=facts_of(key))
        return new_key_shape(key, secret)

    return create_once(request, prepare, insert, shown_once=["secret"])


@router.get("/api-keys/{key_id}", openapi_extra=needs("keys:read", NotFoundError))
def get_key(key_id: KeyId, service: ServiceDep, actor: ActorDep) -> ApiKey:
    """404 where there is none, it was revoked, or it is another tenant's or member's."""
    _check_id(key_id)
    with service.database.transaction(actor.tenant_id) as conn:
        return key_shape(api_keys.get(conn, actor.tenant_id, key_id, member_id=actor.keys_of))


@router.delete(
    "/api-keys/{key_id}",
    status_code=204,
    response_class=Response,
    openapi_extra=needs("keys:write", NotFoundError),
)
def revoke_key(key_id: KeyId, service: ServiceDep, actor: ActorDep, author: AuthorDep) -> None:
    """The key stops working at once, also where it is the one of this request.

    Repeating it is harmless.
    """
    _check_id(key_id)
    with service.database.transaction(actor.tenant_id) as conn:
        api_keys.revoke(conn, actor.tenant_id, key_id, member_id=actor.keys_of)
        audit.record(conn, actor.tenant_id, author, "key.revoked", key_id)


@router.post(
    "/api-keys/{key_id}:rotate",
    status_code=201,
    response_model=NewApiKey,
    openapi_extra=needs("keys:write", NotFoundError, KeyNotActiveError),
)
def rotate_key(
    key_id: KeyId,
    *,
    service: ServiceDep,
    actor: ActorDep,
    author: AuthorDep,
    request: CreatingDep,
    body: RotateRequest = _ROTATE,
) -> JSONResponse:
    """A new key in the place of this one: 201. Both work until the grace time is over.

    409 ``key_not_active`` where the key has expired or was rotated before.
    """

    def prepare() -> None:
        _check_id(key_id)

    def insert(conn: Connection, _: None) -> NewApiKey:
        old = api_keys.get(conn, actor.tenant_id, key_id, member_id=actor.keys_of)
        check_rotation(actor, old.scopes)
        key, secret = api_keys.rotate(
            conn,
            actor.tenant_id,
            service.key_pepper,
            old,
            grace=timedelta(seconds=body.grace_s),
            expires_at=body.expires_at,
        )
        data = {"replaced_by": key.key_id}
        audit.record(conn, actor.tenant_id, author, "key.rotated", key_id, data=data)
        return new_key_shape(key, secret)

    return create_once(request, prepare, insert, collection="/v1/api-keys", shown_once=["secret"])


def _check_id(key_id: str) -> None:
    if not is_id(key_id, "key"):
        raise NotFoundError("key", key_id)
