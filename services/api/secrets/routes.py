"""/v1/secrets: store, list, show and delete secrets; their values are never shown.

A value is sealed as soon as it is read. These requests take no Idempotency-Key: the table of those
keeps a digest of the body, from which a short value could be guessed.
"""

from fastapi import APIRouter, Response

from services.api.auditing import AuthorDep
from services.api.errors import SecretsOffError
from services.api.paging import After, Limit, Page, check_cursor, page_of
from services.api.scopes import needs
from services.api.secrets.presenting import secret_shape
from services.api.secrets.secret_route import SecretRoute
from services.api.secrets.shapes import (
    NAME_IN_WORDS,
    Secret,
    SecretId,
    SecretPath,
    SecretRequest,
    is_secret_name,
)
from services.api.service import ServiceDep, TenantDep
from services.domain.audit import Facts
from services.domain.errors import InvalidRequestError, NotFoundError, Problem
from services.secrets.sealing import seal
from services.store import audit, metric_relays, secrets

router = APIRouter(prefix="/v1", tags=["secrets"], route_class=SecretRoute)


@router.put(
    "/secrets/{name}",
    responses={201: {"model": Secret}},
    openapi_extra=needs("secrets:write", SecretsOffError),
)
def put_secret(
    name: SecretPath,
    body: SecretRequest,
    *,
    service: ServiceDep,
    tenant_id: TenantDep,
    author: AuthorDep,
    response: Response,
) -> Secret:
    """Store a value: 201 where the name is new, 200 where it takes the place of another value.

    Publications and relays that are not finished yet use the new one, and relays that failed go
    on. A tenant has at most 50 secrets.
    """
    key = service.sealing_key
    if key is None:
        raise SecretsOffError("This service keeps no secrets: its operator has set no key for it.")
    if not is_secret_name(name):
        message = f"A name has {NAME_IN_WORDS}."
        raise InvalidRequestError([Problem(pointer="path:name", code="bad_value", message=message)])
    with service.database.transaction(tenant_id) as conn:
        row, is_new = secrets.put(
            conn, tenant_id, name, body.kind, lambda place: seal(body.value, place, key)
        )
        metric_relays.go_on(conn, tenant_id, name)
        data: Facts = {"name": row.name, "kind": row.kind, "version": row.version}
        audit.record(conn, tenant_id, author, "secret.stored", row.secret_id, data=data)
    if is_new:
        response.status_code = 201
        response.headers["Location"] = f"/v1/secrets/{name}"
    return secret_shape(row)


@router.get("/secrets", openapi_extra=needs("secrets:read"))
def list_secrets(
    service: ServiceDep, tenant_id: TenantDep, limit: Limit = 20, after: After[SecretId] = None
) -> Page[Secret]:
    """Newest first; without their values."""
    cursor = check_cursor(after, "sec")
    with service.database.transaction(tenant_id) as conn:
        rows = secrets.list_page(conn, tenant_id, limit + 1, cursor)
    return page_of(rows, limit, secret_shape, lambda row: row.secret_id)


@router.get("/secrets/{name}", openapi_extra=needs("secrets:read", NotFoundError))
def get_secret(name: SecretPath, service: ServiceDep, tenant_id: TenantDep) -> Secret:
    """What is known of a secret; never its value."""
    _check_name(name)
    with service.database.transaction(tenant_id) as conn:
        return secret_shape(secrets.get(conn, tenant_id, name))


@router.delete(
    "/secrets/{name}", status_code=204, openapi_extra=needs("secrets:write", NotFoundError)
)
def delete_secret(
    name: SecretPath, service: ServiceDep, tenant_id: TenantDep, author: AuthorDep
) -> None:
    """Delete a secret and its value. Publications and relays that still need it fail."""
    _check_name(name)
    with service.database.transaction(tenant_id) as conn:
        secret_id = secrets.delete(conn, tenant_id, name)
        data = {"name": name}
        audit.record(conn, tenant_id, author, "secret.deleted", secret_id, data=data)


def _check_name(name: str) -> None:
    if not is_secret_name(name):
        raise NotFoundError("secret", name)
