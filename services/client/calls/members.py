"""Members of a tenant."""

from services.client.call import Call, delete, get, page, part, patch, post
from services.client.shapes import Page
from services.client.tenant_shapes import Member, MemberChanges
from services.domain.access import Role


def list_members(*, limit: int = 20, after: str | None = None) -> Call[Page[Member]]:
    """Newest first."""
    return page("/v1/members", {"limit": limit, "after": after})


def create_member(name: str, role: Role) -> Call[Member]:
    """A new member; it needs an API key before it can do anything."""
    return post("/v1/members", {"name": name, "role": role})


def get_member(member_id: str) -> Call[Member]:
    """Its name and its role."""
    return get(f"/v1/members/{part(member_id)}")


def change_member(member_id: str, changes: MemberChanges) -> Call[Member]:
    """Set name or role; its keys may do less or more at once."""
    return patch(f"/v1/members/{part(member_id)}", changes)


def remove_member(member_id: str) -> Call[None]:
    """Remove the member and revoke its keys."""
    return delete(f"/v1/members/{part(member_id)}")
