"""/v1/admin/tenants: create, list, show, change; and the members of one."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from services.api.admin.presenting import summary_shape, tenant_shape
from services.api.admin.shapes import Tenant, TenantChanges, TenantRequest, TenantSummary, given
from services.api.auditing import AuthorDep
from services.api.idempotency import IdempotencyKey
from services.api.members.presenting import member_shape
from services.api.members.shapes import Member
from services.api.paging import After, Limit, Page, check_cursor, page_of
from services.api.routing import OperatorRoute
from services.api.scopes import ADMIN, needs_operator
from services.api.service import Service, ServiceDep
from services.api.shapes import MemberId, TenantId
from services.domain.errors import NotFoundError
from services.domain.ids import is_id
from services.store import audit, members, quotas, tenants
from services.store.database import Connection
from services.store.tenants import Tenant as TenantRow

router = APIRouter(prefix=ADMIN, tags=["operators"], route_class=OperatorRoute)


@router.get("/tenants", openapi_extra=needs_operator())
def list_tenants(
    service: ServiceDep, limit: Limit = 20, after: After[TenantId] = None
) -> Page[TenantSummary]:
    """Newest first."""
    cursor = check_cursor(after, "ten")
    with service.unscoped.transaction() as conn:
        rows = tenants.list_page(conn, limit + 1, cursor)
    return page_of(rows, limit, summary_shape, lambda row: row.tenant_id)


@router.post("/tenants", status_code=201, response_model=Tenant, openapi_extra=needs_operator())
def create_tenant(
    body: TenantRequest, service: ServiceDep, author: AuthorDep, key: IdempotencyKey = None
) -> JSONResponse:
    """A new tenant with one owner: 201. The owner's first key is made at ``…/api-keys``.

    One Idempotency-Key makes one tenant, however often it is sent.
    """
    with service.unscoped.transaction() as conn:
        tenant_id, is_new = tenants.create_once(conn, body.name, key)
        if is_new:
            _set(conn, tenant_id, {"weight": body.weight, "quotas": given(body.quotas)})
            audit.record(conn, tenant_id, author, "tenant.created", tenant_id)
        tenant = _shape(service, conn, tenants.get(conn, tenant_id))
    headers = {"Location": f"{ADMIN}/tenants/{tenant_id}"}
    if key is None:
        headers["Idempotency-Key-Missing"] = "true"
    elif not is_new:
        headers["Idempotent-Replayed"] = "true"
    return JSONResponse(tenant.model_dump(mode="json"), 201, headers=headers)


@router.get("/tenants/{tenant_id}", openapi_extra=needs_operator(NotFoundError))
def get_tenant(tenant_id: TenantId, service: ServiceDep) -> Tenant:
    """With its quotas and what is used of them."""
    with service.unscoped.transaction() as conn:
        return _shape(service, conn, find_tenant(conn, tenant_id))


@router.patch("/tenants/{tenant_id}", openapi_extra=needs_operator(NotFoundError))
def change_tenant(
    tenant_id: TenantId, body: TenantChanges, service: ServiceDep, author: AuthorDep
) -> Tenant:
    """Set the name, the weight, or some quotas, from now on; a quota of null is the default."""
    with service.unscoped.transaction() as conn:
        find_tenant(conn, tenant_id)
        changes = given(body)
        _set(conn, tenant_id, changes)
        tenant = _shape(service, conn, tenants.get(conn, tenant_id))
        data = {"changed": changed_names(changes)}
        audit.record(conn, tenant_id, author, "tenant.changed", tenant_id, data=data)
        return tenant


@router.get("/tenants/{tenant_id}/members", openapi_extra=needs_operator(NotFoundError))
def list_tenant_members(
    tenant_id: TenantId, service: ServiceDep, limit: Limit = 20, after: After[MemberId] = None
) -> Page[Member]:
    """Newest first."""
    cursor = check_cursor(after, "mem")
    with service.unscoped.transaction() as conn:
        find_tenant(conn, tenant_id)
        rows = members.list_page(conn, tenant_id, limit + 1, cursor)
    return page_of(rows, limit, member_shape, lambda row: row.member_id)


def find_tenant(conn: Connection, tenant_id: str) -> TenantRow:
    """Raises NotFoundError, also where the text cannot be an id."""
    check_tenant_id(tenant_id)
    return tenants.get(conn, tenant_id)


def check_tenant_id(tenant_id: str) -> None:
    """Raises NotFoundError where the text cannot be an id."""
    if not is_id(tenant_id, "ten"):
        raise NotFoundError("tenant", tenant_id)


def changed_names(changes: Mapping[str, Any]) -> list[str]:
    """What was changed, for the audit log: such as ``weight`` and ``quotas.uploads``."""
    named = [name for name in changes if name != "quotas"]
    return named + [f"quotas.{name}" for name in changes.get("quotas") or ()]


def _set(conn: Connection, tenant_id: str, changes: dict[str, Any]) -> None:
    if "name" in changes:
        tenants.set_name(conn, tenant_id, changes["name"])
    if "weight" in changes:
        tenants.set_weight(conn, tenant_id, changes["weight"])
    if changes.get("quotas"):
        quotas.change(conn, tenant_id, changes["quotas"])


def _shape(service: Service, conn: Connection, row: TenantRow) -> Tenant:
    return tenant_shape(row, quotas.read(conn, row.tenant_id, service.settings.quotas))
