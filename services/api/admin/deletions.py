"""Deleting a tenant, and the reports of all deletions, for operators."""

from typing import Final

from fastapi import APIRouter

from services.api.admin.tenants import check_tenant_id
from services.api.auditing import AuthorDep
from services.api.deletions.presenting import deletion_shape
from services.api.deletions.routes import TenantName
from services.api.deletions.shapes import Deletion
from services.api.routing import OperatorRoute
from services.api.scopes import ADMIN, needs_operator
from services.api.service import ServiceDep
from services.api.shapes import DeletionId, TenantId
from services.domain.errors import NotFoundError
from services.domain.ids import is_id
from services.store import audit, deletions

router = APIRouter(prefix=ADMIN, tags=["operators"], route_class=OperatorRoute)

_COLLECTION: Final = f"{ADMIN}/deletions"


@router.delete("/tenants/{tenant_id}", status_code=202, openapi_extra=needs_operator(NotFoundError))
def operator_delete_tenant(
    tenant_id: TenantId, name: TenantName, service: ServiceDep, author: AuthorDep
) -> Deletion:
    """Everything of the tenant goes: 202. Repeating it is harmless.

    422 ``not_confirmed`` where the name is not the tenant's.
    """
    check_tenant_id(tenant_id)
    with service.unscoped.transaction() as conn:
        deletion, is_new = deletions.delete_tenant(conn, tenant_id, name=name)
        if is_new:
            audit.record(conn, tenant_id, author, "tenant.deletion_requested", tenant_id)
    return deletion_shape(deletion, _COLLECTION)


@router.get("/deletions/{deletion_id}", openapi_extra=needs_operator(NotFoundError))
def operator_get_deletion(deletion_id: DeletionId, service: ServiceDep) -> Deletion:
    """How far it is, and the report, also when the tenant is gone."""
    if not is_id(deletion_id, "del"):
        raise NotFoundError("deletion", deletion_id)
    with service.unscoped.transaction() as conn:
        return deletion_shape(deletions.get(conn, deletion_id, tenant_id=None), _COLLECTION)
