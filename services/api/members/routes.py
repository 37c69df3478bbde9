"""/v1/members: who acts for the tenant, and in which role."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from services.api.auditing import AuthorDep
from services.api.idempotency import CreatingDep, create_once
from services.api.members.presenting import member_shape
from services.api.members.shapes import Member, MemberChanges, MemberRequest
from services.api.paging import After, Limit, Page, check_cursor, page_of
from services.api.routing import TenantRoute
from services.api.scopes import needs
from services.api.service import ServiceDep, TenantDep
from services.api.shapes import MemberId
from services.domain.errors import LastOwnerError, NotFoundError
from services.domain.ids import is_id
from services.store import audit, members
from services.store.database import Connection

router = APIRouter(prefix="/v1", tags=["members"], route_class=TenantRoute)


@router.get("/members", openapi_extra=needs("members:read"))
def list_members(
    service: ServiceDep, tenant_id: TenantDep, limit: Limit = 20, after: After[MemberId] = None
) -> Page[Member]:
    """Newest first."""
    cursor = check_cursor(after, "mem")
    with service.database.transaction(tenant_id) as conn:
        rows = members.list_page(conn, tenant_id, limit + 1, cursor)
    return page_of(rows, limit, member_shape, lambda row: row.member_id)


@router.post(
    "/members", status_code=201, response_model=Member, openapi_extra=needs("members:write")
)
def create_member(
    body: MemberRequest, tenant_id: TenantDep, author: AuthorDep, request: CreatingDep
) -> JSONResponse:
    """A new member: 201. It can do nothing before it has an API key."""

    def insert(conn: Connection, _: None) -> Member:
        member = members.create(conn, tenant_id, name=body.name, role=body.role)
        data = {"role": member.role}
        audit.record(conn, tenant_id, author, "member.created", member.member_id, data=data)
        return member_shape(member)

    return create_once(request, lambda: None, insert)


@router.get("/members/{member_id}", openapi_extra=needs("members:read", NotFoundError))
def get_member(member_id: MemberId, service: ServiceDep, tenant_id: TenantDep) -> Member:
    """404 where there is none, it was removed, or it is another tenant's."""
    _check_id(member_id)
    with service.database.transaction(tenant_id) as conn:
        return member_shape(members.get(conn, tenant_id, member_id))


@router.patch(
    "/members/{member_id}", openapi_extra=needs("members:write", NotFoundError, LastOwnerError)
)
def change_member(
    member_id: MemberId,
    body: MemberChanges,
    service: ServiceDep,
    tenant_id: TenantDep,
    author: AuthorDep,
) -> Member:
    """Set the name or the role. What the member's keys may do follows with their next request.

    409 ``last_owner`` where the tenant would have no owner.
    """
    _check_id(member_id)
    changes = body.model_dump(exclude_unset=True)
    with service.database.transaction(tenant_id) as conn:
        member = members.change(conn, tenant_id, member_id, changes)
        data = {"changed": sorted(changes), "role": member.role}
        audit.record(conn, tenant_id, author, "member.changed", member_id, data=data)
        return member_shape(member)


@router.delete(
    "/members/{member_id}",
    status_code=204,
    response_class=Response,
    openapi_extra=needs("members:write", NotFoundError, LastOwnerError),
)
def remove_member(
    member_id: MemberId, service: ServiceDep, tenant_id: TenantDep, author: AuthorDep
) -> None:
    """The member is gone and its keys are revoked at once; repeating it is harmless.

    409 ``last_owner`` where the tenant would have no owner.
    """
    _check_id(member_id)
    with service.database.transaction(tenant_id) as conn:
        members.remove(conn, tenant_id, member_id)
        audit.record(conn, tenant_id, author, "member.removed", member_id)


def _check_id(member_id: str) -> None:
    if not is_id(member_id, "mem"):
        raise NotFoundError("member", member_id)
