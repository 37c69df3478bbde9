"""/v1/admin/tenants/{tenant_id}/api-keys: keys of a tenant, made and revoked by operators."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from services.api.admin.tenants import find_tenant
from services.api.api_keys.presenting import facts_of, key_shape, new_key_shape
from services.api.api_keys.shapes import ApiKey, ApiKeyRequest, NewApiKey
from services.api.auditing import AuthorDep
from services.api.idempotency import CreatingRequest, IdempotencyKey, create_once
from services.api.paging import After, Limit, Page, check_cursor, page_of
from services.api.routing import OperatorRoute
from services.api.scopes import ADMIN, needs_operator
from services.api.service import ServiceDep
from services.api.shapes import KeyId, TenantId
from services.domain.errors import NotFoundError
from services.domain.ids import is_id
from services.store import api_keys, audit
from services.store.database import Connection

router = APIRouter(
    prefix=f"{ADMIN}/tenants/{{tenant_id}}", tags=["operators"], route_class=OperatorRoute
)


@router.get("/api-keys", openapi_extra=needs_operator(NotFoundError))
def list_tenant_keys(
    tenant_id: TenantId, service: ServiceDep, limit: Limit = 20, after: After[KeyId] = None
) -> Page[ApiKey]:
    """Newest first, without those that were revoked."""
    cursor = check_cursor(after, "key")
    with service.unscoped.transaction() as conn:
        find_tenant(conn, tenant_id)
        rows = api_keys.list_page(conn, tenant_id, limit + 1, cursor)
    collection = _collection(tenant_id)
    return page_of(rows, limit, lambda row: key_shape(row, collection), lambda row: row.key_id)


@router.post(
    "/api-keys",
    status_code=201,
    response_model=NewApiKey,
    openapi_extra=needs_operator(NotFoundError),
)
def create_tenant_key(
    tenant_id: TenantId,
    body: ApiKeyRequest,
    *,
    service: ServiceDep,
    author: AuthorDep,
    request: Request,
    key: IdempotencyKey = None,
) -> JSONResponse:
    """A new key: 201, and this once its ``secret``; for the tenant's first owner unless said."""
    with service.unscoped.transaction() as conn:
        find_tenant(conn, tenant_id)
    creating = CreatingRequest(
        service=service,
        tenant_id=tenant_id,
        path=_collection(tenant_id),
        key=key,
        fingerprint=request.state.fingerprint,
    )

    def insert(conn: Connection, _: None) -> NewApiKey:
        key, secret = api_keys.create(
            conn,
            tenant_id,
            service.key_pepper,
            name=body.name,
            member_id=body.member_id,
            scopes=body.scopes,
            expires_at=body.expires_at,
        )
        audit.record(conn, tenant_id, author, "key.created", key.key_id, data=facts_of(key))
        return new_key_shape(key, secret, creating.path)

    return create_once(creating, lambda: None, insert, shown_once=["secret"])


@router.get("/api-keys/{key_id}", openapi_extra=needs_operator(NotFoundError))
def get_tenant_key(tenant_id: TenantId, key_id: KeyId, service: ServiceDep) -> ApiKey:
    """404 where there is none, or it was revoked."""
    with service.unscoped.transaction() as conn:
        _find(conn, tenant_id, key_id)
        return key_shape(api_keys.get(conn, tenant_id, key_id), _collection(tenant_id))


@router.delete(
    "/api-keys/{key_id}",
    status_code=204,
    response_class=Response,
    openapi_extra=needs_operator(NotFoundError),
)
def revoke_tenant_key(
    tenant_id: TenantId, key_id: KeyId, service: ServiceDep, author: AuthorDep
) -> None:
    """The key stops working at once; repeating it is harmless."""
    with service.unscoped.transaction() as conn:
        _find(conn, tenant_id, key_id)
        api_keys.revoke(conn, tenant_id, key_id)
        audit.record(conn, tenant_id, author, "key.revoked", key_id)


def _find(conn: Connection, tenant_id: str, key_id: str) -> None:
    find_tenant(conn, tenant_id)
    if not is_id(key_id, "key"):
        raise NotFoundError("key", key_id)


def _collection(tenant_id: str) -> str:
    return f"{ADMIN}/tenants/{tenant_id}/api-keys"
